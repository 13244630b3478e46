/**
 * The certificate authority of the installation: rows whose private keys are sealed, opened once
 * by each replica. The first start creates it; every replica looks again each hour and rotates the
 * intermediate well before its end, so that no leaf is cut short by it. All of it happens under
 * one advisory lock: however many replicas start at once, there is one authority.
 *
 * The root's key is needed for a rotation only. An installer who keeps it elsewhere sets its
 * `sealed_key` to null and puts it back when the log asks for it.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { Database, Transaction } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import type { OnApplicationShutdown } from '@nestjs/common';
import {
  type Authority,
  createIntermediate,
  createRoot,
  IssuingAuthority,
  realSurroundings,
  type Surroundings,
} from '../certificate-authority/issuing-authority.ts';
import { openKey, sealKey } from '../certificate-authority/sealed-key.ts';
import { nextAuthorityStep } from './authority-step.ts';

const refreshPeriodMs = 3_600_000;
// The bytes of "keystead" as a number: nothing else in the database takes this lock.
const lockKey = 0x6b65797374656164n;

interface AuthorityRow {
  generation: number;
  kind: string;
  certificate: string;
  sealed_key: Uint8Array | null;
  expires_at: Date;
}

export interface AuthorityOptions {
  /** Seals the private keys. 32 bytes. */
  sealingKey: Buffer;
  trustDomain: string;
  surroundings?: Surroundings;
}

export class AuthorityKeeper implements OnApplicationShutdown {
  readonly #database: Database;
  readonly #options: AuthorityOptions;
  readonly #log: Pick<Logger, 'info' | 'warn' | 'error'>;
  readonly #timer: NodeJS.Timeout;
  #current: IssuingAuthority;

  private constructor(
    database: Database,
    options: AuthorityOptions,
    log: Pick<Logger, 'info' | 'warn' | 'error'>,
    current: IssuingAuthority,
  ) {
    this.#database = database;
    this.#options = options;
    this.#log = log;
    this.#current = current;
    this.#timer = setInterval(() => {
      this.refresh().catch((error: unknown) =>
        log.error({ err: error }, 'authority not refreshed'),
      );
    }, refreshPeriodMs).unref();
  }

  /** @throws where the sealing key is not the one the authority was sealed under */
  static async open(
    database: Database,
    options: AuthorityOptions,
    log: Pick<Logger, 'info' | 'warn' | 'error'>,
  ): Promise<AuthorityKeeper> {
    return new AuthorityKeeper(database, options, log, await load(database, options, log));
  }

  current(): IssuingAuthority {
    return this.#current;
  }

  async refresh(): Promise<void> {
    this.#current = await load(this.#database, this.#options, this.#log);
  }

  onApplicationShutdown(): void {
    clearInterval(this.#timer);
  }
}

async function load(
  database: Database,
  options: AuthorityOptions,
  log: Pick<Logger, 'info' | 'warn'>,
): Promise<IssuingAuthority> {
  const surroundings = options.surroundings ?? realSurroundings;
  return database.acrossTenants('certificate-authority', async (transaction) => {
    await transaction.$executeRaw`select pg_advisory_xact_lock(${lockKey})`;
    const rows = await transaction.$queryRaw<AuthorityRow[]>`
      select generation, kind, certificate, sealed_key, expires_at
      from registry.certificate_authority order by generation`;
    const step = nextAuthorityStep(
      rows.map((row) => ({
        kind: row.kind as 'root' | 'intermediate',
        expiresAtMs: row.expires_at.getTime(),
        hasKey: row.sealed_key !== null,
      })),
      surroundings.nowMs(),
    );
    const newest = rows.findLast((row) => row.kind === 'intermediate');
    const rootRow = rows.findLast((row) => row.kind === 'root');
    const name = `Keystead ${options.trustDomain}`;

    if (step === 'use' || step === 'use_and_warn') {
      if (!rootRow || !newest) throw new Error('the certificate authority is not complete');
      if (step === 'use_and_warn') {
        log.warn(
          { expiresAt: newest.expires_at },
          'the intermediate ends soon and the key of the root is not here to certify the next',
        );
      }
      return open(rootRow.certificate, unseal(newest, options));
    }
    if (step === 'blocked') {
      throw new Error(
        'the intermediate has ended and the key of the root is not here: put the sealed key of ' +
          'the root back into registry.certificate_authority',
      );
    }
    const root = rootRow
      ? unseal(rootRow, options)
      : await keep(await createRoot(name, surroundings), 'root', 1);
    const generation = (rows.at(-1)?.generation ?? 1) + 1;
    const intermediate = await keep(
      await createIntermediate(root, name, surroundings),
      'intermediate',
      generation,
    );
    log.info({ generation }, rootRow ? 'rotated the intermediate' : 'created the authority');
    return open(root.certificate, intermediate);

    async function keep(authority: Authority, kind: string, number: number): Promise<Authority> {
      await store(transaction, authority, kind, number, options, surroundings);
      return authority;
    }
  });

  function open(root: string, intermediate: Authority): Promise<IssuingAuthority> {
    return IssuingAuthority.open(root, intermediate, options.trustDomain, surroundings);
  }
}

const purposeOf = (kind: string, generation: number) => `${kind} ${generation}`;

async function store(
  transaction: Transaction,
  authority: Authority,
  kind: string,
  generation: number,
  { sealingKey }: AuthorityOptions,
  surroundings: Surroundings,
): Promise<void> {
  const plain = authority.privateKey.export({ type: 'pkcs8', format: 'der' });
  const sealed = sealKey(plain, sealingKey, purposeOf(kind, generation), surroundings.random);
  plain.fill(0);
  await transaction.certificateAuthority.create({
    data: {
      generation,
      kind,
      certificate: authority.certificate,
      sealedKey: new Uint8Array(sealed),
      expiresAt: new Date(new X509Certificate(authority.certificate).validTo),
    },
  });
}

function unseal(row: AuthorityRow, { sealingKey }: AuthorityOptions): Authority {
  const what = purposeOf(row.kind, row.generation);
  if (!row.sealed_key) throw new Error(`the key of ${what} is not here`);
  const opened = openKey(row.sealed_key, sealingKey, what);
  switch (opened.outcome) {
    case 'opened':
      return {
        certificate: row.certificate,
        privateKey: createPrivateKey({ key: opened.plain, format: 'der', type: 'pkcs8' }),
      };
    case 'wrong_key':
      throw new Error(`KEYSTEAD_CA_KEY is not the key that ${what} was sealed under`);
    case 'damaged':
      throw new Error(`the sealed key of ${what} is damaged`);
  }
}

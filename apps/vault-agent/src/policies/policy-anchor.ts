/**
 * Which set an agent made active last, kept in the store beside its files: whoever puts an older set, soundly
 * signed in its day, back into the folder has to change the store as well, and needs the vault's keys for
 * that, because the note is signed with a key that comes from them.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { PolicyTables } from './policy-tables.ts';

export interface AnchoredSet {
  number: number;
  digest: string;
}

/** The note is there, and not one that this vault has written. */
export class ForgedAnchor extends Error {
  constructor() {
    super(
      'what the store says of the policy set that was made active was not written by this vault',
    );
    this.name = 'ForgedAnchor';
  }
}

export class PolicyAnchor {
  readonly #store: SqlStore<PolicyTables>;
  readonly #key: Uint8Array;
  readonly #agentId: string;
  readonly #now: () => number;

  /** @param key 32 bytes derived from the vault's keys */
  constructor(options: {
    store: SqlStore<PolicyTables>;
    key: Uint8Array;
    agentId: string;
    now: () => number;
  }) {
    this.#store = options.store;
    this.#key = options.key;
    this.#agentId = options.agentId;
    this.#now = options.now;
  }

  /** Undefined where none was ever made active. @throws ForgedAnchor, and where the store does not answer */
  async read(): Promise<AnchoredSet | undefined> {
    const row = await this.#store.db
      .selectFrom('policy_anchor')
      .selectAll()
      .where('agent_id', '=', this.#agentId)
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const { number, digest } = row;
    const expected = this.#macOf({ number, digest });
    const given = Buffer.from(row.mac, 'hex');
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
      throw new ForgedAnchor();
    }
    return { number, digest };
  }

  async write({ number, digest }: AnchoredSet): Promise<void> {
    const row = {
      number,
      digest,
      mac: this.#macOf({ number, digest }).toString('hex'),
      at_ms: this.#now(),
    };
    await this.#store.write(async (queries) => {
      const mine = queries
        .updateTable('policy_anchor')
        .set(row)
        .where('agent_id', '=', this.#agentId)
        .executeTakeFirst();
      if ((await mine).numUpdatedRows > 0n) return;
      await queries
        .insertInto('policy_anchor')
        .values({ agent_id: this.#agentId, ...row })
        .execute();
    });
  }

  #macOf({ number, digest }: AnchoredSet): Buffer {
    return createHmac('sha256', this.#key)
      .update(JSON.stringify(['keystead.policy-anchor.v1', this.#agentId, number, digest]))
      .digest();
  }
}

/**
 * How fast all records of a password get another, in how much memory, on SQLite and PostgreSQL. The
 * floor opens and seals as many values with AES-256-GCM and writes them into the same rows, bare: one
 * key, no reading, no looking whether anything changed. Also what opening, reading and creating cost.
 *
 * In parts, which is how a quiet hour is used (of a million there is one round):
 *
 *   npm run bench -- rekey [--sizes 1000,10000,100000,1000000] [--store sqlite,postgresql]
 *     [--share third,all] [--rounds 3] [--use only|none]
 *
 * Ours runs as a program that does nothing else may: with a small heap for young objects. Without that,
 * Node lets it grow by some 10 MB.
 */

import { spawn } from 'node:child_process';
import {
  argon2,
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  randomBytes,
} from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { newUuid, toId } from '@keystead/contracts/ids';
import { defaultPasswordCost } from '@keystead/envelope/password';
import { makeKey } from '@keystead/vault-store/password-keys';
import { derivationBytes, sealRecord } from '@keystead/vault-store/record-format';
import { never, type VaultSchema } from '@keystead/vault-store/schema';
import { openSql, type SqlOptions } from '@keystead/vault-store/sql/sql-store';
import { generateToken } from '@keystead/vault-store/token-format';
import { openVault } from '@keystead/vault-store/vault';
import { CompiledQuery } from 'kysely';
import { argument, calibrate, finish, median, printTable, round } from './report.ts';

const passwords = {
  one: 'correct horse battery',
  two: 'staple of another barn',
  other: 'not of these',
};
const valueBytes = 200;
const batch = 1_000;

interface Part {
  do: 'fill' | 'ours' | 'floor';
  sql: SqlOptions;
  records: number;
  share: 'all' | 'third';
  from: string;
  to: string;
}

interface Measured {
  seconds: number;
  peakRssBytes: number;
  matched: number;
}

/** Each part has a process of its own, so that its memory is its own. */
async function inProcess(part: Part): Promise<Measured> {
  // What was built, as an owner has it: reading sources, and what fills a table, take memory of their own.
  const program =
    part.do === 'ours'
      ? [
          '--max-semi-space-size=2',
          '--input-type=module',
          '--eval',
          oursAlone,
          JSON.stringify(part),
        ]
      : [import.meta.filename, '--part', JSON.stringify(part)];
  const child = spawn(process.execPath, program, {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: join(import.meta.dirname, '..', 'libs', 'vault-store'),
  });
  let output = '';
  child.stdout.on('data', (bytes) => {
    output += bytes;
  });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`${part.do} ended with ${code}`);
  return JSON.parse(output);
}

async function fill({ sql, records, share }: Part): Promise<number> {
  const vault = await openVault({ sql });
  const sample = await vault.records.create({ value: 'sample', password: passwords.one });
  const derivation = Buffer.from(sample.sealedValue.subarray(0, derivationBytes));
  await vault.records.delete(sample);
  await vault.close();
  const [one, other] = await Promise.all([
    makeKey(passwords.one, derivation),
    makeKey(passwords.other, derivation),
  ]);
  const store = await openSql<VaultSchema>(sql);
  // Long ago: what is new is looked at twice.
  const pastMs = Date.now() - 3_600_000;
  const value = randomBytes(valueBytes);
  for (let at = 0; at < records; at += 1_000) {
    const rows = Array.from({ length: Math.min(1_000, records - at) }, (_, index) => {
      const place = { id: toId('record', newUuid(pastMs)), token: generateToken() };
      const isOld = share === 'all' || (at + index) % 3 === 0;
      return {
        ...place,
        value: sealRecord(isOld ? one : other, derivation, place, value),
        data: '{}',
        created_at: pastMs,
        updated_at: pastMs,
        expires_at: never,
        soft_deleted_at: never,
      };
    });
    await store.write(async (queries) => {
      for (let part = 0; part < rows.length; part += 200) {
        await queries
          .insertInto('vault')
          .values(rows.slice(part, part + 200))
          .execute();
      }
    });
  }
  await store.close();
  return records;
}

const oursAlone = `
  import { openVault } from '@keystead/vault-store/vault';
  const part = JSON.parse(process.argv[1]);
  const started = performance.now();
  const vault = await openVault({ sql: part.sql });
  const result = await vault.rekey({ oldPassword: part.from, newPassword: part.to });
  await vault.close();
  if (result.outcome !== 'finished' || result.corrupt > 0) throw new Error(JSON.stringify(result));
  const seconds = (performance.now() - started) / 1_000;
  const peakRssBytes = process.resourceUsage().maxRSS * 1_024;
  process.stdout.write(JSON.stringify({ seconds, peakRssBytes, matched: result.matched }));
`;

/** The bare work: so many openings, sealings and updates of rows that are there. */
async function floor({ sql, records, share }: Part): Promise<number> {
  const key = createSecretKey(randomBytes(32));
  const gcm = { authTagLength: 16 };
  const plain = randomBytes(valueBytes);
  const nonce = randomBytes(12);
  const seal = (value: Uint8Array) => {
    const cipher = createCipheriv('aes-256-gcm', key, nonce, gcm);
    const text = cipher.update(value);
    cipher.final();
    return { text, tag: cipher.getAuthTag() };
  };
  const sealed = seal(plain);
  const stored = randomBytes(valueBytes + 118);
  const step = share === 'all' ? 1 : 3;
  const reseal = () => {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, gcm);
    decipher.setAuthTag(sealed.tag);
    const value = decipher.update(sealed.text);
    decipher.final();
    seal(value);
  };
  let written = 0;
  if (sql.kind === 'sqlite') {
    const database = new DatabaseSync(sql.file);
    database.exec('pragma journal_mode = wal; pragma synchronous = full');
    const update = database.prepare('update vault set value = ? where position = ?');
    for (let at = 0; at < records; at += batch) {
      database.exec('begin');
      for (
        let index = Math.ceil(at / step) * step;
        index < Math.min(records, at + batch);
        index += step
      ) {
        reseal();
        written += Number(update.run(stored, index + 2).changes);
      }
      database.exec('commit');
    }
    database.close();
    return written;
  }
  const store = await openSql<VaultSchema>(sql);
  for (let at = 0; at < records; at += batch) {
    const positions: number[] = [];
    for (
      let index = Math.ceil(at / step) * step;
      index < Math.min(records, at + batch);
      index += step
    ) {
      reseal();
      positions.push(index + 2);
    }
    const result = await store.write((queries) =>
      queries.executeQuery(
        CompiledQuery.raw(
          `update vault set value = $2 from unnest($1::bigint[]) as fresh(position)
            where vault.position = fresh.position`,
          [positions, stored],
        ),
      ),
    );
    written += Number(result.numAffectedRows);
  }
  await store.close();
  return written;
}

async function runPart(part: Part): Promise<void> {
  const started = performance.now();
  const matched = await (part.do === 'fill' ? fill(part) : floor(part));
  const measured: Measured = {
    seconds: (performance.now() - started) / 1_000,
    peakRssBytes: process.resourceUsage().maxRSS * 1_024,
    matched,
  };
  process.stdout.write(JSON.stringify(measured));
}

/** Opening a vault beside one Argon2id; reads and creates with the key kept and not. */
async function openAndUse(folder: string) {
  const sql: SqlOptions = { kind: 'sqlite', file: join(folder, 'use.db') };
  const rawArgon = () =>
    new Promise<void>((resolve, reject) => {
      const { memoryKib, passes, parallelism } = defaultPasswordCost;
      const message = Buffer.from(passwords.one);
      argon2(
        'argon2id',
        { message, nonce: randomBytes(16), memory: memoryKib, passes, parallelism, tagLength: 32 },
        (error) => (error ? reject(error) : resolve()),
      );
    });
  const timed = async (work: () => Promise<unknown>) => {
    const started = performance.now();
    await work();
    return performance.now() - started;
  };
  const vault = await openVault({ sql });
  const token = await vault.tokens.create(randomBytes(valueBytes), { password: passwords.one });
  const [opens, argons]: [number[], number[]] = [[], []];
  for (let turn = 0; turn < 9; turn += 1) {
    argons.push(await timed(rawArgon));
    vault.forgetPasswords();
    opens.push(await timed(() => vault.tokens.readBytes(token, passwords.one)));
  }
  const rate = async (count: number, work: () => Promise<unknown>) => {
    const each = 64;
    const ms = await timed(async () => {
      for (let at = 0; at < count; at += each) {
        await Promise.all(Array.from({ length: Math.min(each, count - at) }, work));
      }
    });
    return round(count / (ms / 1_000));
  };
  const cold = await openVault({ sql, keyCache: { maxEntries: 0, ttlMs: 1 } });
  const value = randomBytes(valueBytes);
  const create = { password: passwords.one };
  const rows = [
    {
      operation: 'read',
      'key kept, per s': await rate(20_000, () => vault.tokens.readBytes(token, passwords.one)),
      'key not kept, per s': await rate(16, () => cold.tokens.readBytes(token, passwords.one)),
    },
    {
      operation: 'create',
      'key kept, per s': await rate(10_000, () => vault.tokens.create(value, create)),
      'key not kept, per s': await rate(16, () => cold.tokens.create(value, create)),
    },
  ];
  await vault.close();
  await cold.close();
  return { open: median(opens), argon: median(argons), rows };
}

/** What the original plan expected, on Argon2id for every record. */
const planned: Record<number, string> = {
  1000: '1–2 s',
  10000: '10–20 s',
  100000: '1–2 min',
  1000000: '10–20 min, 100 MB',
};

async function main(): Promise<void> {
  const rounds = argument('rounds', 3);
  const sizes = chosen('sizes', ['1000', '10000', '100000', '1000000']).map(Number);
  const kinds = chosen('store', ['sqlite', 'postgresql'] as const);
  const shares = chosen('share', ['third', 'all'] as const);
  const [using] = chosen('use', ['too', 'only', 'none'] as const);
  const folder = mkdtempSync(join(tmpdir(), 'keystead-bench-'));
  const calibrationMs = calibrate();
  const use = using === 'none' ? undefined : await openAndUse(folder);
  if (use !== undefined) {
    console.log(
      `open a vault ${round(use.open)} ms, one Argon2id ${round(use.argon)} ms: ${round(use.open / use.argon)} ×\n`,
    );
    printTable(use.rows);
    console.log();
  }
  if (using === 'only') {
    rmSync(folder, { recursive: true, force: true });
    return;
  }
  const table: Record<string, string | number>[] = [];
  let last = { ours: 0, floor: 0, peakRssBytes: 0 };
  // Not above, where each part would carry it.
  const { startInfrastructure } = await import(
    '@keystead/test-control-plane/infrastructure/infrastructure'
  );
  const infrastructure = kinds.includes('postgresql')
    ? await startInfrastructure({
        stateDir: join(folder, 'servers'),
        purpose: 'test',
        durable: true,
        servers: ['postgresql'],
        useNamed: false,
      })
    : undefined;
  for (const kind of kinds) {
    for (const records of sizes) {
      for (const share of shares) {
        const sql: SqlOptions =
          kind === 'sqlite'
            ? { kind, file: join(folder, `${records}-${share}.db`) }
            : {
                kind,
                connectionString: infrastructure?.databaseUrl ?? '',
                connectionsMax: 4,
                connectTimeoutMs: 10_000,
              };
        const clear = async () => {
          if (sql.kind === 'sqlite') return;
          const store = await openSql<VaultSchema>(sql);
          for (const name of ['vault', 'vault_meta', 'vault_data_tag', 'vault_rekey']) {
            await store.db.executeQuery(CompiledQuery.raw(`drop table if exists ${name}`));
          }
          await store.close();
        };
        await clear();
        const part = { sql, records, share };
        await inProcess({ ...part, do: 'fill', from: '', to: '' });
        let [from, to] = [passwords.one, passwords.two];
        const measured: Measured[] = [];
        const floors: number[] = [];
        for (let turn = 0; turn < (records >= 1_000_000 ? 1 : rounds); turn += 1) {
          measured.push(await inProcess({ ...part, do: 'ours', from, to }));
          [from, to] = [to, from];
        }
        // It leaves no record readable, so it comes last; its rows are those of ours.
        for (const { matched } of measured) {
          const bare = await inProcess({ ...part, do: 'floor', from, to });
          if (bare.matched !== matched) {
            throw new Error(`the floor wrote ${bare.matched} records, ours ${matched}`);
          }
          floors.push(bare.seconds);
        }
        const seconds = median(measured.map((each) => each.seconds));
        const bareSeconds = median(floors);
        const peakRssBytes = Math.max(...measured.map((each) => each.peakRssBytes));
        table.push({
          database: kind,
          records,
          'under the old': share,
          seconds: round(seconds),
          'records/s': Math.round(records / seconds),
          'peak MB': Math.round(peakRssBytes / 1e6),
          'floor s': round(bareSeconds),
          ratio: round(bareSeconds / seconds),
          planned: planned[records] ?? '',
        });
        console.error(JSON.stringify(table.at(-1)));
        if (share === shares.at(-1) && kind === kinds[0]) {
          last = { ours: records / seconds, floor: records / bareSeconds, peakRssBytes };
        }
      }
    }
  }
  printTable(table);
  await infrastructure?.stop();
  rmSync(folder, { recursive: true, force: true });
  finish({
    bench: 'rekey',
    ratio: last.ours / last.floor,
    better: 'higher',
    floor: last.floor,
    ours: last.ours,
    unit: 'records/s',
    peakRssBytes: last.peakRssBytes,
    rounds,
    calibrationMs,
    ...(use === undefined ? {} : { openRatio: use.open / use.argon }),
  });
}

/** What an option names of what there is, separated by commas; without it all of it. */
function chosen<Choice extends string>(name: string, from: readonly Choice[]): Choice[] {
  const index = process.argv.indexOf(`--${name}`);
  if (index < 0) return [...from];
  const named = (process.argv[index + 1] ?? '').split(',');
  const known: readonly string[] = from;
  const wrong = named.find((each) => name !== 'sizes' && !known.includes(each));
  if (wrong !== undefined) throw new Error(`--${name} is some of ${from.join(',')}, not ${wrong}`);
  return named as Choice[];
}

const order = process.argv[process.argv.indexOf('--part') + 1];
if (process.argv.includes('--part')) await runPart(JSON.parse(order ?? ''));
else await main();

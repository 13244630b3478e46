/**
 * A rekey that is killed, again and again, at every step that it writes down and at any other moment:
 * after each death every record opens under exactly one of two passwords, and the next run goes on.
 *
 * In full (KEYSTEAD_PROVE=full): a hundred deaths on a hundred thousand records, on each database.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createInterface } from 'node:readline';
import { sqlKinds } from '@keystead/test-control-plane/sql-database';
import { describe, expect, test } from 'vitest';
import { vaultLimits } from '../limits.ts';
import type { PasswordKey } from '../password-key.ts';
import { makeKey } from '../password-keys.ts';
import { derivationBytes, openRecord, sealRecord, WrongKey } from '../record-format.ts';
import { never, type VaultSchema } from '../schema.ts';
import type { SqlOptions, SqlStore } from '../sql/sql-store.ts';
import { generateToken } from '../token-format.ts';
import { createTestVault, passwords, type TestVault } from '../vault.fixture.ts';
import type { ChildOrder } from './rekey-child.fixture.ts';
import { RekeyRows } from './rekey-rows.ts';

const isFull = process.env.KEYSTEAD_PROVE === 'full';
const { one, two, three } = passwords;

interface Child {
  process: ChildProcess;
  begun: Promise<void>;
  /** Whether it came to its end. */
  ended: Promise<boolean>;
}

function start(order: ChildOrder): Child {
  const file = new URL('./rekey-child.fixture.ts', import.meta.url);
  const child = spawn(
    process.execPath,
    ['--conditions=keystead-source', file.pathname, JSON.stringify(order)],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let isFinished = false;
  let complaint = '';
  child.stderr.on('data', (bytes) => {
    complaint += bytes;
  });
  let begin = () => {};
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'begun') begin();
    if (line.startsWith('finished')) isFinished = true;
  });
  const ended = new Promise<boolean>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      begin();
      if (signal === 'SIGKILL' || code === 0) resolve(isFinished);
      else reject(new Error(`the rekey ended with ${code}: ${complaint}`));
    });
  });
  return { process: child, begun, ended };
}

/** Opens every record; the counts by password, in the order given. */
async function census(store: SqlStore<VaultSchema>, keys: readonly PasswordKey[]) {
  const counts = keys.map(() => 0);
  const rows = new RekeyRows(store, { maxRecords: 2_000, maxBytes: 8 << 20 });
  for (let after = 0; ; ) {
    const walk = { after, upTo: Number.MAX_SAFE_INTEGER, updatedSinceMs: undefined };
    const page = await rows.page(walk);
    if (page.last === undefined) return counts;
    after = page.last;
    for (const row of page.rows()) {
      const opening = keys.flatMap((key, index) => {
        try {
          const value = openRecord(key, row.value, row).toString();
          if (value !== `value of ${row.id}`) throw new Error(`${row.id} holds another value`);
          return [index];
        } catch (error) {
          if (error instanceof WrongKey) return [];
          throw error;
        }
      });
      if (opening.length !== 1)
        throw new Error(`${row.id} opens under ${opening.length} passwords`);
      counts[opening[0] as number] = (counts[opening[0] as number] as number) + 1;
    }
  }
}

async function fill(made: TestVault, count: number) {
  const store = await made.openStore();
  const sample = await made.vault.records.create({ value: 'sample', password: one });
  const derivation = Buffer.from(sample.sealedValue.subarray(0, derivationBytes));
  await made.vault.records.delete(sample);
  const [oldKey, newKey, otherKey] = await Promise.all(
    [one, two, three].map((password) => makeKey(password, derivation)),
  );
  if (oldKey === undefined || newKey === undefined || otherKey === undefined) throw new Error();
  for (let at = 0; at < count; at += 500) {
    const rows = Array.from({ length: Math.min(500, count - at) }, (_, index) => {
      const id = `record-${at + index}`;
      const place = { id, token: generateToken() };
      const key = (at + index) % 3 === 0 ? otherKey : oldKey;
      const value = sealRecord(key, derivation, place, Buffer.from(`value of ${id}`));
      const times = { created_at: 1, updated_at: 1, expires_at: never, soft_deleted_at: never };
      return { ...place, value, data: '{}', ...times };
    });
    await store.write((queries) => queries.insertInto('vault').values(rows).execute());
  }
  return { store, oldKey, newKey, otherKey };
}

const short = { records: 240, batchRecords: 60 };
/** A dozen processes, one behind the other. */
const timeoutMs = isFull ? 4 * 3_600_000 : 180_000;
const full = { records: 100_000, batchRecords: undefined };

describe.each(sqlKinds)('on %s', (kind) => {
  test(
    'killed at every journalled step and at random ones, a rekey leaves every record readable',
    async () => {
      await using made = await createTestVault(kind);
      const { records, batchRecords } = isFull ? full : short;
      const { store, oldKey, newKey, otherKey } = await fill(made, records);
      const others = Math.ceil(records / 3);
      let [from, to]: [string, string] = [one, two];
      let deaths = 0;
      let unreadable = 0;
      const order = (dieAt: ChildOrder['dieAt']): ChildOrder => ({
        sql: made.sql as SqlOptions,
        oldPassword: from,
        newPassword: to,
        ...(batchRecords === undefined ? {} : { batchRecords }),
        dieAt,
      });
      const look = async () => {
        const [old, fresh, other] = await census(store, [oldKey, newKey, otherKey]).catch(
          (error) => {
            unreadable += 1;
            throw error;
          },
        );
        expect(other).toBe(others);
        expect((old ?? 0) + (fresh ?? 0)).toBe(records - others);
        return { old, fresh };
      };
      const settle = async (isFinished: boolean) => {
        if (!isFinished) deaths += 1;
        if (isFull && deaths % 5 === 0) console.info(`${kind}: ${deaths} deaths so far`);
        const { old, fresh } = await look();
        if (!isFinished) return;
        expect(from === one ? old : fresh).toBe(0);
        // All is done: now the other way round.
        [from, to] = [to, from];
      };
      // The journal's beginning, its pages, its end: within each transaction, and after it.
      const pages = Math.ceil(records / (batchRecords ?? vaultLimits.rekeyPageRecords));
      const all = Array.from({ length: pages + 2 }, (_, index) => index + 1);
      const steps = isFull
        ? all.filter((step) => step <= 3 || step > pages || step % 3 === 0)
        : kind === 'sqlite'
          ? [1, 2, 3, pages + 2]
          : [1, 2, pages + 2];
      const both = !isFull && kind === 'sqlite';
      for (const write of steps) {
        const moment = write % 2 === 0 ? ('within' as const) : ('after' as const);
        for (const when of both ? (['within', 'after'] as const) : [moment]) {
          await settle(await start(order({ write, when })).ended);
        }
      }
      for (const enough = isFull ? 100 : deaths + 1; deaths < enough; ) {
        const child = start(order(undefined));
        await child.begun;
        const delayMs = randomInt(isFull ? 4_000 : 60);
        await new Promise((resolve) => setTimeout(resolve, delayMs));
        child.process.kill('SIGKILL');
        await settle(await child.ended);
      }
      // And in the end it finishes.
      expect(await start(order(undefined)).ended).toBe(true);
      await settle(true);
      expect(unreadable).toBe(0);
      expect(deaths).toBeGreaterThanOrEqual(steps.length - 1);
      console.info(`${kind}: ${deaths} deaths on ${records} records, ${unreadable} unreadable`);
      await store.close();
    },
    timeoutMs,
  );
});

import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withoutLiterals } from './server-connections.ts';
import { isDuplicate, openSql, type SqlStore } from './sql-store.ts';

interface Schema {
  item: { name: string; count: number };
}

let folder: string;
let store: SqlStore<Schema>;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-sql-'));
  store = await openSql<Schema>({ kind: 'sqlite', file: join(folder, 'inner', 'store.db') });
  await store.write(async (queries) => {
    await sql`create table item (name text primary key, count integer not null) strict`.execute(
      queries,
    );
  });
});
afterEach(async () => {
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

const insert = (name: string) =>
  store.write(async (queries) => {
    await queries.insertInto('item').values({ name, count: 0 }).execute();
    return name;
  });

test('a write that fails takes nothing of those that share its commit with it', async () => {
  await insert('taken');
  const results = await Promise.allSettled([insert('one'), insert('taken'), insert('two')]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  const [, refused] = results;
  expect(isDuplicate((refused as PromiseRejectedResult).reason)).toBe(true);
  const rows = await store.db.selectFrom('item').select('name').orderBy('name').execute();
  expect(rows.map(({ name }) => name)).toEqual(['one', 'taken', 'two']);
});

test('writes at the same moment see each other and lose no count', async () => {
  await insert('counter');
  await Promise.all(
    Array.from({ length: 200 }, () =>
      store.write((queries) =>
        queries
          .updateTable('item')
          .set((row) => ({ count: row('count', '+', 1) }))
          .where('name', '=', 'counter')
          .execute(),
      ),
    ),
  );
  const row = await store.db.selectFrom('item').selectAll().executeTakeFirstOrThrow();
  expect(row.count).toBe(200);
});

test('two stores on one file in one process wait for each other', async () => {
  const other = await openSql<Schema>({ kind: 'sqlite', file: join(folder, 'inner', 'store.db') });
  await insert('counter');
  await Promise.all(
    Array.from({ length: 100 }, (_, index) =>
      (index % 2 === 0 ? store : other).write((queries) =>
        queries
          .updateTable('item')
          .set((row) => ({ count: row('count', '+', 1) }))
          .execute(),
      ),
    ),
  );
  const row = await other.db.selectFrom('item').selectAll().executeTakeFirstOrThrow();
  expect(row.count).toBe(100);
  await other.close();
});

test('a lock that another process holds is waited for without holding the event loop', async () => {
  const stranger = new DatabaseSync(join(folder, 'inner', 'store.db'));
  stranger.exec('begin immediate');
  let turns = 0;
  const counting = setInterval(() => {
    turns += 1;
    if (turns === 10) stranger.exec('rollback');
  }, 5);
  await insert('patient');
  clearInterval(counting);
  stranger.close();
  expect(turns).toBeGreaterThanOrEqual(10);
});

test('a snapshot sees one state, whatever is written meanwhile', async () => {
  await insert('before');
  const seen = await store.snapshot(async (queries) => {
    const first = await queries.selectFrom('item').select('name').execute();
    await insert('after');
    const second = await queries.selectFrom('item').select('name').execute();
    return [first.length, second.length];
  });
  expect(seen).toEqual([1, 1]);
});

test('the file belongs to its user alone', () => {
  expect(statSync(join(folder, 'inner', 'store.db')).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, 'inner')).mode & 0o777).toBe(0o700);
});

test('after close nothing is written', async () => {
  const other = await openSql<Schema>({ kind: 'sqlite', file: join(folder, 'other.db') });
  await other.close();
  await expect(other.write(async () => 1)).rejects.toThrow('closed');
});

test('work that is ended writes nothing more, and the reads of a snapshot end with it', async () => {
  const ending = new AbortController();
  const reason = new Error('too late');
  const add = (name: string) => (queries: typeof store.db) =>
    queries.insertInto('item').values({ name, count: 0 }).execute();
  const ended = store.write(
    async (queries) => {
      await add('first')(queries);
      ending.abort(reason);
      await add('second')(queries);
    },
    { signal: ending.signal },
  );
  const beside = insert('beside');
  await expect(ended).rejects.toBe(reason);
  // Also where no query follows, and where it had not begun.
  const last = new AbortController();
  await expect(
    store.write(
      async (queries) => {
        await add('last')(queries);
        last.abort(reason);
      },
      { signal: last.signal },
    ),
  ).rejects.toBe(reason);
  await expect(store.write(add('late'), { signal: ending.signal })).rejects.toBe(reason);
  await expect(
    store.snapshot((queries) => queries.selectFrom('item').selectAll().execute(), {
      signal: ending.signal,
    }),
  ).rejects.toBe(reason);
  await beside;
  const rows = await store.db.selectFrom('item').select('name').execute();
  expect(rows.map(({ name }) => name)).toEqual(['beside']);
});

test('a transaction that cannot even be taken back stops no later write', async () => {
  const exec = DatabaseSync.prototype.exec;
  let failures = 0;
  DatabaseSync.prototype.exec = function (statement: string) {
    if (failures < 2 && /^(?:commit|rollback)$/.test(statement)) {
      failures += 1;
      throw new Error('the disk is away');
    }
    return exec.call(this, statement);
  };
  try {
    await expect(insert('lost')).rejects.toThrow('the disk is away');
    expect(failures).toBe(2);
    // This one finds the other still open, and takes it back.
    await expect(insert('refused')).rejects.toThrow();
    expect(await insert('kept')).toBe('kept');
  } finally {
    DatabaseSync.prototype.exec = exec;
  }
  const rows = await store.db.selectFrom('item').select('name').execute();
  expect(rows.map(({ name }) => name)).toEqual(['kept']);
});

test('what a driver says of a statement quotes nothing of it', () => {
  const said = [
    ["Duplicate entry 'hunter2' for key 'item.name'", "Duplicate entry … for key 'item.name'"],
    [
      "You have an error in your SQL syntax; check the right syntax to use near 'hunter2' at line 1",
      'You have an error in your SQL syntax; check the right syntax to use near … at line 1',
    ],
    [
      "Incorrect integer value: 'hunter2' for column 'count' at row 1",
      "Incorrect integer value: … for column 'count' at row 1",
    ],
  ] as const;
  for (const [message, kept] of said) {
    const error = Object.assign(new Error(message), {
      errno: 1062,
      sql: "alter user x identified by 'hunter2'",
      sqlMessage: message,
    });
    const shown = withoutLiterals(error) as typeof error;
    expect(shown).toBe(error);
    expect(shown.message).toBe(kept);
    expect(shown.errno).toBe(1062);
    expect(shown.sql ?? shown.sqlMessage).toBe(undefined);
    expect(shown.stack).not.toContain('hunter2');
  }
});

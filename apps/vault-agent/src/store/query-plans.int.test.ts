/**
 * How the databases find what the hot queries ask: by an index, whatever is in the tables. The queries
 * are not repeated here: whatever the vault really sends is caught and explained.
 */
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import { CompiledQuery, DefaultQueryExecutor, sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { valueQuery } from '../secrets/value-reader.ts';
import {
  closeVaults,
  openTestVault,
  placeOn,
  plainNamespace,
  plainSecret,
  testCaller,
} from './vault.fixture.ts';
import type { Vault } from './vault.ts';

const caller = testCaller();
const secretsInNamespace = 2_000;
/** The regular look: every namespace, of which there are at most a thousand, and the one or two masters. */
const wholeOnPurpose = /^select [^()]* from ["`](?:namespace|master_key)["`]$/;

/** Statements that a piece of work sends. */
async function statementsOf(work: () => Promise<unknown>): Promise<CompiledQuery[]> {
  const caught: CompiledQuery[] = [];
  const { executeQuery } = DefaultQueryExecutor.prototype;
  DefaultQueryExecutor.prototype.executeQuery = function (compiled) {
    caught.push(compiled as CompiledQuery);
    return executeQuery.call(this, compiled) as never;
  };
  try {
    await work();
  } finally {
    DefaultQueryExecutor.prototype.executeQuery = executeQuery;
  }
  return caught.filter(
    ({ sql: text }) => /^\s*(?:select|update|delete)/i.test(text) && !wholeOnPurpose.test(text),
  );
}

describe.each(sqlKinds)('on %s', (kind) => {
  let database: TestSqlDatabase;
  let vault: Vault;

  beforeAll(async () => {
    database = await createSqlDatabase(kind);
    vault = await openTestVault(placeOn(database.options));
    // Its regular looks would be caught with the rest.
    await vault.directory.stop();
    await vault.accesses.stop();
    for (const name of ['app', 'elsewhere']) {
      await vault.namespaces.create(caller, { ...plainNamespace, name });
      await vault.secrets.create(caller, name, {
        ...plainSecret,
        name: 'known',
        value: 'v',
        tags: ['rare'],
      });
    }
    await fill(vault);
  }, 120_000);
  afterAll(async () => {
    await closeVaults();
    await database.drop();
  });

  /** Rows that nobody opens: only how many there are matters. */
  async function fill({ store }: Vault): Promise<void> {
    const namespaces = await store.db.selectFrom('namespace').selectAll().execute();
    const template = await store.db.selectFrom('secret').selectAll().executeTakeFirstOrThrow();
    for (const { id } of namespaces) {
      const rows = Array.from({ length: secretsInNamespace }, (_, index) => ({
        ...template,
        id: `sec_${id.slice(-8)}_${index}`,
        namespace_id: id,
        name: `n/${index}`,
        revision: index,
        is_deleted: index % 10 === 0 ? 1 : 0,
        expires_at_ms: index % 2 === 0 ? index : null,
      }));
      for (let at = 0; at < rows.length; at += 500) {
        const part = rows.slice(at, at + 500);
        await store.write(async (queries) => {
          await queries.insertInto('secret').values(part).execute();
          await queries
            .insertInto('secret_version')
            .values(
              part.map((row) => ({
                secret_id: row.id,
                version: 1,
                state: 'active' as const,
                key_version: 1,
                sealed: Buffer.from('x'),
                byte_length: 1,
                encoding: 'text' as const,
                origin: 'written',
                created_at_ms: 1,
                created_by: 'test',
              })),
            )
            .execute();
          await queries
            .insertInto('secret_access')
            .values(
              part.map((row, index) => ({
                secret_id: row.id,
                namespace_id: id,
                access_count: index,
                last_accessed_at_ms: 1,
              })),
            )
            .execute();
          await queries
            .insertInto('secret_tag')
            .values(
              part.map((row, index) => ({
                namespace_id: id,
                tag: `common-${index % 3}`,
                name: row.name,
                secret_id: row.id,
              })),
            )
            .execute();
          await queries
            .insertInto('access_log')
            .values(
              // Of forty namespaces: where one has half of all rows, walking all of them is no mistake.
              part.map((row, index) => ({
                namespace_id: index % 40 === 0 ? id : `ns_${index % 40}`,
                operation: 'read',
                secret_name: row.name,
                identity: 'test',
                at_ms: 1,
                duration_us: 1,
              })),
            )
            .execute();
        });
      }
    }
    const tables = ['secret', 'secret_version', 'secret_access', 'secret_tag', 'access_log'];
    for (const table of tables) {
      const analyze = kind === 'mysql' ? `analyze table ${table}` : `analyze ${table}`;
      await sql.raw(analyze).execute(store.db);
    }
  }

  /** Lines of the plan that read a table from one end to the other. */
  async function scansOf(compiled: CompiledQuery): Promise<string[]> {
    const { db } = vault.store;
    if (kind === 'sqlite') {
      const { rows } = await db.executeQuery<{ detail: string }>(
        CompiledQuery.raw(`explain query plan ${compiled.sql}`, [...compiled.parameters]),
      );
      // `v` is the list of counts that an update brings along.
      return rows
        .map(({ detail }) => detail)
        .filter((detail) => /^SCAN (?!v\b|\d|CONSTANT)|TEMP B-TREE FOR ORDER/.test(detail));
    }
    if (kind === 'postgresql') {
      // Small tables are read whole however many indexes there are: the question is whether it has to.
      return db.connection().execute(async (queries) => {
        await sql`begin`.execute(queries);
        await sql`set local enable_seqscan = off`.execute(queries);
        const { rows } = await queries.executeQuery<Record<string, string>>(
          CompiledQuery.raw(`explain ${compiled.sql}`, [...compiled.parameters]),
        );
        await sql`rollback`.execute(queries);
        return rows
          .map((row) => Object.values(row)[0] ?? '')
          .filter((line) => line.includes('Seq Scan'));
      });
    }
    const { rows } = await db.executeQuery<Record<string, string | null>>(
      CompiledQuery.raw(`explain ${compiled.sql}`, [...compiled.parameters]),
    );
    return rows
      .filter(
        ({ type, table, select_type }) =>
          (type === 'ALL' || type === 'index') &&
          !table?.startsWith('<') &&
          !/DERIVED|UNION/.test(select_type ?? ''),
      )
      .map((row) => JSON.stringify(row));
  }

  async function expectIndexes(what: string, work: () => Promise<unknown>): Promise<void> {
    const statements = await statementsOf(work);
    expect(statements.length, what).toBeGreaterThan(0);
    for (const statement of statements) {
      expect(await scansOf(statement), `${what}: ${statement.sql}`).toEqual([]);
    }
  }

  test('the check itself sees a scan', async () => {
    const query = vault.store.db.selectFrom('secret').select('id').where('created_by', '=', 'x');
    expect(await scansOf(query.compile())).not.toEqual([]);
  });

  test('a value is found by its names', async () => {
    vault.cache.clear();
    if (kind === 'sqlite') {
      expect(await scansOf(CompiledQuery.raw(valueQuery, ['ns_x', 'known']))).toEqual([]);
    } else {
      await expectIndexes('value', async () => vault.secrets.readValue(caller, 'app', 'known'));
    }
    await expectIndexes('version', async () =>
      vault.secrets.readValue(caller, 'app', 'known', { version: 1 }),
    );
  });

  test('lists, whatever filter, and what is noted about a secret', async () => {
    const list = (query: object) => () => vault.secrets.list('app', { limit: 20, ...query });
    await expectIndexes('first page', list({}));
    await expectIndexes('later page', list({ cursor: 'n/1500' }));
    await expectIndexes('prefix', list({ prefix: 'n/12' }));
    await expectIndexes('deleted', list({ state: 'deleted' }));
    await expectIndexes('expired', list({ state: 'expired' }));
    await expectIndexes('all', list({ state: 'all', cursor: 'n/1500' }));
    await expectIndexes('tag', list({ tag: 'rare' }));
    await expectIndexes('tag, later page', list({ tag: 'common-1', cursor: 'n/1500' }));
    await expectIndexes('facts', () => vault.secrets.get('app', 'known'));
    await expectIndexes('versions', () => vault.secrets.versions('app', 'known', { limit: 10 }));
  });

  test('changes, counts, statistics and the access log', async () => {
    await expectIndexes('update', () =>
      vault.secrets.update(caller, 'app', 'known', { value: 'w', tags: ['rare'] }),
    );
    await expectIndexes('flush', async () => {
      await vault.secrets.readValue(caller, 'app', 'known');
      await vault.accesses.flush();
    });
    await expectIndexes('statistics', () => vault.namespaces.statistics('app', 10));
    await expectIndexes('access log', () => vault.namespaces.accessLog('app', { limit: 10 }));
  });

  test('what changed since the last look', async () => {
    const { db } = vault.store;
    const changed = db
      .selectFrom('secret')
      .select('name')
      .where('namespace_id', '=', 'ns_x')
      .where('revision', '>', secretsInNamespace - 3)
      .where('revision', '<=', secretsInNamespace);
    expect(await scansOf(changed.compile())).toEqual([]);
  });
});

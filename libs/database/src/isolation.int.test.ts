import { randomUUID } from 'node:crypto';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Database } from './database.ts';
import {
  checkBehaviour,
  checkCatalog,
  type Populated,
  populate,
  tablesWithoutTenants,
  uniqueWithoutOrganization,
  withClient,
} from './tenancy-check.fixture.ts';

let database: TestDatabase;
let populated: Populated;
beforeAll(async () => {
  database = await createTestDatabase();
  populated = await populate(database);
});
afterAll(() => database.drop());

const owner = (urls: { ownerUrl: string }, ...statements: string[]) =>
  withClient(urls.ownerUrl, async (client) => {
    for (const statement of statements) await client.query(statement);
  });

test('a query without a where sees one organization: every table, verb and context', async () => {
  expect(populated.tables.length).toBeGreaterThan(25);
  expect(await checkBehaviour(database, populated)).toEqual([]);
});

test('every table of tenants is under the one rule, every key begins with the organization, and logins own nothing', async () => {
  expect(await checkCatalog(database)).toEqual([]);
});

test('the lists of exceptions have not grown', () => {
  const hint = 'put the table under tenancy.protect instead of adding it here';
  expect(tablesWithoutTenants.length, hint).toBeLessThanOrEqual(6);
  expect(uniqueWithoutOrganization.length, hint).toBeLessThanOrEqual(1);
});

test('units of work on two connections never see each other, whatever fails in between', async () => {
  const [first, second] = populated.organizations;
  const door = new Database({ ...database, poolSize: 2 });
  const kinds = fc.constantFrom('read', 'throw', 'abort', 'across' as const);
  const units = fc.array(fc.tuple(kinds, fc.constantFrom(first, second)), {
    minLength: 1,
    maxLength: 12,
  });
  try {
    await fc.assert(
      fc.asyncProperty(units, async (list) => {
        await Promise.all(
          list.map(async ([kind, organizationId]) => {
            if (kind === 'across') {
              const rows = await door.acrossTenants('measure', (transaction) =>
                transaction.vault.findMany({ select: { organizationId: true } }),
              );
              expect(rows.length).toBe(2);
              return;
            }
            const unit = door.withTenant({ organizationId }, async (transaction) => {
              const rows = await transaction.vault.findMany();
              expect(rows.map((row) => row.organizationId)).toEqual([organizationId]);
              if (kind === 'throw') throw new Error('given up');
              if (kind === 'abort') await transaction.$queryRaw`select 1 / 0`;
            });
            if (kind === 'read') await unit;
            else await expect(unit).rejects.toThrow();
          }),
        );
      }),
      { numRuns: 25 },
    );
  } finally {
    await door.close();
  }
});

test('a connection that was inside an organization is outside of it afterwards', async () => {
  const pool = new pg.Pool({ connectionString: database.serviceUrl, max: 1 });
  const [first] = populated.organizations;
  try {
    for (const end of ['commit', 'rollback']) {
      const client = await pool.connect();
      await client.query('begin');
      await client.query("select set_config('app.organization_id', $1, true)", [first]);
      expect((await client.query('select 1 from registry.vault')).rowCount).toBe(1);
      await client.query(end);
      client.release();
      expect((await pool.query('select 1 from registry.vault')).rowCount).toBe(0);
    }
  } finally {
    await pool.end();
  }
});

test('an organization id that is no uuid opens nothing', async () => {
  const door = new Database({ ...database, poolSize: 2 });
  try {
    for (const organizationId of ['', ' ', "' or true --", randomUUID().toUpperCase(), '*']) {
      await expect(
        door.withTenant({ organizationId }, async (transaction) => transaction.vault.count()),
      ).rejects.toThrow(TypeError);
    }
  } finally {
    await door.close();
  }
});

test('a service cannot become somebody else', async () => {
  for (const url of [database.serviceUrl, database.acrossUrl]) {
    await withClient(url, async (client) => {
      const ownerName = new URL(database.ownerUrl).username;
      for (const statement of [
        `set role ${pg.escapeIdentifier(ownerName)}`,
        `set session authorization ${pg.escapeIdentifier(ownerName)}`,
        'alter table registry.vault disable row level security',
        'drop policy own_organization on registry.vault',
        'create table auth.mine (n int)',
        'create schema mine',
        'select * from public._prisma_migrations',
        "call tenancy.protect('auth.person')",
      ]) {
        await expect(client.query(statement), statement).rejects.toMatchObject({ code: '42501' });
      }
    });
  }
  await withClient(database.serviceUrl, async (client) => {
    await expect(client.query('set role keystead_across')).rejects.toMatchObject({
      code: '42501',
    });
    for (const table of ['registry.certificate_authority', 'monitoring.gateway']) {
      await expect(client.query(`select * from ${table}`)).rejects.toMatchObject({
        code: '42501',
      });
    }
  });
});

/** Ways to break tenancy, each on a scratch database, and what the checker has to say. */
const breaches: { name: string; statements: string[]; finding: RegExp }[] = [
  {
    name: 'a dropped policy',
    statements: ['drop policy own_organization on registry.vault'],
    finding: /registry\.vault, context own: select sees 0 rows instead of 1/,
  },
  {
    name: 'row-level security switched off',
    statements: ['alter table monitoring.alert disable row level security'],
    finding: /monitoring\.alert, context own: select sees 2 rows instead of 1/,
  },
  {
    name: 'a policy that lets everybody read',
    statements: ['create policy help on auth.session for select to keystead_service using (true)'],
    finding: /auth\.session, context none: select sees 2 rows instead of 0/,
  },
  {
    name: 'a policy without a check',
    statements: [
      'drop policy own_organization on auth.api_key',
      `create policy own_organization on auth.api_key to keystead_service
         using (organization_id = nullif(current_setting('app.organization_id', true), '')::uuid)
         with check (true)`,
    ],
    finding: /auth\.api_key, context own: insert into another organization answers inserted/,
  },
  {
    name: 'an unset organization that means every organization',
    statements: [
      'drop policy own_organization on registry.agent',
      `create policy own_organization on registry.agent to keystead_service
         using (coalesce(nullif(current_setting('app.organization_id', true), '')::uuid,
           organization_id) = organization_id)`,
    ],
    finding: /registry\.agent, context emptied: select sees 2 rows instead of 0/,
  },
];

test.each(breaches)('the same checker goes red over $name', async ({ statements, finding }) => {
  await using scratch = await createTestDatabase();
  const rows = await populate(scratch);
  await owner(scratch, ...statements);
  const table = finding.source.split(',')[0]?.replaceAll('\\', '') as string;
  const told = await checkBehaviour(scratch, rows, [table]);
  expect(told.join('\n')).toMatch(finding);
  expect((await checkCatalog(scratch)).join('\n')).toContain(table);
});

test('the catalog check goes red over a table, a key and a right that slip in', async () => {
  await using scratch = await createTestDatabase();
  await owner(
    scratch,
    'create table registry.note (organization_id uuid not null, id uuid primary key)',
    'create unique index note_text on auth.member (email)',
    `alter table auth.session add constraint session_person foreign key (member_id)
       references registry.note (id)`,
    'grant select on registry.certificate_authority to keystead_service',
    'grant truncate on registry.vault to keystead_service',
    'create view auth.everybody as select * from auth.member',
    `create function auth.peek() returns bigint language sql security definer
       as 'select count(*) from auth.member'`,
    'alter table policy.policy_set_assignment no force row level security',
  );
  const findings = (await checkCatalog(scratch)).join('\n');
  for (const part of [
    'registry.note is not under forced row-level security',
    'unique index registry.note_pkey',
    'unique index auth.note_text',
    'foreign key session_person',
    'services may SELECT registry.certificate_authority',
    'services may TRUNCATE registry.vault',
    'view everybody',
    'function peek',
    'policy.policy_set_assignment is not under forced',
  ]) {
    expect(findings).toContain(part);
  }
});

test('every single table is guarded: without its rule the checker names it', async () => {
  await using scratch = await createTestDatabase();
  const rows = await populate(scratch);
  for (const { name } of rows.tables) {
    await owner(scratch, `alter table ${name} disable row level security`);
    const told = await checkBehaviour(scratch, rows, [name]);
    expect(told.join('\n'), name).toContain(`${name}, context none: select sees 2 rows`);
    await owner(scratch, `alter table ${name} enable row level security`);
  }
});

/**
 * The checker of tenancy below the query. It knows no table by name: it reads the catalog, makes
 * a row for each of two organizations in every table, and tries every verb without a WHERE. Each
 * finding is a sentence; a sound database has none.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';

export interface TenancyUrls {
  ownerUrl: string;
  serviceUrl: string;
  acrossUrl: string;
}

/** Tables that belong to no organization. This list may only shrink. */
export const tablesWithoutTenants: readonly string[] = [
  // People are installation-wide: one person may be a member of several organizations.
  'auth.person',
  // Processes and keys of the installation itself.
  'monitoring.deafness',
  'monitoring.gateway',
  'registry.certificate_authority',
  // Which hours of the whole installation are counted already.
  'analytics.rolled_up_hour',
  // The list of applied migrations; no service may read it.
  'public._prisma_migrations',
];

/** Tables without tenants that every service may use, and how. */
const openToServices: Record<string, readonly string[]> = {
  'auth.person': ['INSERT', 'SELECT', 'UPDATE'],
};

/**
 * Unique indexes of tenants' tables that do not begin with the organization. This list may only
 * shrink. A number from a sequence tells nobody what another organization has.
 */
export const uniqueWithoutOrganization: readonly string[] = ['messaging.outbox_pkey'];

const systemSchemas = "('pg_catalog', 'information_schema', 'pg_toast')";
const rule =
  "(organization_id = (NULLIF(current_setting('app.organization_id'::text, true), ''::text))::uuid)";

/** What the catalog says. */
export async function checkCatalog(urls: TenancyUrls): Promise<string[]> {
  const findings: string[] = [];
  await withClient(urls.ownerUrl, async (owner) => {
    const { rows: tables } = await owner.query<{
      name: string;
      protected: boolean;
      forced: boolean;
      tenant: boolean;
      policies: string[];
    }>(`
      select namespace.nspname || '.' || class.relname as name,
        class.relrowsecurity as protected, class.relforcerowsecurity as forced,
        exists (select from pg_attribute where attrelid = class.oid
          and attname = 'organization_id' and not attisdropped) as tenant,
        array(select format('%s %s %s %s to %s using %s check %s', policyname, permissive, cmd, '',
            array_to_string(roles, ','), qual, with_check)
          from pg_policies where schemaname = nspname and tablename = relname
          order by policyname) as policies
      from pg_class class join pg_namespace namespace on namespace.oid = class.relnamespace
      where class.relkind in ('r', 'p', 'f', 'm')
        and namespace.nspname not in ${systemSchemas} and namespace.nspname not like 'pg_temp%'
      order by 1`);
    const expected = [
      'across_organizations PERMISSIVE ALL  to keystead_across using true check true',
      `own_organization PERMISSIVE ALL  to keystead_service using ${rule} check ${rule}`,
    ];
    for (const table of tables) {
      if (tablesWithoutTenants.includes(table.name)) continue;
      if (!table.tenant) findings.push(`${table.name} has no organization_id`);
      if (!table.protected || !table.forced) {
        findings.push(`${table.name} is not under forced row-level security`);
      }
      if (JSON.stringify(table.policies) !== JSON.stringify(expected)) {
        findings.push(`${table.name} has other policies: ${table.policies.join('; ') || 'none'}`);
      }
    }
    for (const name of tablesWithoutTenants) {
      if (!tables.some((table) => table.name === name)) {
        findings.push(`${name} is gone: take it out of the list of tables without tenants`);
      }
    }

    const { rows: uniques } = await owner.query<{ name: string; table: string }>(`
      select namespace.nspname || '.' || index_class.relname as name,
        namespace.nspname || '.' || class.relname as table
      from pg_index
      join pg_class index_class on index_class.oid = indexrelid
      join pg_class class on class.oid = indrelid
      join pg_namespace namespace on namespace.oid = class.relnamespace
      left join pg_attribute first on first.attrelid = class.oid and first.attnum = indkey[0]
      where indisunique and namespace.nspname not in ${systemSchemas}
        and first.attname is distinct from 'organization_id'`);
    for (const { name, table } of uniques) {
      if (tablesWithoutTenants.includes(table) || uniqueWithoutOrganization.includes(name)) {
        continue;
      }
      findings.push(`unique index ${name} does not begin with organization_id`);
    }

    const { rows: keys } = await owner.query<{ name: string; source: string; target: string }>(`
      select constraint_row.conname as name,
        source_space.nspname || '.' || source.relname as source,
        target_space.nspname || '.' || target.relname as target
      from pg_constraint constraint_row
      join pg_class source on source.oid = conrelid
      join pg_namespace source_space on source_space.oid = source.relnamespace
      join pg_class target on target.oid = confrelid
      join pg_namespace target_space on target_space.oid = target.relnamespace
      join pg_attribute source_first on source_first.attrelid = conrelid
        and source_first.attnum = conkey[1]
      join pg_attribute target_first on target_first.attrelid = confrelid
        and target_first.attnum = confkey[1]
      where contype = 'f' and not (source_first.attname = 'organization_id'
        and target_first.attname = 'organization_id')`);
    for (const { name, source, target } of keys) {
      if (tablesWithoutTenants.includes(target)) continue;
      findings.push(`foreign key ${name} of ${source} does not begin with organization_id`);
    }

    // A definer's rights or a view's owner would look past the policies of the caller.
    const { rows: bypasses } = await owner.query<{ name: string }>(`
      select 'function ' || proname as name from pg_proc
      join pg_namespace namespace on namespace.oid = pronamespace
      where prosecdef and namespace.nspname not in ${systemSchemas}
      union all
      select 'view ' || relname from pg_class
      join pg_namespace namespace on namespace.oid = relnamespace
      where relkind in ('v', 'm') and namespace.nspname not in ${systemSchemas}
        and not coalesce(reloptions::text like '%security_invoker=true%', false)`);
    for (const { name } of bypasses) findings.push(`${name} runs with the rights of its owner`);
    findings.push(...(await checkLogins(owner, urls)), ...(await checkGrants(owner)));
  });
  return findings;
}

async function checkLogins(owner: pg.Client, urls: TenancyUrls): Promise<string[]> {
  const findings: string[] = [];
  for (const [url, group] of [
    [urls.serviceUrl, 'keystead_service'],
    [urls.acrossUrl, 'keystead_across'],
  ] as const) {
    const login = decodeURIComponent(new URL(url).username);
    const { rows: roles } = await owner.query<{ rolname: string; mighty: boolean }>(
      `with recursive held as (
         select oid, rolname from pg_roles where rolname = $1
         union
         select granted.oid, granted.rolname from held
         join pg_auth_members on member = held.oid
         join pg_roles granted on granted.oid = roleid)
       select held.rolname, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb
         or rolreplication as mighty
       from held join pg_roles using (oid) order by 1`,
      [login],
    );
    const names = roles.map((role) => role.rolname);
    if (JSON.stringify(names) !== JSON.stringify([login, group].sort())) {
      findings.push(`the login of ${group} is a member of ${names.join(', ')}`);
    }
    for (const role of roles) {
      if (role.mighty) findings.push(`a role of ${group} may do more than read and write rows`);
    }
    const { rows: owned } = await owner.query<{ name: string }>(
      `select relname as name from pg_class join pg_roles on pg_roles.oid = relowner
       where rolname = any ($1)
       union all
       select nspname from pg_namespace join pg_roles on pg_roles.oid = nspowner
       where rolname = any ($1)
       union all
       select proname from pg_proc join pg_roles on pg_roles.oid = proowner
       where rolname = any ($1)`,
      [names],
    );
    for (const { name } of owned) findings.push(`${group} owns ${name}`);
  }
  return findings;
}

async function checkGrants(owner: pg.Client): Promise<string[]> {
  const findings: string[] = [];
  const { rows } = await owner.query<{ name: string; privileges: string[] }>(`
    select table_schema || '.' || table_name as name,
      array_agg(privilege_type::text order by privilege_type) as privileges
    from information_schema.table_privileges
    where grantee in ('keystead_service', 'PUBLIC')
      and table_schema not in ${systemSchemas}
    group by 1`);
  for (const { name, privileges } of rows) {
    const allowed = tablesWithoutTenants.includes(name)
      ? (openToServices[name] ?? [])
      : ['DELETE', 'INSERT', 'SELECT', 'UPDATE'];
    const excess = privileges.filter((privilege) => !allowed.includes(privilege));
    if (excess.length > 0) findings.push(`services may ${excess.join(', ')} ${name}`);
  }
  return findings;
}

export interface Column {
  name: string;
  type: string;
  required: boolean;
}

export interface TenantTable {
  name: string;
  columns: Column[];
  /** Columns of this table, and where their values come from. */
  references: { target: string; columns: string[]; targetColumns: string[] }[];
}

type Row = Record<string, unknown>;

/** One row of every table for each of two organizations, made from the catalog. */
export interface Populated {
  organizations: readonly [string, string];
  /** Parents before children. */
  tables: TenantTable[];
  rows: Map<string, Row>;
}

const rowKey = (table: string, organizationId: string) => `${table} ${organizationId}`;

export async function populate(urls: TenancyUrls): Promise<Populated> {
  const tables = await withClient(urls.ownerUrl, readTenantTables);
  const organizations = [randomUUID(), randomUUID()] as const;
  const rows = new Map<string, Row>();
  await withClient(urls.acrossUrl, async (across) => {
    for (const organizationId of organizations) {
      for (const table of tables) {
        const row = makeRow(table, organizationId, rows);
        rows.set(rowKey(table.name, organizationId), row);
        await insert(across, table.name, row);
      }
    }
  });
  return { organizations, tables, rows };
}

async function readTenantTables(owner: pg.Client): Promise<TenantTable[]> {
  const { rows: columns } = await owner.query<Column & { table: string }>(`
    select namespace.nspname || '.' || class.relname as table, attname as name,
      format_type(atttypid, null) as type,
      attnotnull and not atthasdef and attidentity = '' as required
    from pg_attribute
    join pg_class class on class.oid = attrelid
    join pg_namespace namespace on namespace.oid = class.relnamespace
    where class.relkind in ('r', 'p') and attnum > 0 and not attisdropped
      and namespace.nspname not in ${systemSchemas}
    order by 1, attnum`);
  const { rows: keys } = await owner.query<{
    table: string;
    target: string;
    columns: string[];
    target_columns: string[];
  }>(`
    select source_space.nspname || '.' || source.relname as table,
      target_space.nspname || '.' || target.relname as target,
      array(select attname::text from unnest(conkey) with ordinality as part (number, place)
        join pg_attribute on attrelid = conrelid and attnum = number order by place) as columns,
      array(select attname::text from unnest(confkey) with ordinality as part (number, place)
        join pg_attribute on attrelid = confrelid and attnum = number order by place)
        as target_columns
    from pg_constraint
    join pg_class source on source.oid = conrelid
    join pg_namespace source_space on source_space.oid = source.relnamespace
    join pg_class target on target.oid = confrelid
    join pg_namespace target_space on target_space.oid = target.relnamespace
    where contype = 'f'`);
  const byName = new Map<string, TenantTable>();
  const ofTenants = new Set(
    columns.filter(({ name }) => name === 'organization_id').map(({ table }) => table),
  );
  for (const { table, ...column } of columns) {
    if (!ofTenants.has(table)) continue;
    const entry = byName.get(table) ?? { name: table, columns: [], references: [] };
    entry.columns.push(column);
    byName.set(table, entry);
  }
  for (const { table, target, columns: own, target_columns: targetColumns } of keys) {
    if (!byName.has(target)) continue;
    byName.get(table)?.references.push({ target, columns: own, targetColumns });
  }
  return parentsFirst(byName);
}

function parentsFirst(byName: Map<string, TenantTable>): TenantTable[] {
  const ordered: TenantTable[] = [];
  const visit = (table: TenantTable, path: readonly string[]) => {
    if (ordered.includes(table)) return;
    if (path.includes(table.name)) throw new Error(`foreign keys in a ring: ${path.join(' → ')}`);
    for (const { target } of table.references) {
      const parent = byName.get(target);
      if (parent && parent !== table) visit(parent, [...path, table.name]);
    }
    ordered.push(table);
  };
  for (const table of byName.values()) visit(table, []);
  return ordered;
}

function makeRow(table: TenantTable, organizationId: string, rows: Map<string, Row>): Row {
  const row: Row = {};
  for (const { columns, target, targetColumns } of table.references) {
    const parent = rows.get(rowKey(target, organizationId));
    columns.forEach((column, index) => {
      row[column] = parent?.[targetColumns[index] as string];
    });
  }
  for (const { name, type, required } of table.columns) {
    if (name === 'organization_id') row[name] = organizationId;
    else if (required && row[name] === undefined) row[name] = sampleOf(type);
  }
  return row;
}

function sampleOf(type: string): unknown {
  if (type === 'uuid') return randomUUID();
  if (type === 'text') return `text ${randomUUID()}`;
  if (type === 'bytea') return Buffer.from(randomUUID());
  if (type === 'jsonb') return '{}';
  if (type === 'boolean') return false;
  if (type.endsWith('[]')) return [];
  if (type.startsWith('timestamp')) return new Date();
  if (['integer', 'bigint', 'smallint', 'double precision'].includes(type)) return 1;
  throw new Error(`the checker has no value of type ${type}`);
}

const quoted = (name: string) => name.split('.').map(pg.escapeIdentifier).join('.');

async function insert(client: pg.ClientBase, table: string, row: Row): Promise<void> {
  const names = Object.keys(row);
  await client.query(
    `insert into ${quoted(table)} (${names.map(pg.escapeIdentifier).join(', ')})
     values (${names.map((_, index) => `$${index + 1}`).join(', ')})`,
    names.map((name) => row[name]),
  );
}

/** A caller's organization: an id, `''` as a finished transaction leaves it, or never set. */
export type Context = { name: string; organizationId: string | '' | null };

/**
 * Tries every verb without a WHERE on every table in every context, over two connections of a
 * service's login that are handed around, with aborted transactions in between.
 */
export async function checkBehaviour(
  urls: TenancyUrls,
  { organizations, tables, rows }: Populated,
  only: readonly string[] = tables.map((table) => table.name),
): Promise<string[]> {
  const findings: string[] = [];
  const [first, second] = organizations;
  const contexts: Context[] = [
    { name: 'own', organizationId: first },
    { name: 'none', organizationId: null },
    { name: 'foreign', organizationId: second },
    { name: 'emptied', organizationId: '' },
    { name: 'unknown', organizationId: randomUUID() },
  ];
  const pool = new pg.Pool({ connectionString: urls.serviceUrl, max: 2 });
  const attempt = async <T>(
    context: Context,
    work: (client: pg.PoolClient) => Promise<T>,
  ): Promise<T> => {
    const client = await pool.connect();
    try {
      await client.query('begin');
      if (context.organizationId !== null) {
        await client.query("select set_config('app.organization_id', $1, true)", [
          context.organizationId,
        ]);
      }
      return await work(client);
    } finally {
      await client.query('rollback');
      client.release();
    }
  };
  /** Leaves a connection behind that was in the middle of another organization's failure. */
  const abort = (organizationId: string) =>
    attempt({ name: 'aborted', organizationId }, (client) =>
      client.query('select 1 / 0').catch(() => undefined),
    );

  try {
    for (const table of tables.filter(({ name }) => only.includes(name))) {
      for (const context of contexts) {
        const mine = organizations.includes(context.organizationId ?? '') ? 1 : 0;
        const told = `${table.name}, context ${context.name}`;
        await Promise.all([abort(first), abort(second)]);

        const seen = await attempt(context, async (client) => {
          const { rows: found } = await client.query<{ organization_id: string | null }>(
            `select organization_id from ${quoted(table.name)}`,
          );
          return found.map((row) => row.organization_id);
        });
        if (seen.length !== mine || seen.some((id) => id !== context.organizationId)) {
          findings.push(`${told}: select sees ${seen.length} rows instead of ${mine}`);
        }

        const updated = await attempt(context, (client) =>
          affected(client, `update ${quoted(table.name)} set organization_id = organization_id`),
        );
        if (updated !== mine && updated !== 'denied') {
          findings.push(`${told}: update changes ${updated} rows instead of ${mine}`);
        }

        const deleted = await attempt(context, async (client) => {
          // Children first, so that no foreign key stands in the way of the table looked at.
          for (const child of [...tables].reverse()) {
            if (child === table) break;
            await affected(client, `delete from ${quoted(child.name)}`);
          }
          return affected(client, `delete from ${quoted(table.name)}`);
        });
        if (deleted !== mine && deleted !== 'denied') {
          findings.push(`${told}: delete removes ${deleted} rows instead of ${mine}`);
        }

        for (const target of organizations) {
          if (target === context.organizationId) continue;
          const moved = await attempt(context, (client) =>
            affected(client, `update ${quoted(table.name)} set organization_id = '${target}'`),
          );
          if (moved !== 0 && moved !== 'denied') {
            findings.push(`${told}: update hands rows to another organization (${moved})`);
          }
          const row = { ...makeRow(table, target, rows), ...freshKey(table) };
          const inserted = await attempt(context, (client) =>
            insert(client, table.name, row).then(
              () => 'inserted',
              (error: { code?: string }) => error.code,
            ),
          );
          if (inserted !== '42501') {
            findings.push(`${told}: insert into another organization answers ${inserted}`);
          }
        }
      }
    }
  } finally {
    await pool.end();
  }
  return findings;
}

/** New values for what might collide with the row that is there. */
function freshKey(table: TenantTable): Row {
  const referenced = new Set(table.references.flatMap(({ columns }) => columns));
  const fresh: Row = {};
  for (const { name, type, required } of table.columns) {
    if (name === 'organization_id' || referenced.has(name) || !required) continue;
    if (['uuid', 'text', 'bytea'].includes(type)) fresh[name] = sampleOf(type);
  }
  return fresh;
}

/** How many rows, or why none: the policies said no, or the statement got past them to a constraint. */
async function affected(client: pg.PoolClient, statement: string): Promise<number | string> {
  await client.query('savepoint statement');
  try {
    return (await client.query(statement)).rowCount ?? 0;
  } catch (error) {
    await client.query('rollback to savepoint statement');
    const { code } = error as { code?: string };
    if (code === '42501') return 'denied';
    if (code?.startsWith('23')) return `error ${code}`;
    throw error;
  }
}

export async function withClient<T>(
  url: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

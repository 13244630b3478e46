/**
 * `node migrate.js`: brings the database to the state of `prisma/migrations` and makes sure that
 * the two logins named by KEYSTEAD_SERVICE_DATABASE_URL and KEYSTEAD_ACROSS_DATABASE_URL exist,
 * with those passwords and nothing but membership in their group. Safe to run again.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { applyMigrations } from './schema-engine.ts';

export interface MigrateOptions {
  ownerUrl: string;
  serviceUrl: string;
  acrossUrl: string;
  /** The folder with `schema/` and `migrations/`. */
  prismaFolder?: string;
}

export function findPrismaFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const candidate = join(folder, 'prisma');
    if (existsSync(join(candidate, 'migrations'))) return candidate;
    const parent = dirname(folder);
    if (parent === folder) throw new Error('no folder prisma/migrations above this program');
    folder = parent;
  }
}

/** @returns the names of the migrations that were applied now. */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const folder = options.prismaFolder ?? findPrismaFolder();
  const owner = new pg.Client({ connectionString: options.ownerUrl });
  await owner.connect();
  try {
    // Roles belong to the server, not to a database: those who migrate wait for each other.
    await owner.query('select pg_advisory_lock(7239041)');
    const applied = await applyMigrations(options.ownerUrl, {
      schema: join(folder, 'schema'),
      migrations: join(folder, 'migrations'),
    });
    await ensureLogin(owner, options.serviceUrl, 'keystead_service');
    await ensureLogin(owner, options.acrossUrl, 'keystead_across');
    return applied;
  } finally {
    await owner.end();
  }
}

async function ensureLogin(owner: pg.Client, url: string, group: string): Promise<void> {
  const { username, password } = new URL(url);
  const name = decodeURIComponent(username);
  const { rows } = await owner.query<{ superuser: boolean; bypass: boolean }>(
    'select rolsuper as superuser, rolbypassrls as bypass from pg_roles where rolname = $1',
    [name],
  );
  const identifier = owner.escapeIdentifier(name);
  const secret = owner.escapeLiteral(decodeURIComponent(password));
  if (rows[0]?.superuser || rows[0]?.bypass) {
    throw new Error(
      `${name} may bypass row-level security; give the services a login of their own`,
    );
  }
  await owner.query(
    `${rows[0] ? 'alter' : 'create'} role ${identifier} login inherit ${password ? `password ${secret}` : ''}`,
  );
  await owner.query(`grant ${owner.escapeIdentifier(group)} to ${identifier}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const read = (name: string) => {
    const value = process.env[name];
    if (!value) {
      console.error(`migrate: ${name} is not set`);
      process.exit(2);
    }
    return value;
  };
  const applied = await migrate({
    ownerUrl: read('KEYSTEAD_DATABASE_URL'),
    serviceUrl: read('KEYSTEAD_SERVICE_DATABASE_URL'),
    acrossUrl: read('KEYSTEAD_ACROSS_DATABASE_URL'),
  });
  console.log(
    applied.length > 0 ? `migrate: applied ${applied.join(', ')}` : 'migrate: nothing to do',
  );
  process.exit(0);
}

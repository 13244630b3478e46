/**
 * Prisma's schema engine as WebAssembly. The command line downloads a native engine, which an
 * installation without open access to the internet cannot; the WebAssembly build ships inside its
 * package. It has no semver promise, so this file alone touches it, and its version is pinned.
 */
import { readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { PrismaPg } from '@prisma/adapter-pg';
import { bindMigrationAwareSqlAdapterFactory } from '@prisma/driver-adapter-utils';
import pg from 'pg';

// The type library of Node does not declare it.
declare const WebAssembly: {
  instantiate(
    binary: Uint8Array,
    imports: unknown,
  ): Promise<{ instance: { exports: Record<string, unknown> } }>;
};

interface Engine {
  diff(input: unknown): Promise<{ stdout: string | null; exitCode: number }>;
  applyMigrations(input: unknown): Promise<{ appliedMigrationNames: string[] }>;
}

/**
 * The adapter cuts a script at every semicolon, also inside comments and function bodies.
 * PostgreSQL takes a script whole, in one implicit transaction: a migration applies or does not.
 */
class WholeScriptPg extends PrismaPg {
  readonly #databaseUrl: string;

  constructor(databaseUrl: string) {
    super({ connectionString: databaseUrl });
    this.#databaseUrl = databaseUrl;
  }

  override async connect() {
    const adapter = await super.connect();
    adapter.executeScript = async (script: string) => {
      const client = new pg.Client({ connectionString: this.#databaseUrl });
      await client.connect();
      try {
        await client.query(script);
      } finally {
        await client.end();
      }
    };
    return adapter;
  }
}

const noFilter = { externalTables: [], externalEnums: [] };

async function openEngine(databaseUrl: string, schemaFolder: string): Promise<Engine> {
  const manifest = createRequire(import.meta.url).resolve('@prisma/schema-engine-wasm');
  const folder = manifest.slice(0, manifest.lastIndexOf('/') + 1);
  const glue = await import(`${folder}schema_engine_bg.js`);
  const { instance } = await WebAssembly.instantiate(
    await readFile(`${folder}schema_engine_bg.wasm`),
    { './schema_engine_bg.js': glue },
  );
  glue.__wbg_set_wasm(instance.exports);
  (instance.exports.__wbindgen_start as (() => void) | undefined)?.();
  const factory = bindMigrationAwareSqlAdapterFactory(new WholeScriptPg(databaseUrl));
  const datamodels = (await readSchema(schemaFolder)).map(({ path, content }) => [path, content]);
  return (await glue.SchemaEngine.new({ datamodels }, () => {}, factory)) as Engine;
}

async function readSchema(folder: string): Promise<{ path: string; content: string }[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.prisma')).sort();
  return Promise.all(
    names.map(async (name) => ({
      path: name,
      content: await readFile(join(folder, name), 'utf8'),
    })),
  );
}

async function readMigrations(folder: string) {
  const names = (await readdir(folder, { withFileTypes: true }))
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  return {
    baseDir: folder,
    lockfile: { path: 'migration_lock.toml', content: 'provider = "postgresql"\n' },
    shadowDbInitScript: '',
    migrationDirectories: await Promise.all(
      names.map(async (name) => ({
        path: name,
        migrationFile: {
          path: 'migration.sql',
          content: {
            tag: 'ok',
            value: await readFile(join(folder, name, 'migration.sql'), 'utf8'),
          },
        },
      })),
    ),
  };
}

/** Applies what is not applied yet, in order. @returns the names that were applied now. */
export async function applyMigrations(databaseUrl: string, folders: PrismaFolders) {
  const engine = await openEngine(databaseUrl, folders.schema);
  const answer = await engine.applyMigrations({
    migrationsList: await readMigrations(folders.migrations),
    filters: noFilter,
  });
  return answer.appliedMigrationNames;
}

/** The SQL that leads from an empty database to the schema files. */
export async function schemaAsSql(databaseUrl: string, folders: PrismaFolders): Promise<string> {
  const engine = await openEngine(databaseUrl, folders.schema);
  const answer = await engine.diff({
    from: { tag: 'empty' },
    to: { tag: 'schemaDatamodel', files: await readSchema(folders.schema) },
    script: true,
    exitCode: null,
    filters: noFilter,
  });
  return answer.stdout ?? '';
}

export interface PrismaFolders {
  schema: string;
  migrations: string;
}

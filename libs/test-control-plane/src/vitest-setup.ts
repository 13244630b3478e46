/**
 * Before the first integration or end-to-end test of a run: one PostgreSQL, and in it a migrated
 * database that tests clone. Both projects of a run share it; it goes with the last one. A MariaDB
 * starts with the first test that asks for one.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { type Infrastructure, startInfrastructure } from './infrastructure/infrastructure.ts';
import { type DatabaseUrls, databaseUrls } from './installation/database-urls.ts';
import { migrate } from './installation/migrate.ts';
import { repository } from './installation/service-process.ts';
import { createEmptyDatabase, dropDatabase, type TestServers } from './test-database.ts';

const run = promisify(execFile);

interface Shared {
  infrastructure: Infrastructure;
  template: DatabaseUrls;
  mysql: MysqlDoor;
  users: number;
}

// Each project of a run loads this module anew; what they share hangs on the process.
const place = Symbol.for('keystead.test-servers');
const holder = globalThis as unknown as Record<symbol, Promise<Shared> | undefined>;

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  if (project.name.startsWith('e2e')) await compile();
  holder[place] ??= start();
  const shared = await holder[place];
  shared.users += 1;
  const servers: TestServers = { template: shared.template, mysqlDoor: shared.mysql.url };
  project.provide('keystead', servers);
  return async () => {
    shared.users -= 1;
    if (shared.users > 0) return;
    holder[place] = undefined;
    await dropDatabase(shared.template.ownerUrl).catch(() => undefined);
    await Promise.all([shared.infrastructure.stop(), shared.mysql.close()]);
  };
}

async function start(): Promise<Shared> {
  const infrastructure = await startInfrastructure({
    stateDir: mkdtempSync(join(tmpdir(), 'keystead-test-')),
    purpose: 'test',
    servers: ['postgresql'],
  });
  try {
    const name = await createEmptyDatabase(infrastructure.databaseUrl, 'keystead_template');
    const owner = new URL(infrastructure.databaseUrl);
    owner.pathname = `/${name}`;
    const template = databaseUrls(owner.href, { service: 'service', across: 'across' });
    await migrate(template);
    return { infrastructure, template, mysql: await openMysqlDoor(), users: 0 };
  } catch (error) {
    await infrastructure.stop();
    throw error;
  }
}

interface MysqlDoor {
  url: string;
  close(): Promise<void>;
}

/** Few tests need a MariaDB and they run in processes of their own: they ask this one for it. */
async function openMysqlDoor(): Promise<MysqlDoor> {
  let started: Promise<Infrastructure> | undefined;
  const path = `/${randomUUID()}`;
  const server: Server = createServer((request, response) => {
    if (request.url !== path) return void response.writeHead(404).end();
    started ??= startInfrastructure({
      stateDir: mkdtempSync(join(tmpdir(), 'keystead-test-')),
      purpose: 'test',
      servers: ['mariadb'],
    });
    started.then(
      ({ mysqlUrl }) => response.end(mysqlUrl),
      (error) => response.writeHead(500).end(String(error)),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await (await started?.catch(() => undefined))?.stop();
    },
  };
}

/** End-to-end tests run what was built: a stale build would prove nothing. */
async function compile(): Promise<void> {
  if (process.env.KEYSTEAD_BUILT === 'yes') return;
  const compiler = join(repository, 'node_modules/typescript7/bin/tsc');
  await run(process.execPath, [compiler, '-b', '--pretty', 'false'], { cwd: repository }).catch(
    (error: { stdout?: string }) => {
      console.error(`The code does not compile; an older build may be tested.\n${error.stdout}`);
    },
  );
}

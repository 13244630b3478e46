/**
 * A process that changes a vault in every way, says on its output what is acknowledged, and kills itself
 * at a given step: before or after any statement, before or after a commit, before an acknowledgement.
 * Run with what {@link CrashOrder} says as JSON.
 */
import { writeSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { SecretKey } from '@keystead/envelope/keys';
import { DefaultQueryExecutor } from 'kysely';
import {
  openTestVault,
  plainNamespace,
  plainSecret,
  type TestPlace,
  testCaller,
} from './vault.fixture.ts';
import type { Vault } from './vault.ts';

export interface CrashOrder {
  place: TestPlace;
  /** 0: lives to the end. */
  killAt: number;
}

const caller = testCaller();
const archiveKey = () => ({ kind: 'key' as const, key: SecretKey.from(Buffer.alloc(32, 7)) });

/** What it does, in this order. Each is all or nothing. */
export const crashOperations: [string, (vault: Vault, archive: Buffer) => Promise<unknown>][] = [
  [
    'create',
    ({ secrets }) =>
      secrets.create(caller, 'app', { ...plainSecret, name: 'made', value: 'one', tags: ['t'] }),
  ],
  ['update', ({ secrets }) => secrets.update(caller, 'app', 'made', { value: 'two', tags: [] })],
  [
    'prune',
    ({ secrets }) => secrets.update(caller, 'app', 'made', { value: 'three', maxVersions: 1 }),
  ],
  [
    'begin',
    ({ secrets }) =>
      secrets.beginVersion(caller, 'app', 'made', {
        value: Buffer.from('four'),
        encoding: 'text',
      }),
  ],
  ['promote', ({ secrets }) => secrets.promoteVersion(caller, 'app', 'made', 4)],
  ['rewrap', ({ keys }) => keys.rotateMaster()],
  [
    'import',
    ({ transfer }, archive) =>
      transfer.import(caller, 'app', Readable.from([archive]), archiveKey(), {
        existing: 'replace',
        createNamespaces: false,
        dryRun: false,
      }),
  ],
  ['copy', ({ namespaces }) => namespaces.copy(caller, 'app', { to: 'copy' })],
  ['move', ({ namespaces }) => namespaces.move('copy', 'moved')],
  ['delete', ({ secrets }) => secrets.delete(caller, 'app', 'made')],
  ['destroy', ({ secrets }) => secrets.destroy(caller, 'app', 'made')],
  ['make', ({ namespaces }) => namespaces.create(caller, { ...plainNamespace, name: 'new' })],
  ['remove', ({ namespaces }) => namespaces.delete('app')],
];

/** What is there before the first of them. */
export async function prepareCrash(vault: Vault): Promise<Buffer> {
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'source' });
  for (const name of ['a', 'b', 'made']) {
    await vault.secrets.create(caller, 'source', {
      ...plainSecret,
      name,
      value: `${name} of the source`,
    });
  }
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'b', value: 'b of the app' });
  return buffer(await vault.transfer.export('source', archiveKey()));
}

/** Everything that matters, in one text. */
export async function describeVault(vault: Vault): Promise<string> {
  const lines: string[] = [`master ${(await vault.keys.describe()).masterVersion}`];
  const { items } = await vault.namespaces.list({ limit: 100 });
  for (const { name, secretCount, totalBytes } of items) {
    lines.push(`${name}: ${secretCount} secrets, ${totalBytes} bytes`);
    const listed = await vault.secrets.list(name, { limit: 100, state: 'all' });
    for (const secret of listed.items) {
      const versions = await vault.secrets.versions(name, secret.name, { limit: 100 });
      const values: string[] = [];
      for (const { version, state } of versions.items) {
        const { value } = await vault.secrets.versionBytes(name, secret.name, version);
        values.push(`${version} ${state} ${value}`);
      }
      lines.push(
        `${name}/${secret.name}: ${secret.state} ${secret.version} ${secret.tags}: ${values.join(', ')}`,
      );
    }
  }
  return lines.join('\n');
}

let step = 0;
let killAt = 0;
let isCounting = false;

function reach(): void {
  if (!isCounting) return;
  step += 1;
  if (step === killAt) process.kill(process.pid, 'SIGKILL');
}

function watchStatements(): void {
  const { executeQuery } = DefaultQueryExecutor.prototype;
  DefaultQueryExecutor.prototype.executeQuery = async function (compiled) {
    reach();
    const result = await executeQuery.call(this, compiled);
    reach();
    return result as never;
  };
  const { exec } = DatabaseSync.prototype;
  DatabaseSync.prototype.exec = function (text) {
    if (text === 'commit') reach();
    exec.call(this, text);
    if (text === 'commit') reach();
  };
}

async function run(order: CrashOrder): Promise<void> {
  watchStatements();
  killAt = order.killAt;
  const vault = await openTestVault(order.place);
  // Its own reading and counting would make the steps differ from run to run.
  await vault.directory.stop();
  const archive = await prepareCrash(vault);
  await vault.accesses.stop();
  const wantsStates = killAt === 0;
  const tell = async (line: string) => {
    isCounting = false;
    const state = wantsStates ? ` ${JSON.stringify(await describeVault(vault))}` : '';
    writeSync(1, `${line}${state}\n`);
    isCounting = true;
  };
  await tell('ready');
  for (const [name, work] of crashOperations) {
    await work(vault, archive);
    // Done, and not yet acknowledged.
    reach();
    await tell(`done ${name}`);
  }
  writeSync(1, `steps ${step}\n`);
  process.exit(0);
}

const [, script, order] = process.argv;
if (script === import.meta.filename && order !== undefined) await run(JSON.parse(order));

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { BackupContent } from '@keystead/contracts/agent-api/backup';
import { rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import { generateKey } from '@keystead/envelope/keys';
import { formatIdentity, generateRecipient } from '@keystead/envelope/sealed-stream';
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest';
import { type ClockTables, clockMigrations } from '../clock/clock-tables.ts';
import { TrustedClock } from '../clock/trusted-clock.ts';
import { RotationRunner } from '../rotation/rotation-runner.ts';
import type { RotationSchema } from '../rotation/rotation-tables.ts';
import { Rotations } from '../rotation/rotations.ts';
import { recount } from '../store/recount.fixture.ts';
import {
  closeVaults,
  openTestVault,
  plainNamespace,
  sqlitePlace,
  type TestPlace,
  testCaller,
} from '../store/vault.fixture.ts';
import { TokenVault } from '../tokens/token-vault.ts';
import {
  caller,
  makeBackup,
  openBackupAgent,
  put,
  restoreFrom,
  type TestAgent,
  type TestAgentOptions,
  value,
} from './backup-agent.fixture.ts';
import { type BackupSummary, type Section, writeBackup } from './backup-archive.ts';
import { BackupAuthor } from './backup-author.ts';
import { type Performer, thisRun } from './backup-journal.ts';
import { backupLimits } from './backup-limits.ts';
import { BackupSections } from './backup-sections.ts';
import { contentRootOf } from './backups.ts';
import { type BackupDestination, DestinationError } from './destination.ts';
import { DirectoryDestination } from './directory-destination.ts';

const base = mkdtempSync(join(tmpdir(), 'keystead-backups-'));
let folder: string;
let place: TestPlace;
const agents: TestAgent[] = [];

async function open(options: TestAgentOptions = {}, at = place, where = folder) {
  const agent = await openBackupAgent(at, where, options);
  agents.push(agent);
  return agent;
}
const freshPlace = () => sqlitePlace(mkdtempSync(join(base, 'place-')));

beforeEach(() => {
  folder = mkdtempSync(join(base, 'agent-'));
  place = freshPlace();
});
afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.close()));
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

async function filled(options: TestAgentOptions = {}) {
  const agent = await open(options);
  await put(agent, 'app', 'database/password', 'hunter2-canary');
  await put(agent, 'app', 'database/password', 'hunter3-canary');
  await put(agent, 'app', 'api', 'key-canary');
  await put(agent, 'other', 'token', 'token-canary');
  await agent.vault.namespaces.create(caller, { ...plainNamespace, name: 'empty' });
  return agent;
}

test('what was backed up comes back in another vault, with every version', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  const root = (await contentRootOf(agent.vault)).contentRoot;
  await agent.close();
  agents.splice(0);

  // Another store, with the same key provider: the machine is gone, the key is not.
  const there = freshPlace();
  const rescued = await open({}, { ...there, keyFile: place.keyFile });
  const run = await restoreFrom(rescued, id, { mode: 'full' });
  expect(run).toMatchObject({
    state: 'succeeded',
    kind: 'restore',
    result: { namespaces: 3, secrets: 3, created: 3, removedNamespaces: 0 },
  });
  expect(await value(rescued, 'app', 'database/password')).toBe('hunter3-canary');
  const old = await rescued.vault.secrets.readValue(caller, 'app', 'database/password', {
    version: 1,
  });
  expect(old.value).toBe('hunter2-canary');
  expect((await contentRootOf(rescued.vault)).contentRoot).toBe(root);
  expect(await recount(rescued.vault)).toEqual([]);
});

test('nothing of a backup is in the clear but ids, times and numbers', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  const destination = join(folder, 'destination');
  const names = readdirSync(destination).sort();
  expect(names).toEqual([
    `keystead-${agent.vault.store.vaultId}-${id}.json`,
    `keystead-${agent.vault.store.vaultId}-${id}.ksbackup`,
  ]);
  for (const name of names) {
    const bytes = readFileSync(join(destination, name));
    for (const canary of ['canary', 'hunter', 'database', 'token', 'tag"', 'server:']) {
      for (const text of [canary, Buffer.from(canary).toString('base64').slice(0, 6)]) {
        expect(bytes.includes(text) && text.length > 4).toBe(false);
      }
    }
    expect(statSync(join(destination, name)).mode & 0o777).toBe(0o600);
  }
  expect(JSON.parse(readFileSync(join(destination, names[0] as string), 'utf8'))).toMatchObject({
    id,
    namespaces: 3,
    secrets: 3,
    versions: 4,
    contents: ['secrets', 'access', 'audit', 'configuration'],
  });
  expect(readdirSync(agent.spool)).toEqual([]);
});

test('a backup is listed, shown, verified, drilled and deleted', async () => {
  const watched = new Watched(join(folder, 'destination'));
  const agent = await filled({ destinations: [watched] });
  const first = await makeBackup(agent);
  const second = await makeBackup(agent);
  watched.names.splice(0);
  const page = await agent.backups.list({ limit: 1 });
  // Of the page that is asked for, and no other.
  expect(watched.names).toEqual([expect.stringContaining(second)]);
  expect(page.items.map(({ id }) => id)).toEqual([second]);
  const rest = await agent.backups.list({ limit: 5, cursor: page.nextCursor ?? '' });
  expect(rest.items.map(({ id }) => id)).toEqual([first]);
  expect(rest.nextCursor).toBeNull();
  watched.names.splice(0);
  expect(await agent.backups.get(first)).toMatchObject({ secrets: 3, versions: 4 });
  expect(watched.names).toEqual([expect.stringContaining(first)]);

  const choice = { waitSeconds: 10 };
  const verified = await agent.backups.verify(caller, first, choice);
  expect(verified).toMatchObject({ state: 'succeeded', result: { secrets: 3, versions: 4 } });
  const drilled = await agent.backups.drill(caller, first, choice);
  expect(drilled).toMatchObject({ state: 'succeeded', result: { secrets: 3, versions: 4 } });
  expect(drilled.result?.foundRoot).toBe(drilled.result?.contentRoot);
  expect(drilled.result?.contentRoot).toBe(verified.result?.contentRoot);
  expect(readdirSync(agent.spool)).toEqual([]);

  await agent.backups.delete(first);
  await expect(agent.backups.get(first)).rejects.toMatchObject({ code: 'not_found' });
  await expect(agent.backups.verify(caller, first, choice)).rejects.toMatchObject({
    code: 'not_found',
  });
  expect(readdirSync(join(folder, 'destination'))).toHaveLength(2);
  const runs = await agent.backups.runs({ limit: 10 });
  expect(runs.items.map(({ kind }) => kind)).toEqual(['drill', 'verify', 'backup', 'backup']);
  expect(agent.audited).toEqual(
    expect.arrayContaining([
      `backup backup.create backup:${first}`,
      `test backup.verify backup:${first}`,
      `test backup.drill backup:${first}`,
    ]),
  );
  expect(agent.reports.map(({ kind, outcome }) => `${kind} ${outcome}`)).toEqual([
    'backup succeeded',
    'backup succeeded',
    'verify succeeded',
    'drill succeeded',
  ]);
});

test('only so many runs are under way at once, and one that ends makes room', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  const drill = (waitSeconds: number) => agent.backups.drill(caller, id, { waitSeconds });
  const asked = await Promise.allSettled(Array.from({ length: 6 }, () => drill(0)));
  const refused = asked.filter(({ status }) => status === 'rejected');
  expect(refused).toEqual(
    Array(2).fill({
      status: 'rejected',
      reason: expect.objectContaining({ code: 'rate_limited', retryAfterSeconds: 10 }),
    }),
  );
  const deadline = Date.now() + 10_000;
  while ((await agent.backups.runs({ limit: 10 })).items.some(({ state }) => state === 'running')) {
    if (Date.now() > deadline) throw new Error('they do not end');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(await drill(10)).toMatchObject({ state: 'succeeded' });
});

test('a damaged backup is found, and what it would have restored stays as it is', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  const file = join(folder, 'destination', `keystead-${agent.vault.store.vaultId}-${id}.ksbackup`);
  const manifestFile = file.replace('.ksbackup', '.json');
  const bytes = readFileSync(file);
  const manifest = JSON.parse(readFileSync(manifestFile, 'utf8'));
  const { createHash } = await import('node:crypto');
  const before = (await contentRootOf(agent.vault)).contentRoot;
  const positions = [0, 8, 10, 60, 400, bytes.length >> 1, bytes.length - 1];
  for (const position of positions) {
    const changed = Buffer.from(bytes);
    changed[position] = (changed[position] as number) ^ 1;
    writeFileSync(file, changed);
    const found = await agent.backups.verify(caller, id, { waitSeconds: 10 });
    expect(found).toMatchObject({ state: 'failed', problem: { code: 'corrupt' } });
    // Somebody who can change the file can change the checksum beside it: the seal is what counts.
    const sha256 = createHash('sha256').update(changed).digest('hex');
    writeFileSync(manifestFile, JSON.stringify({ ...manifest, sha256 }));
    for (const run of [
      await agent.backups.verify(caller, id, { waitSeconds: 10 }),
      await restoreFrom(agent, id, { mode: 'full', force: true }),
      await agent.backups.drill(caller, id, { waitSeconds: 10 }),
    ]) {
      expect(run.state).toBe('failed');
      expect(['corrupt', 'wrong_key']).toContain(run.problem?.code);
    }
    writeFileSync(manifestFile, JSON.stringify(manifest));
  }
  for (const length of [0, 12, 200, bytes.length - 20]) {
    const cut = bytes.subarray(0, length);
    writeFileSync(file, cut);
    const sha256 = createHash('sha256').update(cut).digest('hex');
    writeFileSync(manifestFile, JSON.stringify({ ...manifest, sha256, bytes: length }));
    expect((await restoreFrom(agent, id, { mode: 'full', force: true })).state).toBe('failed');
  }
  expect((await contentRootOf(agent.vault)).contentRoot).toBe(before);
  expect(await recount(agent.vault)).toEqual([]);
});

test('what was restored is not called failed because the store could not be told of it at that moment', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  const change = agent.journal.change.bind(agent.journal);
  let isAway = true;
  agent.journal.change = async (...given) => {
    if (!isAway) return change(...given);
    isAway = false;
    throw new Error('the store is away');
  };
  const run = await restoreFrom(agent, id, { existing: 'replace' });
  expect(run).toMatchObject({ state: 'succeeded', problem: null });
  expect(agent.reports.slice(1).map(({ outcome }) => outcome)).toEqual(['succeeded']);
});

test('restoring an old backup over a newer store is noticed, and done when forced', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  // Unchanged since: nothing newer is lost.
  expect(await restoreFrom(agent, id, { existing: 'replace', dryRun: true })).toMatchObject({
    state: 'succeeded',
    result: { replaced: 3 },
  });
  await put(agent, 'app', 'api', 'newer');
  await put(agent, 'late', 'secret', 'made after');
  for (const order of [{ mode: 'full' }, { existing: 'replace' }] as const) {
    const refused = await restoreFrom(agent, id, order);
    expect(refused).toMatchObject({ state: 'failed', problem: { code: 'conflict' } });
    expect(refused.problem?.message).toContain('app');
    expect(await restoreFrom(agent, id, { ...order, dryRun: true })).toMatchObject({
      problem: { code: 'conflict' },
    });
  }
  // What did not change may be taken without force, and what is not touched is in nobody's way.
  expect(
    await restoreFrom(agent, id, { namespaces: ['other'], existing: 'replace' }),
  ).toMatchObject({ state: 'succeeded', result: { replaced: 1 } });
  expect(await restoreFrom(agent, id, { existing: 'skip' })).toMatchObject({
    state: 'succeeded',
    result: { skipped: 3, created: 0 },
  });
  expect(await value(agent, 'app', 'api')).toBe('newer');
  expect(agent.forced).toHaveLength(0);

  const forced = await restoreFrom(agent, id, { mode: 'full', force: true });
  expect(forced).toMatchObject({
    state: 'succeeded',
    result: { created: 3, removedNamespaces: 4 },
  });
  expect(agent.forced).toHaveLength(1);
  expect(await value(agent, 'app', 'api')).toBe('key-canary');
  expect(await value(agent, 'late', 'secret')).toBe('not_found');
  expect(await recount(agent.vault)).toEqual([]);
});

test('a part is restored by patterns, and what is there already is told', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  await agent.vault.namespaces.delete('app');
  const part = await restoreFrom(agent, id, { namespaces: ['a*'], secrets: ['database/*'] });
  expect(part).toMatchObject({ state: 'succeeded', result: { created: 1, namespaces: 1 } });
  expect(await value(agent, 'app', 'database/password')).toBe('hunter3-canary');
  expect(await value(agent, 'app', 'api')).toBe('not_found');
  const again = await restoreFrom(agent, id);
  expect(again).toMatchObject({ state: 'failed', problem: { code: 'conflict' } });
  expect(again.problem?.message).toContain('app/database/password');
  expect(await value(agent, 'app', 'api')).toBe('not_found');
  const none = await restoreFrom(agent, id, { secrets: ['nothing*'] });
  expect(none).toMatchObject({ state: 'succeeded', result: { created: 0, namespaces: 0 } });
  expect(await recount(agent.vault)).toEqual([]);
});

test('roles and keys come back where they are missing; what was revoked since stays revoked', async () => {
  const agent = await filled();
  const store = agent.vault.store.as<import('./backup-tables.ts').BackupSchema>();
  const [a, b] = ['key_00000000000000000000000001', 'key_00000000000000000000000002'];
  const key = (id: string, revokedAtMs: number | null) => ({
    id,
    prefix: `ksv_${id.slice(-12)}`,
    digest: Buffer.alloc(32, 7),
    name: `key ${id}`,
    roles: '["admin"]',
    namespaces: '["*"]',
    created_at_ms: 1,
    created_by: 'system:test',
    expires_at_ms: null,
    last_used_at_ms: null,
    revoked_at_ms: revokedAtMs,
  });
  await store.write(async (queries) => {
    await queries
      .insertInto('api_key')
      .values([key(a as string, null), key(b as string, null)])
      .execute();
    await queries
      .insertInto('access_role')
      .values({
        name: 'mine',
        description: '',
        permissions: '[{"actions":["secret.read"],"namespaces":["app"],"secrets":["*"]}]',
        revision: 3,
        created_at_ms: 1,
        updated_at_ms: 2,
      })
      .execute();
  });
  const id = await makeBackup(agent);
  await store.write(async (queries) => {
    await queries
      .updateTable('api_key')
      .set({ revoked_at_ms: 9 })
      .where('id', '=', a as string)
      .execute();
    await queries
      .deleteFrom('api_key')
      .where('id', '=', b as string)
      .execute();
    await queries.deleteFrom('access_role').execute();
  });
  const run = await restoreFrom(agent, id, { contents: ['access'] });
  expect(run.state).toBe('succeeded');
  expect(agent.audited).toContain('test access.manage');
  const keys = await store.db.selectFrom('api_key').selectAll().orderBy('id').execute();
  expect(keys.map(({ id: keyId, revoked_at_ms }) => [keyId, revoked_at_ms])).toEqual([
    [a, 9],
    [b, null],
  ]);
  expect(Buffer.from(keys[1]?.digest ?? [])).toEqual(Buffer.alloc(32, 7));
  expect(await store.db.selectFrom('access_role').selectAll().execute()).toMatchObject([
    { name: 'mine', revision: 1 },
  ]);
});

test('audit and configuration are laid beside, never over what the agent uses', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  writeFileSync(join(folder, 'vault.yaml'), 'changed\n');
  const run = await restoreFrom(agent, id, { contents: ['audit', 'configuration'] });
  expect(run.state).toBe('succeeded');
  const laid = join(agent.spool, `restored-${id}`);
  expect(run.result?.files?.sort()).toEqual([join(laid, 'audit.log'), join(laid, 'vault.yaml')]);
  expect(readFileSync(join(laid, 'vault.yaml'), 'utf8')).toBe('server: {}\n');
  // Up to the last whole line: what was being written is not in it.
  expect(readFileSync(join(laid, 'audit.log'), 'utf8')).toBe('{"sequence":1}\n{"sequence":2}\n');
  expect(readFileSync(join(folder, 'vault.yaml'), 'utf8')).toBe('changed\n');
  writeFileSync(join(folder, 'vault.yaml'), '#'.repeat(backupLimits.configurationMaxBytes + 1));
  const asked = await agent.backups.request(caller, { contents: ['configuration'] });
  await agent.runner.runWaiting();
  expect(await agent.backups.run(asked.id)).toMatchObject({
    state: 'waiting',
    problem: { code: 'payload_too_large', message: expect.stringContaining('vault.yaml') },
  });
});

test('a backup holds what was chosen, and what it does not hold is not restored from it', async () => {
  const agent = await filled();
  const asked = await agent.backups.request(caller, { contents: ['configuration'] });
  await agent.runner.runWaiting();
  const { backupId } = await agent.backups.run(asked.id);
  expect((await agent.backups.get(backupId as string)).contents).toEqual(['configuration']);
  expect(await restoreFrom(agent, backupId as string)).toMatchObject({
    state: 'failed',
    problem: { code: 'unprocessable' },
  });
});

test('recipients open a backup without the key provider, and nobody else does', async () => {
  const pair = generateRecipient();
  const cost = { memoryKib: 8 * 1_024, passes: 1, parallelism: 1 };
  const agent = await filled({
    recipients: [
      { kind: 'x25519', publicKey: pair.publicKey },
      { kind: 'passphrase', passphrase: 'correct horse battery', cost },
    ],
  });
  await rotationOf(agent).rotations.set('app', 'api', everyDay);
  const id = await makeBackup(agent);
  const key = agent.backups.authorKey;
  await agent.close();
  agents.splice(0);
  // Store and key file are lost.
  const stranger = await open({}, freshPlace());
  const attempt = (openedBy: { passphrase: string } | { identity: string } | undefined) =>
    stranger.backups.verify(caller, id, { waitSeconds: 15, openedBy });
  expect(await attempt(undefined)).toMatchObject({ problem: { code: 'wrong_key' } });
  expect(await attempt({ passphrase: 'wrong horse battery' })).toMatchObject({
    problem: { code: 'wrong_key' },
  });
  const other = formatIdentity(generateRecipient().privateKey);
  expect(await attempt({ identity: other })).toMatchObject({ problem: { code: 'wrong_key' } });
  expect(await attempt({ identity: 'nonsense' })).toMatchObject({
    problem: { code: 'invalid_request' },
  });
  expect(await attempt({ identity: formatIdentity(pair.privateKey) })).toMatchObject({
    state: 'succeeded',
  });
  // Whoever has the recipient's key could have made it: it says who did, and that one is not known here.
  const author = { key, knownBy: null };
  const order = { mode: 'full', openedBy: { passphrase: 'correct horse battery' } } as const;
  const refused = await restoreFrom(stranger, id, order);
  expect(refused).toMatchObject({ state: 'failed', problem: { code: 'unprocessable' } });
  expect(refused.problem?.message).toContain(author.key);
  expect(await value(stranger, 'other', 'token')).toBe('not_found');
  const restored = await restoreFrom(stranger, id, { ...order, acceptUnknownAuthor: true });
  expect(restored).toMatchObject({ state: 'succeeded', result: { author } });
  expect(stranger.forced).toHaveLength(1);
  // Who may do what is not taken from somebody unknown, and nothing is rotated as they say.
  expect(
    await restoreFrom(stranger, id, { ...order, contents: ['access'], acceptUnknownAuthor: true }),
  ).toMatchObject({ state: 'failed', problem: { code: 'unprocessable' } });
  expect(restored.result).toMatchObject({ rotations: 0 });
  await expect(rotationOf(stranger).rotations.get('app', 'api')).rejects.toMatchObject({
    code: 'not_found',
  });
  const knowing = await open({ authors: [author.key] }, freshPlace());
  expect(await restoreFrom(knowing, id, order)).toMatchObject({
    state: 'succeeded',
    result: { author: { ...author, knownBy: 'configuration' }, rotations: 1 },
  });
  expect(knowing.forced).toHaveLength(0);
  expect(await value(stranger, 'other', 'token')).toBe('token-canary');
});

test('a backup of another vault is not put over secrets unnoticed', async () => {
  const agent = await filled();
  const id = await makeBackup(agent);
  await agent.close();
  agents.splice(0);
  const other = await open({}, { ...freshPlace(), keyFile: place.keyFile });
  await put(other, 'app', 'api', 'of the other vault');
  const refused = await restoreFrom(other, id, { existing: 'replace' });
  expect(refused).toMatchObject({ state: 'failed', problem: { code: 'conflict' } });
  expect(refused.problem?.message).toContain('another vault');
  expect(await value(other, 'app', 'api')).toBe('of the other vault');
});

/** A folder that remembers what was read of it. */
class Watched extends DirectoryDestination {
  readonly names: string[] = [];
  override async read(name: string, signal: AbortSignal) {
    this.names.push(name);
    return super.read(name, signal);
  }
}

test('a run that lives elsewhere is left alone; one whose process is gone is ended', async () => {
  const agent = await open();
  const add = async (by: Partial<Performer>) => {
    const row = await agent.journal.add({
      kind: 'restore',
      state: 'running',
      requestedBy: 'test',
      asked: { by: { host: hostname(), process: process.pid, run: 'earlier', ...by } },
    });
    return row.id;
  };
  const state = async (id: string) => (await agent.backups.run(id)).state;
  const living = await add({ process: process.ppid });
  const elsewhere = await add({ host: 'another-host' });
  const mine = await add({ run: thisRun.run });
  const earlier = await add({});
  const gone = await add({ process: 2 ** 30 });
  await agent.backups.start();
  expect(await state(living)).toBe('running');
  expect(await state(elsewhere)).toBe('running');
  expect(await state(mine)).toBe('running');
  expect(await state(earlier)).toBe('failed');
  expect(await state(gone)).toBe('failed');
  // What began so long ago lives nowhere.
  await agent.close();
  agents.splice(0);
  const late = await open({ now: () => Date.now() + 24 * 3_600_000 });
  expect(await late.backups.run(elsewhere)).toMatchObject({ problem: { code: 'interrupted' } });
});

/** A folder that fails so many times. */
class Troubled extends DirectoryDestination implements BackupDestination {
  failures = 0;
  override readonly label: string;
  constructor(path: string) {
    super(path);
    this.label = `local:${path}`;
  }
  override async put(name: string, file: string, signal: AbortSignal): Promise<void> {
    if (this.failures > 0) {
      this.failures -= 1;
      throw new DestinationError(this.label, 'full', 'ENOSPC');
    }
    return super.put(name, file, signal);
  }
}

test('a failure is tried again with growing pauses, where it failed alone; the last one alerts', async () => {
  let nowMs = Date.now();
  const good = new DirectoryDestination(join(folder, 'good'));
  const bad = new Troubled(join(folder, 'bad'));
  bad.failures = 2;
  const agent = await filled({ destinations: [good, bad], now: () => nowMs });
  const asked = await agent.backups.request(caller, {});
  const pauses: number[] = [];
  for (let attempt = 1; attempt <= 2; attempt += 1) {
    await agent.runner.runWaiting();
    const run = await agent.backups.run(asked.id);
    expect(run).toMatchObject({
      state: 'waiting',
      attempt: attempt + 1,
      problem: { code: 'full' },
    });
    // Not before its time.
    await agent.runner.runWaiting();
    expect((await agent.backups.run(asked.id)).attempt).toBe(attempt + 1);
    pauses.push(Date.parse(run.nextAttemptAt ?? '') - nowMs);
    nowMs = Date.parse(run.nextAttemptAt ?? '');
  }
  expect(pauses[1]).toBeGreaterThan(pauses[0] as number);
  await agent.runner.runWaiting();
  expect((await agent.backups.run(asked.id)).state).toBe('succeeded');
  // The good one got it at the first attempt and not again.
  expect(readdirSync(join(folder, 'good'))).toHaveLength(2);
  expect(readdirSync(join(folder, 'bad'))).toHaveLength(2);
  expect(agent.reports.map(({ outcome, attempt }) => `${outcome} ${attempt}`)).toEqual([
    'failed 1',
    'failed 2',
    'succeeded 3',
  ]);

  bad.failures = 1_000;
  const hopeless = await agent.backups.request(caller, {});
  for (let attempt = 1; attempt <= 10; attempt += 1) {
    await agent.runner.runWaiting();
    nowMs += 3_600_000;
  }
  expect(await agent.backups.run(hopeless.id)).toMatchObject({ state: 'gave-up', attempt: 5 });
  expect(agent.reports.filter(({ outcome }) => outcome === 'gave-up')).toHaveLength(1);
  expect(readdirSync(agent.spool)).toEqual([]);
});

test('what lies at no destination has not succeeded, whoever was asked and whoever makes it', async () => {
  const steps: string[] = [];
  const maker = await filled({
    destinations: [],
    settings: { schedule: '0 * * * *' },
    onStep: (step) => void steps.push(step),
  });
  const asker = await open({ holder: 'a command' });
  const asked = await asker.backups.request(caller, {});
  await maker.runner.runWaiting();
  expect(await asker.backups.run(asked.id)).toMatchObject({
    state: 'waiting',
    attempt: 2,
    problem: {
      message: expect.stringContaining('is not configured at the agent that makes the backup'),
    },
  });
  await maker.journal.addScheduled(Date.now());
  await maker.runner.runWaiting();
  const { items } = await maker.backups.runs({ limit: 10 });
  expect(items.map(({ state }) => state)).toEqual(['waiting', 'waiting']);
  expect(maker.reports.map(({ outcome }) => outcome)).toEqual(['failed', 'failed']);
  // Nothing is read and sealed for nowhere.
  expect(steps).toEqual(['begun', 'begun']);
});

test('one destination that is damaged or away does not matter where another has the backup', async () => {
  const one = new DirectoryDestination(join(folder, 'one'));
  const two = new DirectoryDestination(join(folder, 'two'));
  const agent = await filled({ destinations: [one, two] });
  const id = await makeBackup(agent);
  const name = `keystead-${agent.vault.store.vaultId}-${id}.ksbackup`;
  writeFileSync(join(folder, 'one', name), 'damaged');
  expect(await agent.backups.verify(caller, id, { waitSeconds: 10 })).toMatchObject({
    state: 'succeeded',
  });
  expect(
    await agent.backups.verify(caller, id, { waitSeconds: 10, destination: one.label }),
  ).toMatchObject({ state: 'failed', problem: { code: 'corrupt' } });
  rmSync(join(folder, 'one'), { recursive: true });
  writeFileSync(join(folder, 'one'), 'no folder any more');
  expect((await agent.backups.get(id)).destinations).toEqual([two.label]);
  await expect(
    agent.backups.verify(caller, id, { waitSeconds: 0, destination: 'nowhere' }),
  ).rejects.toMatchObject({ code: 'unprocessable' });
});

test('what need not be kept goes, of this vault alone, and files without a manifest with it', async () => {
  const agent = await filled({ settings: { retention: { keepLast: 2 } } });
  const destination = join(folder, 'destination');
  const ids = [await makeBackup(agent), await makeBackup(agent)];
  const foreign = 'keystead-vlt_00000000000000000000000000-bkp_00000000000000000000000000';
  writeFileSync(join(destination, `${foreign}.ksbackup`), 'of another vault');
  const orphan = `keystead-${agent.vault.store.vaultId}-bkp_00000000000000000000000000.ksbackup`;
  writeFileSync(join(destination, orphan), 'never got a manifest');
  ids.push(await makeBackup(agent));
  expect((await agent.backups.list({ limit: 10 })).items.map(({ id }) => id)).toEqual([
    ids[2],
    ids[1],
  ]);
  const names = readdirSync(destination);
  expect(names).toHaveLength(5);
  expect(names).toContain(`${foreign}.ksbackup`);
  expect(names).not.toContain(orphan);
});

test('the schedule makes one backup for each time, and one for all that were missed', async () => {
  let nowMs = Date.parse('2027-01-01T00:30:00Z');
  const agent = await filled({
    now: () => nowMs,
    settings: { schedule: '0 2 * * *' },
  });
  agent.runner.start();
  const runs = async () => (await agent.backups.runs({ limit: 50 })).items;
  const settled = async (count: number) => {
    agent.runner.poke();
    await expect
      .poll(
        async () => {
          agent.runner.poke();
          return (await runs()).filter(({ state }) => state === 'succeeded').length;
        },
        { timeout: 8_000 },
      )
      .toBe(count);
    expect(await runs()).toHaveLength(count);
  };
  await settled(0);
  nowMs = Date.parse('2027-01-01T02:00:01Z');
  await settled(1);
  // Five nights asleep.
  nowMs = Date.parse('2027-01-06T12:00:00Z');
  await settled(2);
  expect((await runs()).map(({ trigger }) => trigger)).toEqual(['schedule', 'schedule']);
});

test('while the clock is doubted the schedule goes by the time that is believed, and nothing expires', async () => {
  let realMs = Date.parse('2027-01-01T00:30:00Z');
  let stepMs = 0;
  const witness = await openTestVault(freshPlace(), { migrations: clockMigrations });
  const clock = await TrustedClock.open({
    store: witness.store.as<ClockTables>(),
    writer: 'one',
    now: () => realMs + stepMs,
    monotonicMs: () => realMs,
  });
  const agent = await filled({
    clock,
    now: () => realMs + stepMs,
    settings: { schedule: '0 2 * * *', retention: { keepLast: 1 } },
  });
  const stored = async () => (await agent.backups.list({ limit: 50 })).items.length;
  const scheduled = async () => {
    const { items } = await agent.backups.runs({ limit: 50 });
    return items.filter(({ trigger }) => trigger === 'schedule').map(({ state }) => state);
  };
  await makeBackup(agent);
  realMs += 60_000;
  await makeBackup(agent);
  expect(await stored()).toBe(1);
  agent.runner.start();
  for (const step of [3_652 * 86_400_000, -3_652 * 86_400_000]) {
    const before = await stored();
    const runs = await scheduled();
    stepMs = step;
    expect(clock.doubt).toBeDefined();
    for (let backup = 1; backup <= 2; backup += 1) {
      realMs += 60_000;
      expect(await agent.backups.request(caller, {}, 10)).toMatchObject({ state: 'succeeded' });
      expect(await stored()).toBe(before + backup);
    }
    expect(await scheduled()).toEqual(runs);
    stepMs = 0;
    realMs += 86_400_000;
    agent.runner.poke();
    await expect.poll(scheduled, { timeout: 8_000 }).toEqual(['succeeded', ...runs]);
  }
  expect(agent.errors).toEqual([]);
  await closeVaults();
});

test('a request waits for its end as long as it is asked to', async () => {
  const agent = await filled();
  agent.runner.start();
  const run = await agent.backups.request(caller, {}, 10);
  expect(run.state).toBe('succeeded');
  const none = await open({ destinations: [] }, freshPlace(), mkdtempSync(join(base, 'none-')));
  await expect(none.backups.request(caller, {})).rejects.toMatchObject({ code: 'unprocessable' });
  await expect(
    agent.backups.request(caller, { destinations: ['local:/nowhere'] }),
  ).rejects.toMatchObject({ code: 'unprocessable' });
});

test('changes while a backup is made are in it as a whole or not at all', async () => {
  const agent = await filled();
  const stop = new AbortController();
  const writing = (async () => {
    for (let index = 0; !stop.signal.aborted; index += 1) {
      await agent.vault.secrets.update(caller, 'app', 'api', { value: `${index}` });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  try {
    for (let round = 0; round < 2; round += 1) {
      const id = await makeBackup(agent);
      expect(await agent.backups.drill(caller, id, { waitSeconds: 10 })).toMatchObject({
        state: 'succeeded',
      });
    }
  } finally {
    stop.abort();
    await writing;
  }
});

test('records of the token vault come back under their own passwords, in another store too', async () => {
  const password = 'a password of the application';
  const agent = await filled({ settings: { contents: ['secrets', 'records'] } });
  const tokens = await TokenVault.open(agent.vault.store, () => undefined);
  const make = (text: string, name: string) =>
    tokens.create({
      value: text,
      encoding: 'text',
      password,
      data: { name },
      expiresAt: null,
    } as never);
  const first = await make('record-canary', 'one');
  const second = await make('other-canary', 'two');
  const id = await makeBackup(agent);

  const there = { ...freshPlace(), keyFile: place.keyFile };
  const rescued = await open({}, there, folder);
  const reader = await TokenVault.open(rescued.vault.store, () => undefined);
  const run = await restoreFrom(rescued, id, { mode: 'full', contents: ['secrets', 'records'] });
  expect(run).toMatchObject({ state: 'succeeded', result: { records: 2, created: 3 } });
  const read = (token: string) =>
    reader.readValue(testCaller(), { token, password } as never).then(({ value: text }) => text);
  expect(await read(first.token)).toBe('record-canary');
  expect(await read(second.token)).toBe('other-canary');

  // What is there already is told, skipped or, where it is newer, put back by force alone.
  const records = (order: object) => restoreFrom(agent, id, { contents: ['records'], ...order });
  expect(await records({})).toMatchObject({ state: 'failed', problem: { code: 'conflict' } });
  expect(await records({ existing: 'skip' })).toMatchObject({ result: { records: 0 } });
  await make('newer', 'three');
  expect(await records({ mode: 'full' })).toMatchObject({ problem: { code: 'conflict' } });
  expect(await records({ existing: 'replace' })).toMatchObject({ result: { records: 2 } });
  expect(await records({ mode: 'full', force: true })).toMatchObject({ result: { records: 2 } });
  expect(agent.forced).toHaveLength(1);
  await Promise.all([tokens.close(), reader.close()]);
});

/** Puts a backup to the destination that was made in another way than a runner makes them. */
async function putMadeUp(
  agent: TestAgent,
  parts: {
    contents: BackupContent[];
    sections: (made: BackupSections) => AsyncIterable<Section>;
    summary: (made: BackupSections) => BackupSummary;
  },
) {
  const { vault, destinations } = agent;
  const pair = generateRecipient();
  const id = 'bkp_00000000000000000000000001';
  const { vaultId } = vault.store;
  const file = join(folder, 'made-up');
  const header = {
    id,
    vaultId,
    createdAtMs: Date.now(),
    agentVersion: 'test',
    contents: parts.contents,
    wrappedKey: null,
  };
  const written = await vault.store.snapshot(async (queries) => {
    const made = new BackupSections(queries as never, vault.keys, {}, parts.contents);
    return writeBackup(
      file,
      header,
      [{ kind: 'x25519', publicKey: pair.publicKey }],
      parts.sections(made),
      () => parts.summary(made),
      new AbortController().signal,
    );
  });
  const name = `keystead-${vaultId}-${id}`;
  const manifest = { ...header, createdAt: new Date().toISOString(), format: 1, ...written };
  const { createdAtMs: _at, wrappedKey: _key, ...facts } = manifest;
  writeFileSync(
    `${file}.json`,
    JSON.stringify({ ...facts, namespaces: 3, secrets: 3, versions: 4 }),
  );
  const never = new AbortController().signal;
  await destinations[0]?.put(`${name}.ksbackup`, file, never);
  await destinations[0]?.put(`${name}.json`, `${file}.json`, never);
  return { id, openedBy: { identity: formatIdentity(pair.privateKey) } };
}

test('what is in a backup is not believed where it is not what the backup says', async () => {
  const agent = await filled();
  const { id, openedBy } = await putMadeUp(agent, {
    contents: ['secrets'],
    sections: (made) => made.sections(),
    summary: (made) => ({ ...made.summary, contentRoot: '0'.repeat(64) }),
  });
  for (const run of [
    await agent.backups.verify(caller, id, { waitSeconds: 10, openedBy }),
    await agent.backups.drill(caller, id, { waitSeconds: 10, openedBy }),
    await restoreFrom(agent, id, {
      existing: 'replace',
      force: true,
      acceptUnknownAuthor: true,
      openedBy,
    }),
  ]) {
    expect(run).toMatchObject({ state: 'failed', problem: { code: 'corrupt' } });
    expect(run.problem?.message).toContain('something else than it says');
  }
  expect(readdirSync(agent.spool)).toEqual([]);
});

test('no file of a backup lands outside its folder, and its configuration has a limit', async () => {
  const agent = await filled();
  const made = async (file: string, bytes = 10) => {
    const content = Readable.from([Buffer.alloc(bytes, '#')]);
    return putMadeUp(agent, {
      contents: ['configuration'],
      sections: async function* () {
        yield { name: 'configuration', file, content };
      },
      summary: (sections) => sections.summary,
    });
  };
  const restored = async (file: string, bytes?: number) => {
    const { id, openedBy } = await made(file, bytes);
    const contents: BackupContent[] = ['configuration'];
    return restoreFrom(agent, id, { contents, acceptUnknownAuthor: true, openedBy });
  };
  for (const file of ['../outside', '/tmp/outside', '..', '.hidden', 'a/b', 'a\\b', 'a\0b', '']) {
    expect(await restored(file), file).toMatchObject({
      state: 'failed',
      problem: { code: 'corrupt' },
    });
  }
  expect(await restored('vault.yaml', backupLimits.configurationMaxBytes + 1)).toMatchObject({
    state: 'failed',
    problem: { code: 'payload_too_large' },
  });
  expect(readdirSync(agent.spool)).toEqual([]);
  expect(readdirSync(folder)).not.toContain('outside');
});

test('a backup of before rotations were in them is restored, and rotation goes on as it was set here', async () => {
  const agent = await filled();
  const { rotations, orphans } = rotationOf(agent);
  await rotations.set('app', 'api', everyDay);
  const { id, openedBy } = await putMadeUp(agent, {
    contents: ['secrets'],
    async *sections(made) {
      for await (const section of made.sections()) if (section.name === 'secrets') yield section;
    },
    summary: (made) => {
      const { namespaces, secrets, versions, revisions } = made.summary;
      return { namespaces, secrets, versions, revisions, contentRoot: made.root.of(undefined) };
    },
  });
  for (const order of ['verify', 'drill'] as const) {
    expect(await agent.backups[order](caller, id, { waitSeconds: 10, openedBy })).toMatchObject({
      state: 'succeeded',
      result: { secrets: 3 },
    });
  }
  await put(agent, 'late', 'secret', 'not in it');
  await rotations.set('late', 'secret', everyDay);
  const restored = await restoreFrom(agent, id, {
    mode: 'full',
    force: true,
    acceptUnknownAuthor: true,
    openedBy,
  });
  expect(restored).toMatchObject({ state: 'succeeded', result: { rotations: 0 } });
  expect(await rotations.get('app', 'api')).toMatchObject({ policy: everyDay });
  expect(await orphans()).toEqual([]);
});

test('a backup that somebody made up who knows a recipient is not taken for one of this vault', async () => {
  const agent = await filled();
  const real = await makeBackup(agent);
  expect(await agent.backups.get(real)).toMatchObject({ author: agent.backups.authorKey });
  expect(await restoreFrom(agent, real, { existing: 'replace' })).toMatchObject({
    result: { author: { key: agent.backups.authorKey, knownBy: 'vault' } },
  });
  const forged = await putMadeUp(agent, {
    contents: ['secrets'],
    sections: (made) => made.sections(),
    summary: (made) => made.summary,
  });
  const attempt = () =>
    restoreFrom(agent, forged.id, { existing: 'replace', force: true, openedBy: forged.openedBy });
  const refused = await attempt();
  expect(refused).toMatchObject({ state: 'failed', problem: { code: 'unprocessable' } });
  expect(refused.problem?.message).toContain('says not who made it');

  // Signed by the forger, and with a signature of the vault's that is of another backup.
  const manifestFile = (id: string) =>
    join(folder, 'destination', `keystead-${agent.vault.store.vaultId}-${id}.json`);
  const manifest = JSON.parse(readFileSync(manifestFile(forged.id), 'utf8'));
  const forger = new BackupAuthor(generateKey());
  writeFileSync(manifestFile(forged.id), JSON.stringify(forger.sign(manifest)));
  expect((await attempt()).problem?.message).toContain(forger.publicKey);
  const { author } = JSON.parse(readFileSync(manifestFile(real), 'utf8'));
  writeFileSync(manifestFile(forged.id), JSON.stringify({ ...manifest, author }));
  expect(await attempt()).toMatchObject({ problem: { code: 'corrupt' } });
  expect((await agent.backups.get(forged.id)).author).toBeNull();

  // Another vault with the same key provider knows the author by that; without the signature, nobody.
  const rescued = await open({}, { ...freshPlace(), keyFile: place.keyFile });
  expect(await restoreFrom(rescued, real, { mode: 'full' })).toMatchObject({
    state: 'succeeded',
    result: { author: { key: author.key, knownBy: 'key-provider' } },
  });
  const { author: _author, ...unsigned } = JSON.parse(readFileSync(manifestFile(real), 'utf8'));
  writeFileSync(manifestFile(real), JSON.stringify(unsigned));
  expect(await restoreFrom(agent, real, { existing: 'replace' })).toMatchObject({
    problem: { code: 'unprocessable' },
  });
});

test.each([
  ['permissions', { permissions: '[{"actions":["secret.fly"]}]' }, 'permissions.0.actions.0'],
  ['a name that is built in', { name: 'admin' }, 'name is the name of a built-in role'],
])(
  'roles with %s that the API would not take are refused, and it is said where',
  async (_name, wrong, told) => {
    const agent = await filled();
    const good = {
      name: 'mine',
      description: '',
      permissions: '[{"actions":["secret.read"],"namespaces":["app"],"secrets":["*"]}]',
      revision: 1,
      created_at_ms: 1,
      updated_at_ms: 2,
    };
    const store = agent.vault.store.as<import('./backup-tables.ts').BackupSchema>();
    await store.write((queries) =>
      queries
        .insertInto('access_role')
        .values({ ...good, ...wrong })
        .execute(),
    );
    const id = await makeBackup(agent);
    await store.write((queries) => queries.deleteFrom('access_role').execute());
    for (const run of [
      await restoreFrom(agent, id, { contents: ['access'] }),
      await agent.backups.verify(caller, id, { waitSeconds: 10 }),
    ]) {
      expect(run).toMatchObject({ state: 'failed', problem: { code: 'corrupt' } });
      expect(run.problem?.message).toContain(`the access of the backup, line 1: ${told}`);
    }
    expect(await store.db.selectFrom('access_role').selectAll().execute()).toEqual([]);
  },
);

// Rotation

const everyDay = rotationPolicy.parse({
  rotator: { kind: 'generated' },
  everySeconds: 86_400,
  afterUses: 5,
  noticeSeconds: 0,
});

function rotationOf(agent: TestAgent, now: () => number = Date.now) {
  const runner = new RotationRunner({
    store: agent.vault.store.as<RotationSchema>(),
    secrets: agent.vault.secrets,
    leases: agent.leases,
    door: { perform: async (_caller, _errand, work) => work({} as never) },
    allowed: () => ({ scripts: {}, modules: {}, httpHosts: [] }),
    report: () => undefined,
    onError: (error) => agent.errors.push(error),
    random: () => 0,
    now,
  });
  const rotations = new Rotations({
    store: agent.vault.store,
    directory: agent.vault.directory,
    allowed: () => ({ scripts: {}, modules: {}, httpHosts: [] }),
    poke: () => undefined,
    now,
  });
  const store = agent.vault.store.as<RotationSchema>();
  return {
    runner,
    rotations,
    runOnce: () => agent.leases.hold('rotation', 30_000, (lease) => runner.runOnce(lease)),
    /** Rows that point at no secret, or with a namespace that is not the secret's. */
    async orphans() {
      const found: string[] = [];
      for (const table of ['rotation', 'rotation_run', 'rotation_retirement'] as const) {
        const rows = await store.db
          .selectFrom(table)
          .leftJoin('secret', 'secret.id', `${table}.secret_id`)
          .select([`${table}.secret_id as of`, 'secret.id'])
          .execute();
        found.push(...rows.filter(({ id }) => id === null).map((row) => `${table} ${row.of}`));
      }
      const misplaced = await store.db
        .selectFrom('rotation')
        .innerJoin('secret', 'secret.id', 'rotation.secret_id')
        .select('rotation.secret_id')
        .whereRef('secret.namespace_id', '!=', 'rotation.namespace_id')
        .execute();
      return [...found, ...misplaced.map((row) => row.secret_id)];
    },
  };
}

test('rotation goes on after a full restore, in the same store and in an empty one', async () => {
  let nowMs = Date.now();
  const agent = await filled({ now: () => nowMs });
  const { rotations, runOnce, orphans } = rotationOf(agent, () => nowMs);
  await rotations.set('app', 'api', everyDay);
  nowMs += 86_401_000;
  await runOnce();
  for (let time = 0; time < 2; time += 1) await value(agent, 'app', 'api');
  await agent.vault.accesses.settle();
  const before = await rotations.get('app', 'api');
  expect(before).toMatchObject({
    usesSinceRotation: 2,
    lastRun: { outcome: 'succeeded' },
    retiring: [{ version: 1 }],
  });
  const id = await makeBackup(agent);
  expect(await agent.backups.drill(caller, id, { waitSeconds: 10 })).toMatchObject({
    state: 'succeeded',
    result: { rotations: 1 },
  });

  nowMs += 1_000;
  await rotations.set('other', 'token', everyDay);
  await rotations.set('app', 'api', { ...everyDay, everySeconds: 3_600 });
  await put(agent, 'late', 'secret', 'made after');
  await rotations.set('late', 'secret', everyDay);
  await rotations.rotateNow(caller, 'late', 'secret');
  await runOnce();
  expect(await rotations.get('late', 'secret')).toMatchObject({ lastRun: { newVersion: 2 } });
  const restored = await restoreFrom(agent, id, { mode: 'full', force: true });
  expect(restored).toMatchObject({ state: 'succeeded', result: { rotations: 1 } });
  const { etag: _etag, ...kept } = before;
  expect(await rotations.get('app', 'api')).toMatchObject({ ...kept, retiring: [] });
  await expect(rotations.get('other', 'token')).rejects.toMatchObject({ code: 'not_found' });
  expect(await orphans()).toEqual([]);
  expect((await rotations.list({ limit: 10, namespace: 'app' } as never)).items).toHaveLength(1);

  const there = { ...freshPlace(), keyFile: place.keyFile };
  const rescued = await open({ now: () => nowMs }, there);
  expect(await restoreFrom(rescued, id, { mode: 'full' })).toMatchObject({ state: 'succeeded' });
  const again = rotationOf(rescued, () => nowMs);
  expect(await again.rotations.get('app', 'api')).toMatchObject({
    policy: everyDay,
    nextDueAt: before.nextDueAt,
    lastRotatedAt: before.lastRotatedAt,
    usesSinceRotation: 2,
  });
  nowMs += 86_401_000;
  for (const [each, { rotations: of, runOnce: run }] of [
    [agent, { rotations, runOnce }],
    [rescued, again],
  ] as const) {
    const old = await value(each, 'app', 'api');
    await run();
    expect(await of.get('app', 'api')).toMatchObject({
      lastRun: { outcome: 'succeeded', trigger: 'interval', oldVersion: 2, newVersion: 3 },
    });
    expect(await value(each, 'app', 'api')).not.toBe(old);
    expect(each.errors).toEqual([]);
  }
});

test('a secret that is replaced keeps its rotation and its readings, and no version of before is retired', async () => {
  let nowMs = Date.now();
  const agent = await filled({ now: () => nowMs });
  const { rotations, runOnce } = rotationOf(agent, () => nowMs);
  const id = await makeBackup(agent);
  await rotations.set('app', 'api', { ...everyDay, overlapSeconds: 60 });
  nowMs += 86_401_000;
  await runOnce();
  const readings = async (times: number) => {
    for (let time = 0; time < times; time += 1) await value(agent, 'app', 'api');
    await agent.vault.accesses.settle();
  };
  await readings(4);
  const replaced = await restoreFrom(agent, id, { existing: 'replace', force: true });
  expect(replaced).toMatchObject({ state: 'succeeded', result: { replaced: 3, rotations: 0 } });
  expect(await rotations.get('app', 'api')).toMatchObject({ usesSinceRotation: 4, retiring: [] });
  // Version 1, which was to be retired, is the current one again; and a fifth reading is one too many.
  nowMs += 61_000;
  await runOnce();
  expect(await value(agent, 'app', 'api')).toBe('key-canary');
  await readings(1);
  nowMs += 11_000;
  await runOnce();
  expect(await rotations.get('app', 'api')).toMatchObject({
    lastRun: { trigger: 'uses', outcome: 'succeeded', oldVersion: 1 },
  });
  expect(agent.errors).toEqual([]);
});

test('an agent that rotates while its secret is replaced changes nothing of what came', async () => {
  const agent = await filled();
  const { rotations, runner } = rotationOf(agent);
  const id = await makeBackup(agent);
  await rotations.set('app', 'api', everyDay);
  const lease = await agent.leases.acquire('rotation', 60_000);
  const update = agent.vault.secrets.promoteVersion.bind(agent.vault.secrets);
  let isReplaced = false;
  agent.vault.secrets.promoteVersion = async (...given) => {
    if (!isReplaced) {
      isReplaced = true;
      await restoreFrom(agent, id, { existing: 'replace', force: true });
    }
    return update(...given);
  };
  await rotations.rotateNow(caller, 'app', 'api');
  await runner.runOnce(lease as NonNullable<typeof lease>);
  expect(isReplaced).toBe(true);
  expect(await value(agent, 'app', 'api')).toBe('key-canary');
  expect(await rotations.get('app', 'api')).toMatchObject({
    state: 'scheduled',
    lastRun: { outcome: 'failed', problem: { code: 'replaced' } },
  });
});

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  formatIdentity,
  formatRecipient,
  generateRecipient,
} from '@keystead/envelope/sealed-stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Answer, command, TestAgent } from '../agent-process.fixture.ts';

let agent: TestAgent;
beforeAll(async () => {
  // What seals backups is the agent's to have: commands that make none do without.
  agent = await TestAgent.make((yaml) =>
    yaml.replace(
      /^backup:[\s\S]*?\n\n/m,
      `backup:
  enabled: true
  passphrase: { variable: "TEST_SEAL" }
  destinations: [{ type: local, path: backups }]

`,
    ),
  );
  await agent.run({ TEST_SEAL: 'a passphrase of the backups' });
  await ok('POST', '/v1/namespaces', { name: 'app', tags: ['env=test'] });
});
afterAll(() => agent.remove());

async function ok(method: string, path: string, body?: unknown): Promise<Answer['body']> {
  const answer = await agent.send(method, path, body === undefined ? {} : { body });
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
  return answer.body;
}
const put = (name: string, value: string, namespace = 'app') =>
  ok('POST', `/v1/namespaces/${namespace}/secrets`, { name, value });
const readValue = async (namespace: string, name: string) =>
  (await ok('GET', `/v1/namespaces/${namespace}/secrets/${name}/value`)).value;

async function exported(body: object, key = agent.adminKey) {
  const answer = await fetch(`http://127.0.0.1:${agent.port}/v1/namespaces/app/export`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return { answer, bytes: Buffer.from(await answer.arrayBuffer()) };
}
const imported = (
  namespace: string,
  bytes: Buffer,
  archiveKey: string,
  query = '',
  key?: string,
  more: Record<string, string> = {},
) =>
  agent.send('POST', `/v1/namespaces/${namespace}/import${query}`, {
    bytes,
    key,
    headers: {
      'content-type': 'application/octet-stream',
      'keystead-archive-key': archiveKey,
      ...more,
    },
  });

test('every change of a secret has its route', async () => {
  await put('key', 'one');
  const path = '/v1/namespaces/app/secrets/key';
  expect(await ok('PATCH', path, { value: 'two', tags: ['t'] })).toMatchObject({ version: 2 });
  expect(await ok('POST', `${path}/rollback`, { version: 1 })).toMatchObject({ version: 3 });
  expect(await readValue('app', 'key')).toBe('one');
  expect(await ok('GET', `${path}/versions`)).toMatchObject({
    items: [{ version: 3, origin: 'rollback:1' }, { version: 2 }, { version: 1 }],
    nextCursor: null,
  });
  const page = await ok('GET', `${path}/versions?limit=2`);
  expect(await ok('GET', `${path}/versions?limit=2&cursor=${page.nextCursor}`)).toMatchObject({
    items: [{ version: 1 }],
  });
  expect(await ok('DELETE', `${path}/versions/2`)).toMatchObject({ state: 'deleted' });
  await ok('POST', `${path}/undelete`, { version: 2 });
  expect(await ok('POST', `${path}/versions/2/destroy`)).toMatchObject({ state: 'destroyed' });
  expect(await ok('GET', `${path}/versions/2`)).toMatchObject({ byteLength: 0 });
  expect(await ok('DELETE', path)).toMatchObject({ state: 'deleted' });
  expect(await agent.send('GET', `${path}/value`)).toMatchObject({
    status: 410,
    body: { code: 'gone' },
  });
  expect(await ok('POST', `${path}/undelete`)).toMatchObject({ state: 'active' });
  expect(await agent.send('POST', `${path}/destroy`)).toMatchObject({ status: 204 });
  expect(await agent.send('GET', path)).toMatchObject({ status: 404 });
});

test('namespaces are copied, moved, counted and deleted', async () => {
  await put('a', 'value of a');
  for (let reading = 0; reading < 3; reading += 1) await readValue('app', 'a');
  expect(await ok('POST', '/v1/namespaces/app/copy', { to: 'copy' })).toMatchObject({
    namespace: { name: 'copy', tags: ['env=test'] },
    copiedSecrets: 1,
  });
  expect(await ok('POST', '/v1/namespaces/copy/move', { to: 'moved' })).toMatchObject({
    name: 'moved',
  });
  expect(await readValue('moved', 'a')).toBe('value of a');
  expect(await ok('GET', '/v1/namespaces/app/statistics?top=1')).toMatchObject({
    secretCount: 1,
    topSecrets: [{ name: 'a', accessCount: 3 }],
  });
  const log = await ok('GET', '/v1/namespaces/app/access-log?limit=2');
  expect(log.items).toHaveLength(2);
  const next = await ok('GET', `/v1/namespaces/app/access-log?limit=2&cursor=${log.nextCursor}`);
  expect(next.items).toHaveLength(2);
  expect(await agent.send('DELETE', '/v1/namespaces/moved?onlyEmpty=true')).toMatchObject({
    status: 409,
  });
  expect(await ok('DELETE', '/v1/namespaces/moved')).toEqual({ name: 'moved', deletedSecrets: 1 });
});

test('an archive goes out and comes in, for a passphrase and for a recipient', async () => {
  await put('binary', 'ÿ😀');
  const passphrase = 'correct horse ü battery staple';
  const sealed = await exported({ passphrase });
  expect(sealed.answer.status).toBe(200);
  expect(sealed.answer.headers.get('content-disposition')).toContain('app.keystead');
  const inHeader = Buffer.from(passphrase).toString('base64');
  const dry = await imported('twin', sealed.bytes, inHeader, '?createNamespace=true&dryRun=true');
  expect(dry).toMatchObject({ status: 200, body: { dryRun: true, created: 2 } });
  expect(await agent.send('GET', '/v1/namespaces/twin')).toMatchObject({ status: 404 });
  expect(await imported('twin', sealed.bytes, inHeader)).toMatchObject({ status: 404 });
  expect(await imported('twin', sealed.bytes, inHeader, '?createNamespace=true')).toMatchObject({
    status: 200,
    body: { created: 2 },
  });
  expect(await readValue('twin', 'binary')).toBe(await readValue('app', 'binary'));
  expect(await imported('twin', sealed.bytes, inHeader)).toMatchObject({
    status: 409,
    body: { code: 'conflict', detail: expect.stringContaining('twin/a') },
  });
  const wrong = Buffer.from('another horse battery staple').toString('base64');
  for (const key of [wrong, 'not base64!', 'keystead-identity-nonsense', '']) {
    expect(await imported('twin', sealed.bytes, key), key).toMatchObject({ status: 400 });
  }
  const pair = generateRecipient();
  const forRecipient = await exported({ recipient: formatRecipient(pair.publicKey) });
  const identity = formatIdentity(pair.privateKey);
  expect(await imported('twin', forRecipient.bytes, identity, '?existing=replace')).toMatchObject({
    status: 200,
    body: { replaced: 2 },
  });
  const watched = async (query: string) => {
    const answer = await imported('twin', forRecipient.bytes, identity, query, undefined, {
      accept: 'application/x-ndjson',
    });
    const lines = answer.headers['content-type'] === 'application/x-ndjson';
    return {
      ...answer,
      lines: lines
        ? answer.text
            .trim()
            .split('\n')
            .map((l) => JSON.parse(l))
        : [],
    };
  };
  // Each phase as it begins, and at last what came of it.
  expect((await watched('?existing=replace')).lines).toMatchObject([
    { phase: 'checking', replaced: 2 },
    { phase: 'writing', replaced: 2 },
    { result: { namespace: 'twin', replaced: 2 } },
  ]);
  expect(agent.audit().at(-1)).toMatchObject({ action: 'namespace.import', result: 'done' });
  expect((await watched('?existing=fail')).lines.at(-1)).toMatchObject({
    problem: { status: 409, code: 'conflict' },
  });
  expect(agent.audit().at(-1)).toMatchObject({ result: 'refused', code: 'conflict' });
  // What is refused before anything was told has its status.
  expect(await watched('?existing=maybe')).toMatchObject({ status: 400 });
  expect(await imported('twin', forRecipient.bytes.subarray(9), identity)).toMatchObject({
    status: 400,
  });
  expect((await exported({ recipient: 'keystead-recipient-x' })).answer.status).toBe(400);
  expect((await exported({})).answer.status).toBe(400);
  expect(agent.output).not.toContain(passphrase);
});

test('commands beside the agent write a namespace out and take it in, audited from before the first byte', async () => {
  const at = (name: string) => join(agent.folder, name);
  const configured = ['--config', agent.configuration];
  writeFileSync(at('passphrase'), 'correct horse battery staple\n');
  const sealedBy = ['--passphrase-file', at('passphrase')];
  const out = await command([
    'export',
    ...configured,
    ...['--namespace', 'app', '--output', at('app.keystead'), ...sealedBy, '--json'],
  ]);
  expect(out.code, out.errors).toBe(0);
  expect(JSON.parse(out.output)).toMatchObject({ namespace: 'app', secrets: 2 });
  expect(statSync(at('app.keystead')).mode & 0o777).toBe(0o600);
  const take = (...more: string[]) =>
    command([
      'import',
      ...configured,
      ...['--namespace', 'taken', '--input', at('app.keystead'), ...sealedBy, ...more],
    ]);
  expect(await take('--create-namespace', '--json')).toMatchObject({
    code: 0,
    output: expect.stringContaining('"created":2'),
    errors: 'checking: 2 secrets, 2 versions\nwriting: 2 secrets, 2 versions\n',
  });
  expect(await readValue('taken', 'a')).toBe('value of a');
  const done = agent.audit('audit.log.commands').map((entry) => `${entry.action} ${entry.result}`);
  expect(done).toEqual(
    expect.arrayContaining([
      'namespace.export started',
      'namespace.export done',
      'namespace.import done',
    ]),
  );
});

test('whoever may not make a namespace copies nothing to it, moves nothing to it and imports none', async () => {
  await agent.send('PUT', '/v1/roles/of-app', {
    body: {
      permissions: [{ actions: ['namespace.*', 'secret.*'], namespaces: ['app'], secrets: ['*'] }],
    },
  });
  const key = await agent.keyFor(['of-app']);
  const { bytes } = await exported({ passphrase: 'correct horse battery staple' }, key);
  const archiveKey = Buffer.from('correct horse battery staple').toString('base64');
  for (const verb of ['copy', 'move']) {
    expect(
      await agent.send('POST', `/v1/namespaces/app/${verb}`, { key, body: { to: 'stolen' } }),
      verb,
    ).toMatchObject({ status: 403 });
  }
  expect(await imported('stolen', bytes, archiveKey, '?createNamespace=true', key)).toMatchObject({
    status: 403,
  });
  const listed = await agent.send('GET', '/v1/namespaces', { key });
  expect(listed.body.items.map(({ name }: { name: string }) => name)).toEqual(['app']);
});

test('the master key is replaced over HTTP, and everything opens', async () => {
  const before = await ok('GET', '/v1/keys');
  expect(before).toMatchObject({ provider: 'file', masterVersion: 1, isRotating: false });
  expect(await ok('POST', '/v1/keys/rotate')).toMatchObject({ masterVersion: 2, resumed: false });
  expect(await readValue('app', 'a')).toBe('value of a');
  expect((await ok('GET', '/v1/keys')).masterVersion).toBe(2);
});

test('a backup is made, listed, verified, drilled and restored over HTTP, and the metrics tell of it', async () => {
  const waiting = { waitSeconds: 15 };
  const made = await ok('POST', '/v1/backups', waiting);
  expect(made).toMatchObject({ kind: 'backup', state: 'succeeded', result: { namespaces: 3 } });
  const { backupId: id } = made;
  expect(await ok('GET', '/v1/backups?limit=1')).toMatchObject({
    items: [{ id, destinations: [`local:${join(agent.folder, 'backups')}`] }],
    nextCursor: null,
  });
  const backup = `/v1/backups/${id}`;
  expect(await ok('GET', backup)).toMatchObject({ id, secrets: made.result.secrets });
  expect(await ok('POST', `${backup}/verify`, waiting)).toMatchObject({ state: 'succeeded' });
  const drill = await ok('POST', `${backup}/drill`, waiting);
  expect(drill.result.foundRoot).toBe(drill.result.contentRoot);
  const restored = await ok('POST', `${backup}/restore`, {
    ...waiting,
    existing: 'skip',
    dryRun: true,
  });
  expect(restored).toMatchObject({
    state: 'succeeded',
    result: { dryRun: true, created: 0, skipped: made.result.secrets },
  });
  const runs = await ok('GET', '/v1/backup-runs?limit=3');
  expect(runs.items.map(({ kind }: { kind: string }) => kind)).toEqual([
    'restore',
    'drill',
    'verify',
  ]);
  expect(await ok('GET', `/v1/backup-runs/${restored.id}`)).toEqual(restored);
  const reader = await agent.keyFor(['reader']);
  expect(await agent.send('POST', `${backup}/drill`, { key: reader, body: {} })).toMatchObject({
    status: 403,
  });
  const { text } = await agent.send('GET', '/metrics', { key: '' });
  const metric = (name: string) =>
    Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? Number.NaN);
  const ageSeconds = Date.now() / 1_000 - metric('vault_backup_last_success_timestamp_seconds');
  expect(Math.abs(ageSeconds)).toBeLessThan(600);
  expect(metric('vault_backup_last_failure_timestamp_seconds')).toBe(0);
  expect(metric('vault_backup_last_bytes')).toBe(made.result.bytes);
  expect(metric('vault_backup_next_due_timestamp_seconds')).toBeGreaterThan(Date.now() / 1_000);
  expect(metric('vault_backup_running\\{kind="backup"\\}')).toBe(0);

  expect(await agent.send('DELETE', backup)).toMatchObject({ status: 204 });
  expect(await agent.send('POST', `${backup}/verify`, { body: {} })).toMatchObject({ status: 404 });
});

test('a key file that is gone is said to be missing, and nothing is made in its place', async () => {
  const gone = join(agent.folder, 'gone.yaml');
  const yaml = readFileSync(agent.configuration, 'utf8');
  writeFileSync(gone, yaml.replace(/key_file: "[^"]*"/, 'key_file: "keys/gone.key"'));
  for (let attempt = 0; attempt < 2; attempt += 1) {
    const { code, errors } = await command(['key', 'rotate', '--config', gone]);
    expect(code).not.toBe(0);
    expect(errors).toContain('keys/gone.key is missing, and the store has keys');
    expect(existsSync(join(agent.folder, 'keys/gone.key'))).toBe(false);
  }
});

test('a command gives the master key to another provider; the agent says that it needs it', async () => {
  const next = join(agent.folder, 'next.yaml');
  const yaml = readFileSync(agent.configuration, 'utf8');
  writeFileSync(next, yaml.replace(/key_file: "[^"]*"/, 'key_file: "keys/next.key"'));
  const move = () =>
    command(['key', 'move', '--config', agent.configuration, '--to', next, '--json']);
  const moved = await move();
  expect(moved.code, moved.errors).toBe(0);
  expect(JSON.parse(moved.output)).toMatchObject({
    moved: true,
    location: expect.stringContaining('next.key'),
  });
  expect(JSON.parse((await move()).output)).toMatchObject({ moved: false });
  expect(await readValue('app', 'a')).toBe('value of a');
  const degradations = async () => (await agent.send('GET', '/healthz')).body.degradations;
  await expect.poll(degradations, { timeout: 10_000 }).toContain('key_provider_changed');
  expect(await agent.send('POST', '/v1/keys/rotate')).toMatchObject({ status: 409 });
  // Somebody with the new one replaces the master key: this agent cannot have it, and goes on.
  const rotated = await command(['key', 'rotate', '--config', next]);
  expect(rotated.code, rotated.errors).toBe(0);
  await expect.poll(degradations, { timeout: 10_000 }).toContain('key_provider_unavailable');
  const ready = await agent.send('GET', '/readyz');
  expect(ready).toMatchObject({ status: 200, body: { ready: true } });
  expect(ready.body.degradations).toContain('key_provider_unavailable');
  expect(agent.output).toContain('the key provider does not give the master key out');
  expect(await readValue('app', 'a')).toBe('value of a');
  await ok('PUT', '/v1/namespaces/app/secrets/a/value', { value: 'written meanwhile' });
  expect(await readValue('app', 'a')).toBe('written meanwhile');
  expect(await agent.send('POST', '/v1/namespaces', { body: { name: 'more' } })).toMatchObject({
    status: 503,
    body: { code: 'unavailable' },
  });
  const audited = agent
    .audit('audit.log.commands')
    .filter(({ operation }) => operation === 'keys.move');
  expect(audited.map(({ result, context }) => ({ result, context }))).toEqual([
    { result: 'started', context: { to: 'file' } },
    { result: 'done', context: undefined },
  ]);
});

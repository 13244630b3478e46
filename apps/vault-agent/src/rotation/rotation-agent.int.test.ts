import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { command, TestAgent } from '../agent-process.fixture.ts';

/** A running agent rotates over its API; its owner overrides policies from beside it. */
let agent: TestAgent;
let told: { type: string; data: { secret: string } }[];
let receiver: Server;
const path = '/v1/namespaces/payments/secrets/db%2Fpassword';

beforeAll(async () => {
  told = [];
  receiver = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    told.push(JSON.parse(Buffer.concat(chunks).toString()));
    response.writeHead(204).end();
  });
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  const { port } = receiver.address() as AddressInfo;
  agent = await TestAgent.start(
    (yaml) => `${yaml}
rotation:
  scripts:
    failing:
      argv: ["/bin/sh", "-c", "! grep -q 'step.:.apply'"]
  webhook:
    url: "http://127.0.0.1:${port}/"
    events: ["succeeded", "gave-up"]
`,
  );
  await agent.send('POST', '/v1/namespaces', { body: { name: 'payments' } });
  await agent.send('POST', '/v1/namespaces/payments/secrets', {
    body: { name: 'db/password', value: 'value-before-rotation' },
  });
});
afterAll(async () => {
  await agent.remove();
  receiver.close();
});

const value = async () => (await agent.send('GET', `${path}/value`)).body.value;

test('a secret is rotated over the API, told, audited, and its history shows it', async () => {
  expect((await agent.send('POST', `${path}/rotate`, { body: {} })).status).toBe(404);
  const set = await agent.send('PUT', `${path}/rotation`, {
    body: {
      rotator: { kind: 'generated', rules: { length: 40, required: { digits: 2 } } },
      everySeconds: 86_400,
    },
  });
  expect(set).toMatchObject({ status: 200, body: { state: 'scheduled' } });
  expect(set.headers.etag).toBe(`"${set.body.etag}"`);
  const rotated = await agent.send('POST', `${path}/rotate`, { body: { waitSeconds: 10 } });
  expect(rotated).toMatchObject({
    status: 202,
    body: { lastRun: { outcome: 'succeeded', newVersion: 2 }, retiring: [{ version: 1 }] },
  });
  expect(await value()).toMatch(/^[A-Za-z0-9]{40}$/);
  const history = await agent.send('GET', `${path}/rotation/history`);
  expect(history.body.items).toHaveLength(1);
  const due = await agent.send('GET', '/v1/rotations');
  expect(due.body.items).toMatchObject([{ namespace: 'payments', secret: 'db/password' }]);
  await agent.until(() => told.some(({ type }) => type === 'rotation.succeeded'));
  const audited = agent.audit().filter(({ operation }) => operation === 'rotation.run');
  expect(audited).toMatchObject([
    { phase: 'started', identity: { kind: 'system', id: 'rotation' }, secret: 'db/password' },
    { phase: 'outcome', result: 'done' },
  ]);
});

test('a rotation that fails leaves the value and is given up with a word', async () => {
  const before = await value();
  await agent.send('PUT', `${path}/rotation`, {
    body: { rotator: { kind: 'script', script: 'failing' }, retry: { attempts: 1 } },
  });
  const failed = await agent.send('POST', `${path}/rotate`, { body: { waitSeconds: 10 } });
  expect(failed.body).toMatchObject({
    state: 'gave-up',
    lastRun: {
      outcome: 'failed',
      problem: { step: 'apply', code: 'refused', message: 'The script ended with code 1' },
    },
  });
  expect(await value()).toBe(before);
  await agent.until(() => told.some(({ type }) => type === 'rotation.gave-up'));
  expect(agent.output).not.toContain(before);
  const { text } = await agent.send('GET', '/metrics', { key: '' });
  const counted = [...text.matchAll(/^(vault_rotations\w*) (\d+)$/gm)];
  expect(Object.fromEntries(counted.map(([, name, count]) => [name, Number(count)]))).toEqual({
    vault_rotations: 1,
    vault_rotations_due: 0,
    vault_rotations_overdue: 0,
    vault_rotations_failed: 1,
    vault_rotations_running: 0,
  });
});

test('who may not read a value may not have it sent somewhere, nor start what vault.yaml does not name', async () => {
  const rotator = await agent.keyFor(['rotator']);
  const url = 'http://127.0.0.1:9/';
  const put = (body: object, key?: string) =>
    agent.send('PUT', `${path}/rotation`, { body, ...(key === undefined ? {} : { key }) });
  const http = { rotator: { kind: 'http', url } };
  expect((await put(http, rotator)).status).toBe(403);
  expect((await put({ rotator: { kind: 'script', script: 'other' } })).status).toBe(422);
  expect((await put({ rotator: { kind: 'generated' } }, rotator)).status).toBe(200);
});

test('the owner overrides policies from beside the running agent, which tells and audits it', async () => {
  expect((await agent.send('GET', '/v1/policy')).body).toMatchObject({
    decides: 'roles',
    set: null,
    override: null,
  });
  const given = ['override', '--config', agent.configuration];
  const made = await command([...given, '--reason', 'nobody gets in', '--minutes', '5', '--json']);
  expect(made).toMatchObject({ code: 0, errors: '' });
  const { id } = JSON.parse(made.output);
  const policy = async () => (await agent.send('GET', '/v1/policy')).body;
  await agent.until(async () => (await policy()).decides === 'override');
  expect((await policy()).override).toMatchObject({ id, reason: 'nobody gets in' });
  expect(agent.audit()).toContainEqual(
    expect.objectContaining({ operation: 'override.begin', action: 'override.activate' }),
  );
  expect(agent.audit('audit.log.commands')).toContainEqual(
    expect.objectContaining({ operation: 'override.activate', phase: 'started' }),
  );
  expect(agent.output).toContain('the owner overrides the policies');
  await value();
  expect(agent.audit().at(-1)).toMatchObject({ context: { override: id } });
  expect((await command([...given, '--end', '--json'])).output).toContain('true');
  await agent.until(async () => (await policy()).decides === 'roles');
  expect((await agent.send('GET', '/v1/approvals')).body).toEqual({ items: [], nextCursor: null });
});

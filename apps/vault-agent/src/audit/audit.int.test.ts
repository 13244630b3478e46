import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { commandsChainOf } from '@keystead/contracts/audit-chain';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { command, TestAgent } from '../agent-process.fixture.ts';

let agent: TestAgent;
const received: string[] = [];
const receivedOfCommands: string[] = [];
const receiver = createServer((request, answer) => {
  let text = '';
  request.on('data', (chunk) => {
    text += chunk;
  });
  request.on('end', () => {
    const isOfCommands = request.headers['x-keystead-audit-log'] === 'commands';
    (isOfCommands ? receivedOfCommands : received).push(...text.split('\n').slice(0, -1));
    answer.writeHead(204).end();
  });
});

beforeAll(async () => {
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  const { port } = receiver.address() as { port: number };
  agent = await TestAgent.start((yaml) =>
    yaml
      .replace(
        /^audit:\n/m,
        `audit:\n  forward:\n    - type: http\n      url: "http://127.0.0.1:${port}/audit"\n`,
      )
      .replace('log_file: "audit.log"', 'log_file: "audit/audit.log"')
      .replace(
        /^monitoring:\n/m,
        'monitoring:\n  suspicious_activity:\n    many_denials: { count: 5, within: "1m", response: lock_identity }\n',
      ),
  );
  await agent.send('POST', '/v1/namespaces', { body: { name: 'production' } });
  await agent.send('POST', '/v1/namespaces/production/secrets', {
    body: { name: 'database/password', value: 'canary-of-this-test' },
  });
  for (let count = 0; count < 5; count += 1) {
    await agent.send('GET', '/v1/namespaces/production/secrets/database%2Fpassword/value');
  }
});
afterAll(async () => {
  await agent.remove();
  receiver.closeAllConnections();
  receiver.close();
});

const list = (query: string) => agent.send('GET', `/v1/audit?${query}`);

test('what was done is found by who, what, on what and with what result; the search is in there too', async () => {
  const reads = await list('action=secret.read-value&secret=database/password&limit=3');
  expect(reads.status).toBe(200);
  expect(reads.body.items).toHaveLength(3);
  expect(reads.body.items[0]).toMatchObject({
    action: 'secret.read-value',
    namespace: 'production',
    secret: 'database/password',
    phase: 'outcome',
    result: 'done',
    address: '127.0.0.1',
  });
  const rest = await list(
    `action=secret.read-value&secret=database/password&limit=3&cursor=${reads.body.nextCursor}`,
  );
  expect(rest.body.items).toHaveLength(2);
  expect(rest.body.nextCursor).toBeNull();
  const created = await list('action=secret.create');
  expect(created.body.items.map(({ phase }: { phase: string }) => phase)).toEqual([
    'outcome',
    'started',
  ]);
  const searches = await list('action=audit.read&limit=1');
  expect(searches.body.items).toHaveLength(1);
});

test('a refusal is in the audit with its reason', async () => {
  const reader = await agent.keyFor(['reader']);
  const denied = await agent.send('POST', '/v1/namespaces', { key: reader, body: { name: 'x' } });
  expect(denied.status).toBe(403);
  const found = await list('result=denied&limit=1');
  expect(found.body.items[0]).toMatchObject({
    action: 'namespace.create',
    code: 'permission_denied',
    identity: { kind: 'api_key' },
  });
});

test('the chain verifies over HTTP and from the files; a changed log does not', async () => {
  const verified = await agent.send('POST', '/v1/audit/verify', { body: {} });
  expect(verified.body).toMatchObject({ ok: true, problem: null });
  await agent.until(async () => (await agent.send('GET', '/v1/audit/heads')).body.items.length > 0);
  const heads = await agent.send('GET', '/v1/audit/heads?limit=10');
  const file = join(agent.folder, 'heads.json');
  writeFileSync(file, JSON.stringify(heads.body));
  const args = ['audit', 'verify', '--config', agent.configuration, '--heads', file];
  const fromFiles = await command([...args, '--json']);
  expect(fromFiles.code).toBe(0);
  expect(JSON.parse(fromFiles.output.split('\n')[0] ?? '')).toMatchObject({
    ok: true,
    trustedHeads: { given: heads.body.items.length, confirmed: heads.body.items.length },
  });
  const { chain, sequence } = heads.body.items[0];
  const wrong = await agent.send('POST', '/v1/audit/verify', {
    body: { trustedHeads: [{ chain, sequence, hash: '0'.repeat(64) }] },
  });
  expect(wrong.body.problem).toMatchObject({ kind: 'wrong_head', sequence });
  const log = join(agent.folder, 'audit', 'audit.log');
  const before = readFileSync(log);
  writeFileSync(
    log,
    before.toString().replace('"action":"secret.create"', '"action":"secret.delete"'),
  );
  const text = await command(args);
  expect(text.code).toBe(1);
  expect(text.output).toMatch(/WRONG at entry \d+ \(audit\.log, line \d+\)/);
  writeFileSync(log, before);
});

test('commands show and export what the log holds', async () => {
  const config = ['--config', agent.configuration];
  const output = join(agent.folder, 'export.jsonl');
  const [tail, csv, exported, cut] = await Promise.all([
    command(['audit', 'tail', ...config, '--action', 'secret.create']),
    command([
      ...['audit', 'export', ...config, '--format', 'csv'],
      ...['--secret', 'database/password'],
    ]),
    command(['audit', 'export', ...config, '--output', output]),
    command(['audit', 'export', ...config, '--most', '3']),
  ]);
  expect(tail.output).toMatch(/started +secret\.create +production/);
  expect(tail.output.trim().split('\n')).toHaveLength(2);
  expect(csv.output.split('\r\n')[0]).toMatch(/^sequence,at,requestId,/);
  expect(csv.output.match(/secret\.read-value/g)).toHaveLength(5);
  expect(exported.code).toBe(0);
  expect(cut.code).toBe(1);
  expect(cut.output.trim().split('\n')).toHaveLength(3);
  expect(cut.errors).toMatch(/stopped after 3 entries: the next one is of \d{4}-/);
  const log = readFileSync(join(agent.folder, 'audit', 'audit.log'), 'utf8').split('\n');
  for (const line of readFileSync(output, 'utf8').trim().split('\n')) expect(log).toContain(line);
});

test('a receiver gets what is logged, and no log or receiver gets a value', async () => {
  const log = () =>
    readFileSync(join(agent.folder, 'audit', 'audit.log'), 'utf8')
      .trim()
      .split('\n');
  await agent.until(() => log().every((line) => received.includes(line)));
  const metrics = await agent.send('GET', '/metrics');
  expect(metrics.text).toMatch(/vault_audit_entries_total [1-9]/);
  expect(metrics.text).toMatch(/vault_audit_forward_lag_entries\{destination="http http:/);
  for (const text of [...received, ...log(), metrics.text, agent.output]) {
    expect(text).not.toContain('canary-of-this-test');
  }
});

test('stopped and started again, the chain goes on', async () => {
  await agent.stop();
  await agent.run();
  await agent.send('GET', '/v1/namespaces');
  expect((await agent.send('POST', '/v1/audit/verify', { body: {} })).body).toMatchObject({
    ok: true,
  });
});

test('who is denied too often is locked where that is asked for, and the owner unlocks, which is audited', async () => {
  const reader = await agent.keyFor(['reader']);
  const asReader = () => agent.send('GET', '/v1/namespaces', { key: reader });
  expect((await asReader()).status).toBe(200);
  for (let count = 0; count < 5; count += 1) {
    await agent.send('POST', '/v1/namespaces', { key: reader, body: { name: 'x' } });
  }
  expect((await asReader()).status).toBe(403);
  const found = await list('result=denied&limit=1');
  expect(found.status).toBe(200);
  expect(found.body.items[0].context).toEqual({ lockedFor: 'MANY_DENIALS' });
  const opened = await command(['unlock', '--config', agent.configuration]);
  expect(opened.output).toContain('1 unlocked');
  await agent.until(async () => (await asReader()).status === 200);
  const unlocks = agent
    .audit('audit/audit.log.commands')
    .filter(({ operation }) => operation === 'lockouts.unlock');
  expect(unlocks).toMatchObject([
    { phase: 'started', other: 'lockouts', identity: { kind: 'system' } },
    { phase: 'outcome', result: 'done' },
  ]);
  const shown = await list('log=commands&operation=lockouts.unlock');
  expect(shown.body.items.map(({ phase }: { phase: string }) => phase)).toEqual([
    'outcome',
    'started',
  ]);
  // Forwarded and verified like the agent's own.
  const logged = () =>
    readFileSync(join(agent.folder, 'audit', 'audit.log.commands'), 'utf8')
      .trim()
      .split('\n');
  await agent.until(() => logged().every((line) => receivedOfCommands.includes(line)));
  expect(received).not.toContain(logged()[0]);
  const verified = await agent.send('POST', '/v1/audit/verify', { body: { log: 'commands' } });
  expect(verified.body).toMatchObject({ ok: true, entries: logged().length });
  const [ofCommands, ofAgent] = await Promise.all(
    ['commands', 'agent'].map((log) => agent.send('GET', `/v1/audit/heads?limit=1&log=${log}`)),
  );
  expect(ofCommands?.body.items).toHaveLength(1);
  // Whoever gets heads of both knows that one does not replace the other.
  expect(ofCommands?.body.items[0].chain).toBe(
    commandsChainOf(Buffer.from(ofAgent?.body.items[0].chain, 'hex')).toString('hex'),
  );
});

// The last one: it takes the folder of the log away.
test('what cannot be audited is refused with 503 within two seconds, and was not done', async () => {
  const create = (name: string) => agent.send('POST', '/v1/namespaces', { body: { name } });
  const folder = join(agent.folder, 'audit');
  renameSync(folder, `${folder}-away`);
  for (const attempt of [() => create('blocked'), () => agent.send('GET', '/v1/namespaces')]) {
    const sinceMs = performance.now();
    const refused = await attempt();
    expect(refused.status).toBe(503);
    expect(refused.body.code).toBe('unavailable');
    expect(performance.now() - sinceMs).toBeLessThan(2_000);
  }
  expect((await agent.send('GET', '/readyz')).status).toBe(503);
  expect((await agent.send('GET', '/metrics')).text).toContain('vault_audit_blocked 1');
  renameSync(`${folder}-away`, folder);
  await agent.until(async () => (await agent.send('GET', '/readyz')).status === 200);
  const names = (await agent.send('GET', '/v1/namespaces')).body.items.map(
    ({ name }: { name: string }) => name,
  );
  expect(names).toEqual(['production']);
  const log = readFileSync(join(folder, 'audit.log'), 'utf8');
  expect(log).toContain('"type":"resumed"');
  expect((await agent.send('POST', '/v1/audit/verify', { body: {} })).body.ok).toBe(true);
});

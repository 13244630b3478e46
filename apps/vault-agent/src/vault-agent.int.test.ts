import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CloseReason,
  CommandOutcome,
  PolicySetOutcome,
  PolicySetProblem,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid } from '@keystead/contracts/ids';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { command, nodeArguments, TestAgent } from './agent-process.fixture.ts';
import { ControlPlane } from './control-plane.fixture.ts';

let plane: ControlPlane;
let folder: string;
const running: Agent[] = [];

beforeEach(async () => {
  plane = await ControlPlane.start();
  folder = join(mkdtempSync(join(tmpdir(), 'keystead-agent-')), 'data');
});
afterEach(async () => {
  for (const agent of running.splice(0)) agent.process.kill('SIGKILL');
  await plane.down();
});

interface Agent {
  process: ChildProcess;
  output: () => string;
  exited: Promise<number | null>;
}

function start(args: string[]): Agent {
  const child = spawn(
    process.execPath,
    [
      '--conditions=keystead-source',
      '--disable-warning=ExperimentalWarning',
      new URL('./main.ts', import.meta.url).pathname,
      ...args,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (data: Buffer) => {
      text += data;
    });
  }
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve));
  const agent = { process: child, output: () => text, exited };
  running.push(agent);
  return agent;
}

async function enroll(
  more: string[] = [],
  token = plane.token,
): Promise<{ code: number | null; output: string }> {
  const agent = start([
    'enroll',
    ...['--endpoint', plane.endpoint],
    ...['--token', token],
    ...['--ca-fingerprint', plane.fingerprint],
    ...['--name', 'payments'],
    ...['--data', folder],
    ...['--port', '0'],
    ...more,
  ]);
  return { code: await agent.exited, output: agent.output() };
}

const run = () => start(['run', '--config', join(folder, 'vault.yaml')]);

async function health(agent: Agent) {
  await plane.until(() => /"port":(\d+)/.test(agent.output()));
  const port = /"port":(\d+)/.exec(agent.output())?.[1];
  const response = await fetch(`http://127.0.0.1:${port}/healthz`);
  return {
    port,
    ...((await response.json()) as {
      status: string;
      controlPlane: { [key: string]: unknown };
      queue: { waiting: number };
    }),
  };
}

test('enrol, run, be heard, and say goodbye', { timeout: 30_000 }, async () => {
  const { code, output } = await enroll();
  expect(output).toContain('Enrolled agt_');
  expect(code).toBe(0);
  expect(statSync(join(folder, 'identity/agent.key')).mode & 0o777).toBe(0o600);
  expect(statSync(folder).mode & 0o077).toBe(0);
  const agent = run();
  await plane.until(() => plane.count('heartbeat') >= 3);
  const { controlPlane, queue, port, ...facts } = await health(agent);
  expect(controlPlane).toMatchObject({ state: 'connected', contactLost: false });
  expect(facts).toMatchObject({ status: 'ok', vaultName: 'payments', vaultId: plane.vaultId });
  expect(queue.waiting).toBe(0);
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(metrics).toMatch(/keystead_agent_heartbeats_recorded_total [1-9]/);
  expect(metrics).toContain('keystead_agent_connected 1');
  expect((await fetch(`http://127.0.0.1:${port}/readyz`)).status).toBe(200);
  const startedMs = performance.now();
  agent.process.kill('SIGTERM');
  expect(await agent.exited).toBe(0);
  expect(performance.now() - startedMs).toBeLessThan(2_000);
  expect(plane.count('goodbye')).toBe(1);
  expect(plane.heard.map(({ kind }) => kind)).toEqual(
    expect.arrayContaining(['hello', 'booted', 'heartbeat', 'shutDown', 'goodbye']),
  );
  const beat = plane.heard.find(({ kind }) => kind === 'heartbeat')?.message;
  expect(beat).toMatchObject({ version: '1.0', vaultId: plane.vaultId, messageType: 1 });
  const key = readFileSync(join(folder, 'identity/agent.key'), 'utf8').split('\n')[1] ?? 'none';
  expect(agent.output()).not.toContain(key);
  expect(agent.output() + output).not.toContain(plane.token);
});

test.each([
  ['a bad token', ['--token', 'nonsense'], 'the token was refused: the token is unknown'],
  [
    'another fingerprint',
    ['--ca-fingerprint', randomBytes(32).toString('hex')],
    'does not have the fingerprint',
  ],
  ['nobody there', ['--endpoint', 'localhost:1'], 'cannot reach localhost:1'],
  ['an endpoint that is none', ['--endpoint', 'http://x'], 'not an endpoint'],
])(
  'enrolment with %s exits non-zero with one line and leaves no identity',
  async (_what, more, reason) => {
    const { code, output } = await enroll(more);
    expect(code).toBe(1);
    expect(output).toContain(reason);
    expect(output.trim().split('\n')).toHaveLength(1);
    expect(existsSync(join(folder, 'identity'))).toBe(false);
    expect(plane.enrolments).toBe(0);
  },
);

test('an identity that is there is not replaced without being told to', {
  timeout: 30_000,
}, async () => {
  await enroll();
  const before = readFileSync(join(folder, 'identity/agent.crt'), 'utf8');
  const again = await enroll();
  expect(again.code).toBe(1);
  expect(again.output).toContain('already holds an identity');
  expect(readFileSync(join(folder, 'identity/agent.crt'), 'utf8')).toBe(before);
  expect(plane.enrolments).toBe(1);
  expect((await enroll(['--force'])).code).toBe(0);
  expect(readFileSync(join(folder, 'identity/agent.crt'), 'utf8')).not.toBe(before);
});

test('after kill -9 it is back at once as the same agent in a new run', {
  timeout: 30_000,
}, async () => {
  await enroll();
  const first = run();
  await plane.until(() => plane.count('heartbeat') >= 2);
  first.process.kill('SIGKILL');
  await first.exited;
  const second = run();
  await plane.until(() => plane.count('booted') === 2);
  const [one, other] = plane.heard.filter(({ kind }) => kind === 'booted');
  expect(one?.bootId).not.toBe(other?.bootId);
  const content = other?.message.payload?.content;
  expect(content?.$case === 'event' && content.value.kind?.value).toMatchObject({
    previousBootId: one?.bootId,
    previousRunEndedCleanly: false,
  });
  expect(plane.serials.size).toBe(1);
  expect((await health(second)).status).toBe('ok');
});

test('a second process with the same data is told so', { timeout: 30_000 }, async () => {
  await enroll();
  run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  const second = run();
  expect(await second.exited).toBe(1);
  expect(second.output()).toContain('another agent runs with this data');
});

test('without a control plane it serves, queues, and then drains in order, each event once', {
  timeout: 60_000,
}, async () => {
  await enroll();
  await plane.down();
  const first = run();
  await plane.until(() => first.output().includes('contact lost'));
  const alone = await health(first);
  expect(['open', 'half-open']).toContain(alone.controlPlane.circuit);
  expect(alone).toMatchObject({ status: 'degraded', controlPlane: { state: 'disconnected' } });
  expect(alone.queue.waiting).toBeGreaterThanOrEqual(2);
  first.process.kill('SIGKILL');
  await first.exited;
  const second = run();
  await plane.until(() => second.output().includes('contact lost'));
  await plane.up();
  await plane.until(() => plane.count('contactRegained') === 1, 25_000);
  // Heads of the audit come at times of their own.
  const told = plane.heard
    .filter(({ kind, sequence }) => sequence > 0 && kind !== 'auditHead')
    .map(({ kind }) => kind);
  expect(told).toEqual(['booted', 'contactLost', 'booted', 'contactLost', 'contactRegained']);
  expect([...plane.events.values()].every((times) => times === 1)).toBe(true);
  expect(plane.events.size).toBeGreaterThanOrEqual(5);
  await expect.poll(async () => (await health(second)).queue.waiting, { timeout: 10_000 }).toBe(0);
  expect((await health(second)).controlPlane.circuit).toBe('closed');
});

test('events without a receipt come again after a reconnect, as the same message', {
  timeout: 60_000,
}, async () => {
  await enroll();
  plane.receipting = false;
  run();
  await plane.until(() => plane.count('booted') === 1);
  plane.receipting = true;
  plane.closeAll(CloseReason.DRAINING);
  await plane.until(() => plane.count('booted') === 2);
  const [one, other] = plane.heard.filter(({ kind }) => kind === 'booted');
  expect([other?.bootId, other?.sequence]).toEqual([one?.bootId, one?.sequence]);
  expect(other?.message.payload).toEqual(one?.message.payload);
});

test('the delay that the server gives is kept', { timeout: 30_000 }, async () => {
  await enroll();
  const agent = run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  plane.retryAfterMs = 2_500;
  plane.closeAll(CloseReason.BUSY);
  await plane.until(() => plane.count('hello') === 2, 20_000);
  await plane.until(() => agent.output().includes('come back later'));
  // From when the agent heard it to when it begins to come back: how long the way takes is not its pause.
  const [heard = ''] = agent
    .output()
    .split('\n')
    .filter((line) => line.includes('come back later'));
  const back = plane.heard.findLast(({ kind }) => kind === 'hello')?.message.timestampUnixMs ?? 0;
  const { time, backInMs } = JSON.parse(heard) as { time: number; backInMs: number };
  expect(backInMs).toBe(2_500);
  expect(back - time).toBeGreaterThanOrEqual(2_450);
  expect(back - time).toBeLessThan(4_500);
});

test('unanswered beats are noticed, and the gap is accounted for', {
  timeout: 60_000,
}, async () => {
  await enroll();
  run();
  await plane.until(() => plane.count('heartbeat') >= 2);
  plane.answering = false;
  await plane.until(() => plane.count('contactLost') === 1, 20_000);
  plane.answering = true;
  await plane.until(() => plane.count('contactRegained') === 1, 20_000);
  const regained = plane.heard.find(({ kind }) => kind === 'contactRegained');
  const content = regained?.message.payload?.content;
  const account = content?.$case === 'event' ? content.value.kind?.value : undefined;
  expect(account).toMatchObject({ reason: 2 });
  expect((account as { gapMs: number }).gapMs).toBeGreaterThan(2_000);
});

test('a revoked certificate is said clearly, and the agent goes on locally', {
  timeout: 30_000,
}, async () => {
  await enroll();
  const agent = run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  plane.revokeAll();
  await plane.until(() => agent.output().includes('refuses this certificate'));
  expect(await health(agent)).toMatchObject({
    status: 'degraded',
    controlPlane: { state: 'revoked' },
  });
  const hellos = plane.count('hello');
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(plane.count('hello')).toBe(hellos);
  const startedMs = performance.now();
  agent.process.kill('SIGTERM');
  expect(await agent.exited).toBe(0);
  expect(performance.now() - startedMs).toBeLessThan(2_000);
});

test('the stop is quick also when the control plane is gone', { timeout: 30_000 }, async () => {
  await enroll();
  const agent = run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  await plane.down();
  await plane.until(() => agent.output().includes('contact lost'));
  const startedMs = performance.now();
  agent.process.kill('SIGINT');
  expect(await agent.exited).toBe(0);
  expect(performance.now() - startedMs).toBeLessThan(2_000);
});

test('at half life the certificate is renewed on the open session, proved, and swapped', {
  timeout: 60_000,
}, async () => {
  plane.leafLifeMs = 12_000;
  await enroll();
  const before = readFileSync(join(folder, 'identity/agent.crt'), 'utf8');
  plane.leafLifeMs = 7 * 86_400_000;
  const agent = run();
  await plane.until(() => plane.count('certificateRenewed') === 1, 20_000);
  expect(readFileSync(join(folder, 'identity/agent.crt'), 'utf8')).not.toBe(before);
  expect(readdirSync(join(folder, 'identity'))).not.toContain('agent.key.pending');
  expect(plane.serials.size).toBe(2);
  expect(plane.count('contactLost')).toBe(0);
  expect((await health(agent)).status).toBe('ok');
});

test('a renewed certificate that is refused does not cost the old one', {
  timeout: 60_000,
}, async () => {
  plane.leafLifeMs = 20_000;
  plane.refuseRenewed = true;
  await enroll();
  const before = readFileSync(join(folder, 'identity/agent.crt'), 'utf8');
  const file = join(folder, 'vault.yaml');
  expect(existsSync(file)).toBe(true);
  const agent = run();
  await plane.until(() => agent.output().includes('the renewed certificate was refused'), 25_000);
  const hellos = plane.count('hello');
  await plane.until(() => plane.count('hello') > hellos);
  expect(readFileSync(join(folder, 'identity/agent.crt'), 'utf8')).toBe(before);
  expect((await health(agent)).controlPlane.state).toBe('connected');
});

test('a command is carried out once, and only when the control plane signed it', {
  timeout: 30_000,
}, async () => {
  await enroll();
  run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  const assign = async (number: number, predecessor = '') => ({
    $case: 'assignPolicySet' as const,
    value: await plane.signedSet(plane.organizationId, number, { predecessor }),
  });
  const stranger = await TestAuthority.create();
  const names = [{ type: 'url' as const, value: 'spiffe://keystead.test/control-plane/commands' }];
  const first = await assign(1);
  await plane.command(5, first);
  await plane.until(() => plane.count('commandAnswer') === 1);
  await plane.command(5, await assign(2));
  await plane.command(6, await assign(3), await stranger.issue({ names }));
  await plane.command(7, await assign(4), await plane.authority.issueAgent());
  const last = await assign(2, first.value.policySet?.digest);
  await plane.command(8, last);
  await plane.until(() => plane.count('commandAnswer') === 5);
  const answers = plane.heard.flatMap(({ message }) => {
    const content = message.payload?.content;
    return content?.$case === 'commandAnswer' ? [content.value] : [];
  });
  expect(answers).toEqual([
    { number: 5, outcome: CommandOutcome.DONE },
    { number: 5, outcome: CommandOutcome.REFUSED },
    { number: 6, outcome: CommandOutcome.REFUSED },
    { number: 7, outcome: CommandOutcome.REFUSED },
    { number: 8, outcome: CommandOutcome.DONE },
  ]);
  const heldBy = () =>
    plane.heard.flatMap(({ message }) => {
      const content = message.payload?.content;
      return content?.$case === 'heartbeat' ? [content.value.policySet?.digest] : [];
    });
  await plane.until(() => heldBy().at(-1) === last.value.policySet?.digest);
});

test('a set that arrives in many parts decides after a restart too, and one of another organization never', {
  timeout: 200_000,
}, async () => {
  await enroll();
  const first = run();
  await plane.until(() => plane.count('heartbeat') >= 1, 30_000);
  const set = await plane.signedSet(plane.organizationId, 7, {
    set: {
      vault: {
        policies: Array.from({ length: 1_000 }, (_, index) => ({
          id: `policy-${index}`,
          cedar: `permit(principal in Role::"role-${index}", action, resource);`,
        })),
      },
    },
  });
  await plane.command(1, { $case: 'assignPolicySet', value: set });
  // A thousand policies are parsed and checked before one of them decides.
  await plane.until(() => plane.count('policySetReported') === 1, 60_000);
  expect(plane.count('policySetRequest')).toBe(Math.ceil(set.totalBytes / (48 * 1024)));
  await plane.command(2, {
    $case: 'assignPolicySet',
    value: await plane.signedSet(newUuid(), 8),
  });
  await plane.until(() => plane.count('policySetReported') === 2, 60_000);
  const reports = plane.heard.flatMap(({ message }) => {
    const content = message.payload?.content;
    const kind = content?.$case === 'event' ? content.value.kind : undefined;
    return kind?.$case === 'policySetReported' ? [kind.value] : [];
  });
  expect(reports).toMatchObject([
    { outcome: PolicySetOutcome.ACTIVE, policySet: { version: 7 } },
    {
      outcome: PolicySetOutcome.REJECTED,
      problem: PolicySetProblem.SIGNATURE,
      policySet: { version: 8 },
    },
  ]);
  first.process.kill('SIGKILL');
  await first.exited;
  const hellos = plane.count('hello');
  run();
  await plane.until(() => plane.count('hello') > hellos, 60_000);
  const hello = plane.heard.findLast(({ kind }) => kind === 'hello')?.message.payload?.content;
  expect(hello?.$case === 'hello' && hello.value.policySet).toEqual(set.policySet);
});

test('a set turns on a receiver that the owner named and locks the agent of who is denied too often, and its successor ends it', {
  timeout: 60_000,
}, async () => {
  await enroll();
  const siem = join(folder, 'siem.jsonl');
  const agent = await TestAgent.initialize(folder);
  agent.configure((yaml) =>
    yaml.replace(
      'forward_to_syslog: false',
      'forward: [{ type: file, path: siem.jsonl, name: siem, enabled: false }]',
    ),
  );
  await agent.run();
  try {
    await plane.until(() => plane.count('heartbeat') >= 1);
    const reader = await agent.keyFor(['reader']);
    const denied = () =>
      agent.send('POST', '/v1/namespaces', { key: reader, body: { name: 'payments' } });
    for (let number = 0; number < 2; number += 1) expect((await denied()).status).toBe(403);
    const before = (await agent.send('GET', '/v1/policy')).body.configuration;
    expect(before.settings).toMatchObject({
      'suspiciousActivity.manyDenials.response': { value: 'notice', source: 'default' },
      'auditForwarding.siem': { value: false, source: 'file' },
    });
    const assign = async (number: number, configuration: object, predecessor = '') => {
      const value = await plane.signedSet(plane.organizationId, number, {
        configuration,
        predecessor,
      });
      await plane.command(number, { $case: 'assignPolicySet', value });
      await plane.until(() => plane.count('policySetReported') === number);
      return value;
    };
    const first = await assign(1, {
      auditForwarding: ['siem', 'elsewhere'],
      suspiciousActivity: { manyDenials: { count: 3, response: 'lock_agent' } },
    });
    const report = plane.heard.findLast(({ kind }) => kind === 'policySetReported');
    const content = report?.message.payload?.content;
    expect(content?.$case === 'event' && content.value.kind?.value).toMatchObject({
      outcome: PolicySetOutcome.ACTIVE,
      unknownDestinations: 1,
    });
    const during = (await agent.send('GET', '/v1/policy')).body.configuration;
    expect(during).toMatchObject({
      settings: {
        'suspiciousActivity.manyDenials.count': { value: 3, source: 'set' },
        'suspiciousActivity.manyDenials.response': { value: 'lock_agent', source: 'set' },
        'auditForwarding.siem': { value: true, source: 'set' },
      },
      unknownDestinations: ['elsewhere'],
    });
    // The two before the set count.
    await denied();
    expect((await agent.send('GET', '/v1/namespaces')).status).toBe(403);
    const audit = () => readFileSync(join(folder, 'audit.log'));
    await agent.until(() => existsSync(siem) && readFileSync(siem).equals(audit()));
    const receivers = async () => {
      const { text } = await agent.send('GET', '/metrics');
      return text.split('\n').filter((line) => line.startsWith('vault_audit_forward_paused{'));
    };
    expect(await receivers()).toHaveLength(2);
    const unlocked = await command(['unlock', '--config', agent.configuration]);
    expect(unlocked).toMatchObject({ code: 0, output: '1 unlocked.\n' });
    await agent.until(async () => (await agent.send('GET', '/v1/namespaces')).status === 200);
    await assign(2, {}, first.policySet?.digest);
    const after = (await agent.send('GET', '/v1/policy')).body.configuration;
    expect(after).toEqual(before);
    expect(await receivers()).toEqual([]);
    for (let number = 0; number < 4; number += 1) expect((await denied()).status).toBe(403);
    expect((await agent.send('GET', '/v1/namespaces')).status).toBe(200);
    const sets = agent.audit().filter(({ operation }) => operation === 'policy.set');
    expect(sets).toMatchObject([
      {
        other: 'policy-set:1',
        result: 'done',
        context: { outcome: 'active', auditForwarding: 'siem' },
      },
      { other: 'policy-set:2', context: { outcome: 'active' } },
    ]);
    // The owner's word is taken over without a restart too.
    agent.configure((yaml) =>
      yaml.replace(
        'log_level: "info"',
        'log_level: "info"\n  suspicious_activity: { many_denials: { count: 4, response: lock_identity } }',
      ),
    );
    agent.kill('SIGHUP');
    const setting = 'suspiciousActivity.manyDenials.count';
    await agent.until(async () => {
      const { settings } = (await agent.send('GET', '/v1/policy')).body.configuration;
      return settings[setting].value === 4 && settings[setting].source === 'file';
    });
    await agent.until(() => agent.output.includes('"needStart":[]'));
    await denied();
    expect((await agent.send('GET', '/v1/namespaces', { key: reader })).status).toBe(403);
    expect((await agent.send('GET', '/v1/namespaces')).status).toBe(200);
  } finally {
    await agent.stop();
  }
});

test('a changed configuration is told by section at the next start, and a full disk undoes no change and no end', {
  timeout: 40_000,
}, async () => {
  await enroll();
  const first = run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  first.process.kill('SIGTERM');
  await first.exited;
  const file = join(folder, 'vault.yaml');
  writeFileSync(
    file,
    readFileSync(file, 'utf8').replace('retention_days: 365', 'retention_days: 30'),
  );
  const second = run();
  await plane.until(() => plane.count('configurationChanged') === 1);
  const told = plane.heard.find(({ kind }) => kind === 'configurationChanged');
  const content = told?.message.payload?.content;
  expect(content?.$case === 'event' && content.value.kind?.value).toMatchObject({ sections: [5] });
  execFileSync('prlimit', ['--pid', String(second.process.pid), '--fsize=1:unlimited']);
  writeFileSync(
    file,
    readFileSync(file, 'utf8').replace('retention_days: 30', 'retention_days: 60'),
  );
  second.process.kill('SIGHUP');
  await plane.until(() => second.output().includes('the configuration was read again'));
  expect(second.output()).toContain('an event could not be written down');
  second.process.kill('SIGTERM');
  expect(await second.exited).toBe(0);
});

test('a port that is taken is a clear error', { timeout: 30_000 }, async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  const { port } = holder.address() as { port: number };
  await enroll(['--port', String(port)]);
  const agent = run();
  expect(await agent.exited).toBe(1);
  expect(agent.output()).toContain(`port ${port} on 127.0.0.1 is taken`);
  holder.close();
});

test('status tells a running agent from one that is not', { timeout: 30_000 }, async () => {
  const free = createServer();
  await new Promise<void>((resolve) => free.listen(0, '127.0.0.1', resolve));
  const { port } = free.address() as { port: number };
  await new Promise((resolve) => free.close(resolve));
  await enroll(['--port', String(port)]);
  const ask = async (...more: string[]) => {
    const status = start(['status', '--data', folder, ...more]);
    return { code: await status.exited, output: status.output() };
  };
  expect(await ask()).toMatchObject({ code: 3 });
  run();
  await plane.until(() => plane.count('heartbeat') >= 1);
  const { code, output } = await ask('--json');
  expect(code).toBe(0);
  expect(JSON.parse(output)).toMatchObject({ running: true, vaultId: plane.vaultId });
  const { output: text } = await ask();
  expect(text).toContain('connected');
  expect(text).toContain('no set: roles decide alone');
});

test('a command ends in order when the reader of its output went early', {
  timeout: 20_000,
}, async () => {
  const child = spawn(process.execPath, [...nodeArguments, 'backup', 'new-recipient'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.destroy();
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const code = await new Promise((resolve) => child.once('close', resolve));
  expect(errors).toBe('');
  expect(code).toBe(0);
});

test('a result that no entry of the audit has is refused, not searched for', {
  timeout: 20_000,
}, async () => {
  const { code, errors } = await command([
    'audit',
    'tail',
    '--config',
    'x',
    '--result',
    'nonsense',
  ]);
  expect(errors).toContain('Allowed choices are started, done, denied');
  expect(code).not.toBe(0);
});

import { webcrypto, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from 'node:tls';
import {
  Pkcs10CertificateRequest,
  type TestAgent,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import {
  type AgentIdentity,
  admitAgent,
  agentSignals,
  gatewayDrained,
  issueGatewayCertificate,
  recordBeats,
} from '@keystead/contracts/agent-link';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { nudges } from '@keystead/contracts/nudges';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { NatsAgentBackend } from './agents/agent-backend.nats.ts';
import { TestSession } from './agents/test-session.fixture.ts';
import { type InternalAnswer, type RestFixture, startRest } from './rest.fixture.ts';

let rest: RestFixture;
let authority: TestAuthority;
let agentPort: number;
const vaultId = newUuid();
const calls: { subject: string; input: { gatewayId?: string; number?: number } }[] = [];
let certificatesAsked = 0;

const heard =
  (subject: string, answer: InternalAnswer): InternalAnswer =>
  (input, ctx) => {
    calls.push({ subject, input });
    return answer(input, ctx);
  };
const services: Record<string, InternalAnswer> = {
  [issueGatewayCertificate.subject]: async ({ csr, hosts }: { csr: string; hosts: string[] }) => {
    certificatesAsked += 1;
    if (certificatesAsked < 3) throw new Error('not yet');
    const request = new Pkcs10CertificateRequest(Buffer.from(csr, 'base64'));
    const leaf = await authority.certify(await request.publicKey.export(webcrypto as never), {
      names: hosts.map((value) => ({ type: /^[\d.]+$/.test(value) ? 'ip' : 'dns', value })),
      usages: ['1.3.6.1.5.5.7.3.1' as never],
    });
    return {
      certificateChain: [leaf, authority.intermediate],
      root: authority.root,
      caFingerprint: '',
      trustDomain: testTrustDomain,
    };
  },
  [admitAgent.subject]: ({ identities }: { identities: AgentIdentity[] }) => ({
    results: identities.map(() => ({
      outcome: 'admitted',
      vaultId,
      intervalMs: 30_000,
      assignedPolicySetVersion: null,
    })),
  }),
  [recordBeats.subject]: heard(recordBeats.subject, ({ beats }: { beats: unknown[] }) => ({
    results: beats.map(() => ({
      outcome: 'recorded',
      intervalMs: 30_000,
      assignedPolicySetVersion: null,
    })),
    databaseMs: Date.now(),
  })),
  [agentSignals.subject]: () => ({}),
  [gatewayDrained.subject]: heard(gatewayDrained.subject, () => ({})),
};

beforeAll(async () => {
  authority = await TestAuthority.create();
  rest = await startRest(
    {
      KEYSTEAD_GATEWAY_HALVES: 'agents',
      KEYSTEAD_AGENT_PORT: '0',
      KEYSTEAD_AGENT_ENDPOINT: 'vaults.keystead.test:8443',
      KEYSTEAD_AGENT_HOSTS: 'other.keystead.test',
    },
    { internal: services },
  );
  agentPort = await until(() => rest.gateway.agentPort(), 15_000);
});
afterAll(() => rest.stop());

async function until<T>(find: () => T | undefined | false, withinMs: number): Promise<T> {
  const endMs = performance.now() + withinMs;
  for (;;) {
    const found = find();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms`);
    await delay(20);
  }
}

/** An agent with the rows the registry would have written. */
async function enrolled(): Promise<TestAgent & { serialNumber: string }> {
  const agent = await authority.issueAgent();
  const { organizationId, agentId } = agent;
  const certificate = new X509Certificate(agent.certificate);
  const { serialNumber } = certificate;
  const notBefore = certificate.validFromDate;
  const expiresAt = certificate.validToDate;
  const validity = { serialNumber, notBefore, expiresAt };
  await rest.database.withTenant({ organizationId }, async (transaction) => {
    await transaction.vault.create({ data: { organizationId, id: vaultId, name: 'one' } });
    await transaction.agent.create({
      data: { organizationId, id: agentId, vaultId, name: 'a', ...validity },
    });
    await transaction.certificate.create({ data: { organizationId, agentId, ...validity } });
  });
  return { ...agent, serialNumber };
}

const revoke = ({ organizationId, agentId }: TestAgent) =>
  rest.database.withTenant({ organizationId }, async (transaction) => {
    await transaction.certificate.updateMany({
      where: { agentId },
      data: { revokedAt: new Date() },
    });
    await transaction.agent.updateMany({ where: { id: agentId }, data: { revokedAt: new Date() } });
  });

async function opened(agent: TestAgent): Promise<TestSession> {
  const session = new TestSession(agentPort, authority, agent, vaultId);
  session.hello();
  await session.next('welcome');
  return session;
}

test('the link asks the registry until it answers, and shows a certificate for its names', async () => {
  expect(certificatesAsked).toBeGreaterThanOrEqual(3);
  for (const servername of ['vaults.keystead.test', 'localhost', 'other.keystead.test']) {
    const socket = connect({
      port: agentPort,
      host: '127.0.0.1',
      servername,
      ca: authority.root,
      ALPNProtocols: ['h2'],
    });
    await once(socket, 'secureConnect');
    expect(socket.authorized, servername).toBe(true);
    expect(socket.getProtocol()).toBe('TLSv1.3');
    socket.destroy();
  }
});

test('a gateway ticks each second, counting up, also without agents', async () => {
  const ticks = () => calls.filter(({ subject }) => subject === recordBeats.subject);
  const from = ticks().length;
  await until(() => ticks().length >= from + 3, 4 * limits.gatewayTickMs + 2_000);
  const numbers = ticks().map(({ input }) => input.number ?? 0);
  expect(numbers).toEqual(numbers.toSorted((one, other) => one - other));
  expect(new Set(numbers).size).toBe(numbers.length);
  expect(new Set(ticks().map(({ input }) => input.gatewayId)).size).toBe(1);
});

test('an agent is heard over the bus', async () => {
  const session = await opened(await enrolled());
  const number = session.beat();
  expect(await session.next('heartbeatAnswer')).toMatchObject({ number, recorded: true });
  session.connection.close();
});

test('a revocation is told once, also when its transaction commits late', async () => {
  const backend = new NatsAgentBackend({ call: () => Promise.reject() }, rest.database, newUuid());
  const early = await enrolled();
  await revoke(early);
  let { cursor } = await backend.revokedSince(null);
  const late = await enrolled();
  let commit = () => {};
  const mayCommit = new Promise<void>((resolve) => {
    commit = resolve;
  });
  let changed = () => {};
  const hasChanged = new Promise<void>((resolve) => {
    changed = resolve;
  });
  const committed = rest.database.withTenant(late, async (transaction) => {
    await transaction.$executeRaw`update registry.certificate set revoked_at = clock_timestamp()`;
    changed();
    await mayCommit;
  });
  await hasChanged;
  const before = await backend.revokedSince(cursor);
  expect(before.revoked.map(({ agentId }) => agentId)).not.toContain(late.agentId);
  commit();
  await committed;
  ({ cursor } = before);
  const after = await backend.revokedSince(cursor);
  expect(after.revoked).toEqual([{ agentId: late.agentId, serialNumber: late.serialNumber }]);
  expect((await backend.revokedSince(after.cursor)).revoked).toEqual([]);
});

test('a revoked agent is off its stream within five seconds, at once when nudged', async () => {
  const agent = await enrolled();
  const session = await opened(agent);
  await revoke(agent);
  rest.nudge(nudges.revocations.subject, '');
  expect(await session.finish(5_000)).toBe(16);
});

test('with the bus down a revoked agent is off its stream within five seconds', async () => {
  const agent = await enrolled();
  const session = await opened(agent);
  await rest.servers.nats.kill();
  await revoke(agent);
  expect(await session.finish(5_000)).toBe(16);
  await rest.servers.nats.restart();
  const endMs = performance.now() + 15_000;
  const next = await enrolled();
  while (!(await opened(next).catch(() => undefined))) {
    if (performance.now() > endMs) throw new Error('no agent is admitted after NATS is back');
  }
});

test('on its way out a gateway sends its agents elsewhere and tells monitoring last', async () => {
  const session = await opened(await enrolled());
  calls.length = 0;
  await rest.gateway.close();
  expect(await session.finish(1_000)).toBe(14);
  expect(calls.at(-1)?.subject).toBe(gatewayDrained.subject);
});

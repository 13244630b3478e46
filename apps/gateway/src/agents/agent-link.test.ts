import { randomBytes } from 'node:crypto';
import { status } from '@grpc/grpc-js';
import {
  CloseReason,
  Goodbye_Reason,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { certificateFingerprint, enroll } from '@keystead/agent-protocol/link-client';
import { policySetDigest } from '@keystead/agent-protocol/policy-set-signature';
import { encodeControlMessage } from '@keystead/agent-protocol/services';
import {
  type TestAgent,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AgentLink } from './agent-link.ts';
import { MemoryBackend } from './memory-backend.fixture.ts';
import { TestSession } from './test-session.fixture.ts';

const authority = await TestAuthority.create();
const trust = await authority.issueServer();
let backend: MemoryBackend;
let link: AgentLink;
let port: number;
let agent: TestAgent;
/** Added to both clocks of the link. */
let aheadMs: number;
const sessions: TestSession[] = [];

beforeEach(async () => {
  aheadMs = 0;
  backend = new MemoryBackend();
  link = new AgentLink({
    backend,
    trust,
    trustDomain: testTrustDomain,
    clock: {
      unixMs: () => Date.now() + aheadMs,
      monotonicMs: () => performance.now() + aheadMs,
    },
  });
  port = await link.start(0, '127.0.0.1');
  agent = await authority.issueAgent();
});
afterEach(async () => {
  for (const session of sessions.splice(0)) session.close();
  await link.close();
});

function connect(as = agent, bootId?: string): TestSession {
  const session = new TestSession(port, authority, as, backend.vaultOf(as.agentId), bootId);
  sessions.push(session);
  return session;
}

async function welcomed(as = agent, bootId?: string): Promise<TestSession> {
  const session = connect(as, bootId);
  session.hello();
  await session.next('welcome');
  return session;
}

/** Something unrelated still works: others are not affected. */
async function othersGoOn(other: TestSession): Promise<void> {
  const number = other.beat();
  await expect(other.next('heartbeatAnswer')).resolves.toMatchObject({ number, recorded: true });
}

test('an agent that greets is welcomed with its pace, and its beats are answered after the commit', async () => {
  backend.intervalMs = 5_000;
  const session = connect();
  session.hello();
  await expect(session.next('welcome')).resolves.toMatchObject({ heartbeatIntervalMs: 5_000 });
  let commit = () => {};
  backend.pause = new Promise((resolve) => {
    commit = resolve;
  });
  session.beat();
  await expect(session.next('heartbeatAnswer', 300)).rejects.toThrow('not within');
  commit();
  backend.pause = undefined;
  await expect(session.next('heartbeatAnswer')).resolves.toEqual({
    number: 1,
    recorded: true,
    heartbeatIntervalMs: 0,
    assignedPolicySet: undefined,
  });
  expect(backend.beatsRecorded).toMatchObject([
    {
      organizationId: agent.organizationId,
      agentId: agent.agentId,
      bootId: session.bootId,
      sequence: 1,
      health: 'healthy',
      facts: { version: '0.1.0', hostname: 'host-1' },
    },
  ]);
});

test('facts travel until they were recorded, then no more', async () => {
  const session = await welcomed();
  backend.failure = new Error('bus down');
  session.beat();
  await expect(session.next('heartbeatAnswer')).resolves.toMatchObject({ recorded: false });
  backend.failure = undefined;
  session.beat();
  await session.next('heartbeatAnswer');
  session.beat();
  await session.next('heartbeatAnswer');
  expect(backend.beatsRecorded.map(({ facts }) => facts !== null)).toEqual([true, false]);
});

test('a changed pace and a changed policy set are told with the next answer', async () => {
  const session = await welcomed();
  backend.intervalMs = 1_500;
  backend.assignedPolicySetVersion = 7;
  session.beat();
  await expect(session.next('heartbeatAnswer')).resolves.toMatchObject({
    heartbeatIntervalMs: 1_500,
    assignedPolicySet: { version: 7 },
  });
  session.beat();
  await expect(session.next('heartbeatAnswer')).resolves.toMatchObject({
    heartbeatIntervalMs: 0,
    assignedPolicySet: undefined,
  });
});

test('many agents share a batch', async () => {
  const crowd = await Promise.all(Array.from({ length: 20 }, () => authority.issueAgent()));
  const open = await Promise.all(crowd.map((each) => welcomed(each)));
  for (const session of open) session.beat();
  await Promise.all(open.map((session) => session.next('heartbeatAnswer')));
  expect(backend.batches.filter((size) => size > 0).length).toBeLessThan(10);
});

test('the newest stream of an agent wins, and two boot ids are told', async () => {
  const first = await welcomed();
  const second = await welcomed();
  await expect(first.next('close')).resolves.toMatchObject({ reason: CloseReason.SUPERSEDED });
  expect(await first.finish()).toBe(status.ABORTED);
  await othersGoOn(second);
  await second.until(() => backend.supersessions.length > 0);
  expect(backend.supersessions).toEqual([
    {
      organizationId: agent.organizationId,
      agentId: agent.agentId,
      oldBootId: first.bootId,
      newBootId: second.bootId,
    },
  ]);
  expect(link.openSessions).toBe(1);
});

test('the same run that reconnects is no duplicate', async () => {
  const bootId = newUuid();
  const first = await welcomed(agent, bootId);
  const second = await welcomed(agent, bootId);
  expect(await first.finish()).toBe(status.ABORTED);
  await othersGoOn(second);
  expect(backend.supersessions).toEqual([]);
});

test('a goodbye is recorded after the last beat and before the stream ends', async () => {
  const session = await welcomed();
  session.beat();
  session.send(6, { $case: 'goodbye', value: { reason: Goodbye_Reason.STOPPED } });
  session.connection.stream.end();
  expect(await session.finish()).toBe(status.OK);
  expect(backend.beatsRecorded).toHaveLength(1);
  expect(backend.goodbyes).toEqual([
    { organizationId: agent.organizationId, agentId: agent.agentId, bootId: session.bootId },
  ]);
});

test('reopening a session is no goodbye', async () => {
  const session = await welcomed();
  session.send(6, { $case: 'goodbye', value: { reason: Goodbye_Reason.RECONNECTING } });
  expect(await session.finish()).toBe(status.OK);
  expect(backend.goodbyes).toEqual([]);
  expect(link.openSessions).toBe(0);
});

test('an event is receipted after the commit, a replay again, and it is there once', async () => {
  const session = await welcomed();
  const earlier = newUuid();
  session.clockJump(1);
  session.clockJump(2);
  session.clockJump(9, { bootId: earlier });
  const receipts = new Map<string, number[]>();
  while ([...receipts.values()].flat().length < 3) {
    const { bootId, sequences } = await session.next('receipt');
    receipts.set(bootId, [...(receipts.get(bootId) ?? []), ...sequences]);
  }
  expect(receipts).toEqual(
    new Map([
      [session.bootId, [1, 2]],
      [earlier, [9]],
    ]),
  );
  session.clockJump(1);
  await expect(session.next('receipt')).resolves.toMatchObject({ sequences: [1] });
  expect(backend.eventsRecorded.size).toBe(3);
  const [event] = backend.eventsRecorded.values();
  expect(event).toMatchObject({ kind: 'clock_jump', details: { jumpMs: 5_000 }, sequence: 1 });
});

test('an event that was not recorded gets no receipt', async () => {
  const session = await welcomed();
  backend.failure = new Error('database down');
  session.clockJump(1);
  await expect(session.next('receipt', 500)).rejects.toThrow('not within');
  backend.failure = undefined;
  session.clockJump(1);
  await session.next('receipt');
});

test.each([
  [
    'a vault of somebody else',
    (s: TestSession) => s.beat({ vaultId: toId('vault', newUuid()) }),
    status.PERMISSION_DENIED,
  ],
  ['another boot id', (s: TestSession) => s.beat({ bootId: newUuid() }), status.PERMISSION_DENIED],
  [
    'another protocol version',
    (s: TestSession) => s.beat({ version: '2.0' }),
    status.INVALID_ARGUMENT,
  ],
  [
    'a replayed heartbeat',
    (s: TestSession) => {
      s.beat({ number: 5 });
      s.beat({ number: 5 });
    },
    status.INVALID_ARGUMENT,
  ],
  [
    'a number that no column holds',
    (s: TestSession) =>
      s.send(1, {
        $case: 'heartbeat',
        value: {
          number: 1,
          health: 1,
          degradations: [],
          metrics: undefined,
          policySet: { version: 2 ** 32 - 1, digest: '' },
        },
      }),
    status.INVALID_ARGUMENT,
  ],
  ['a second hello', (s: TestSession) => s.hello(), status.INVALID_ARGUMENT],
  ['no payload', (s: TestSession) => s.sendWithoutPayload(), status.INVALID_ARGUMENT],
  [
    'an unsigned event',
    (s: TestSession) => s.clockJump(1, { sign: false }),
    status.INVALID_ARGUMENT,
  ],
  ['an event without a sequence', (s: TestSession) => s.clockJump(0), status.INVALID_ARGUMENT],
  [
    'an event of no run',
    (s: TestSession) => s.clockJump(1, { bootId: 'x' }),
    status.INVALID_ARGUMENT,
  ],
  [
    'garbage',
    (s: TestSession) => s.connection.stream.write(Buffer.alloc(50, 0xff)),
    status.INVALID_ARGUMENT,
  ],
  [
    'a message that is too large',
    (s: TestSession) => s.connection.stream.write(Buffer.alloc(limits.agentMessageMaxBytes + 1)),
    status.RESOURCE_EXHAUSTED,
  ],
] as [string, (session: TestSession) => void, number][])(
  '%s ends that stream with a status, others go on',
  async (_what, act, expected) => {
    const other = await welcomed(await authority.issueAgent());
    const session = await welcomed();
    act(session);
    // grpc-js' client refuses to send what is too large and says the same status itself.
    expect(await session.finish()).toBe(expected);
    await othersGoOn(other);
  },
);

test('what a newer agent says in words of its own is left alone, and its event without a receipt', async () => {
  const session = await welcomed();
  session.send(6, undefined);
  session.send(
    6,
    { $case: 'event', value: { occurredAtUnixMs: 1, kind: undefined } },
    { sequence: 1 },
  );
  await othersGoOn(session);
  expect(link.counters.messagesNotUnderstood).toBe(2);
  expect(backend.eventsRecorded.size).toBe(0);
});

test("an event signed with another agent's key is not taken", async () => {
  const thief = await authority.issueAgent();
  const session = await welcomed();
  Object.assign(session.agent, { privateKey: thief.privateKey });
  session.clockJump(1);
  expect(await session.finish()).toBe(status.INVALID_ARGUMENT);
  expect(backend.eventsRecorded.size).toBe(0);
});

test('whoever does not greet first is told so', async () => {
  const session = connect();
  session.beat();
  expect(await session.finish()).toBe(status.FAILED_PRECONDITION);
});

test('whoever does not greet at all does not stay', async () => {
  const session = connect();
  await session.until(() => link.counters.connectionsOpened === 1);
  await new Promise((resolve) => setImmediate(resolve));
  session.connection.stream.write(Buffer.alloc(0));
  aheadMs += 11_000;
  expect([status.FAILED_PRECONDITION, status.INVALID_ARGUMENT]).toContain(await session.finish());
});

test('a revoked certificate is off its open stream within five seconds', async () => {
  const session = await welcomed();
  const other = await welcomed(await authority.issueAgent());
  const startedMs = performance.now();
  backend.revoked.push({ agentId: agent.agentId, serialNumber: null });
  await expect(session.next('close')).resolves.toMatchObject({ reason: CloseReason.REVOKED });
  expect(await session.finish()).toBe(status.UNAUTHENTICATED);
  expect(performance.now() - startedMs).toBeLessThan(5_000);
  await othersGoOn(other);
});

test('a nudge makes a revocation bite at once; another serial number is left alone', async () => {
  const session = await welcomed();
  link.revoke({ agentId: agent.agentId, serialNumber: 'ff' });
  await othersGoOn(session);
  backend.revoked.push({ agentId: agent.agentId, serialNumber: null });
  await link.pollRevocations();
  expect(await session.finish()).toBe(status.UNAUTHENTICATED);
});

test('a revocation between admission and welcome is not missed', async () => {
  let go = () => {};
  backend.pause = new Promise((resolve) => {
    go = resolve;
  });
  const session = connect();
  session.hello();
  await session.until(() => link.counters.connectionsOpened === 1);
  link.revoke({ agentId: agent.agentId, serialNumber: null });
  go();
  expect(await session.finish()).toBe(status.UNAUTHENTICATED);
});

test('a deleted agent loses its session with the next beat, and is not admitted again', async () => {
  const session = await welcomed();
  backend.deleted.add(agent.agentId);
  session.beat();
  const { reason, retryAfterMs } = await session.next('close');
  expect(reason).toBe(CloseReason.DRAINING);
  expect(retryAfterMs).toBeGreaterThan(0);
  expect(await session.finish()).toBe(status.UNAVAILABLE);
  const again = connect();
  again.hello();
  await expect(again.next('close')).resolves.toMatchObject({ reason: CloseReason.REVOKED });
  expect(await again.finish()).toBe(status.UNAUTHENTICATED);
});

test('a certificate that expires mid-stream ends the stream within five seconds', async () => {
  const brief = await authority.issueAgent({ notAfter: new Date(Date.now() + 60_000) });
  const session = await welcomed(brief);
  aheadMs += 61_000;
  const startedMs = performance.now();
  await expect(session.next('close')).resolves.toMatchObject({ reason: CloseReason.EXPIRED });
  expect(await session.finish()).toBe(status.UNAUTHENTICATED);
  expect(performance.now() - startedMs).toBeLessThan(5_000);
});

test('a message under an expired certificate is not heard, not even before the clock looks', async () => {
  const brief = await authority.issueAgent({ notAfter: new Date(Date.now() + 60_000) });
  const session = await welcomed(brief);
  aheadMs += 61_000;
  session.beat();
  expect(await session.finish()).toBe(status.UNAUTHENTICATED);
  expect(backend.beatsRecorded).toEqual([]);
});

test('a gateway that records nothing turns unready, sends its agents away, and recovers', async () => {
  const session = await welcomed();
  expect(link.isReady).toBe(true);
  backend.failure = new Error('bus down');
  session.beat();
  await expect(session.next('heartbeatAnswer')).resolves.toMatchObject({ recorded: false });
  aheadMs += 31_000;
  await session.until(() => !link.isReady);
  aheadMs += 11_000;
  const { reason, retryAfterMs } = await session.next('close');
  expect(reason).toBe(CloseReason.DEAF);
  expect(retryAfterMs).toBeGreaterThan(0);
  expect(await session.finish()).toBe(status.UNAVAILABLE);
  const refused = connect();
  refused.hello();
  expect(await refused.finish()).toBe(status.UNAVAILABLE);
  backend.failure = undefined;
  await session.until(() => link.isReady);
  await othersGoOn(await welcomed());
});

test('an idle gateway ticks, so that it knows it can be heard', async () => {
  const session = await welcomed();
  await session.until(() => backend.batches.filter((size) => size === 0).length >= 2);
});

test('a drain asks every agent to come back later and takes nobody else', async () => {
  const crowd = await Promise.all(Array.from({ length: 5 }, () => authority.issueAgent()));
  const open = await Promise.all(crowd.map((each) => welcomed(each)));
  const startedMs = performance.now();
  await link.drain(3_000);
  expect(performance.now() - startedMs).toBeLessThan(3_000);
  expect(link.isReady).toBe(false);
  for (const session of open) {
    await expect(session.next('close')).resolves.toMatchObject({ reason: CloseReason.DRAINING });
    expect(await session.finish()).toBe(status.UNAVAILABLE);
  }
  expect(await connect().finish()).toBe(status.UNAVAILABLE);
});

test('a beat that was received before a drain is still recorded', async () => {
  const session = await welcomed();
  session.beat();
  await session.until(() => link.counters.beatsReceived === 1);
  await link.drain(3_000);
  expect(backend.beatsRecorded).toHaveLength(1);
});

test('a flood of one agent is slowed to its rate, others go on', async () => {
  const other = await welcomed(await authority.issueAgent());
  const session = await welcomed();
  for (let count = 0; count < 2_000; count += 1) session.beat();
  await othersGoOn(other);
  expect(link.counters.beatsReceived).toBeLessThan(limits.agentMessagesPerSecond * 12 + 100);
  expect(session.ended).toBe(false);
});

test('enrolment turns what the registry answers into ids and DER', async () => {
  const issued = await authority.issueAgent();
  backend.enrollAnswer = {
    outcome: 'enrolled',
    organizationId: issued.organizationId,
    vaultId: newUuid(),
    agentId: issued.agentId,
    vaultName: 'payments',
    agentName: 'host-1',
    certificateChain: [issued.certificate, authority.intermediate, authority.root],
    trustDomain: testTrustDomain,
  };
  const response = await attemptEnrolment();
  expect(response.agentId).toBe(toId('agent', issued.agentId));
  expect(response.certificateChain).toHaveLength(2);
  expect(response.rootCertificate).toEqual(authority.rootDer);
  expect(backend.enrolments).toMatchObject([
    { token: 'token', vaultName: 'payments', agentName: 'host-1', address: '127.0.0.1' },
  ]);
});

test.each([
  ['token_invalid', status.UNAUTHENTICATED],
  ['csr_invalid', status.INVALID_ARGUMENT],
  ['name_invalid', status.INVALID_ARGUMENT],
  ['limit_reached', status.RESOURCE_EXHAUSTED],
] as const)('an enrolment refused for %s says why', async (reason, code) => {
  backend.enrollAnswer = { outcome: 'refused', reason, detail: 'because' };
  await expect(attemptEnrolment()).rejects.toMatchObject({ code, details: 'because' });
});

test('an enrolment during an outage of ours is unavailable, not refused', async () => {
  backend.failure = new Error('database down');
  await expect(attemptEnrolment()).rejects.toMatchObject({ code: status.UNAVAILABLE });
});

test.each([
  ['no token', { token: '' }],
  ['a token that is too long', { token: 'x'.repeat(201) }],
  ['no request', { certificateRequest: Buffer.alloc(0) }],
  ['a request that is too long', { certificateRequest: Buffer.alloc(7_000) }],
  ['a name that is too long', { vaultName: 'x'.repeat(500) }],
  ['another version', { version: '9' }],
])('an enrolment with %s is an invalid argument', async (_what, change) => {
  await expect(attemptEnrolment(change)).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
  expect(backend.enrolments).toEqual([]);
});

test('a renewal answers the new chain on the open session', async () => {
  const session = await welcomed();
  const next = await authority.issueAgent(agent);
  backend.renewAnswer = {
    outcome: 'renewed',
    certificateChain: [next.certificate, authority.intermediate, authority.root],
  };
  session.send(5, { $case: 'renewalRequest', value: { certificateRequest: Buffer.alloc(100) } });
  const issued = await session.next('certificateIssued');
  expect(issued.certificateChain).toHaveLength(2);
  expect(issued.rootCertificate).toEqual(authority.rootDer);
  expect(backend.renewals).toMatchObject([{ agentId: agent.agentId }]);
  backend.failure = new Error('registry down');
  session.send(5, { $case: 'renewalRequest', value: { certificateRequest: Buffer.alloc(100) } });
  const refused = await session.next('renewalRefused');
  expect(refused.retryAfterMs).toBeGreaterThan(0);
});

function attemptEnrolment(change: object = {}) {
  return enroll({ host: '127.0.0.1', port }, certificateFingerprint(authority.rootDer), {
    version: '1.0',
    token: 'token',
    certificateRequest: Buffer.alloc(100),
    vaultName: 'payments',
    agentName: 'host-1',
    agentVersion: '0.1.0',
    host: undefined,
    ...change,
  });
}

const setOf = (bytes: number) => {
  const content = randomBytes(bytes);
  return { content, number: 3, digest: policySetDigest(content) };
};

/** What the policy service would answer: a command for whoever does not hold the set. */
function assign(set: { content: Buffer; number: number; digest: string }): void {
  backend.policySets.set(set.digest, set.content);
  const command = encodeControlMessage({
    version: '1.0',
    timestampUnixMs: Date.now(),
    vaultId: '',
    messageType: 4,
    payload: {
      encrypted: false,
      metadataOnly: true,
      content: {
        $case: 'command',
        value: {
          number: 1,
          signerCertificate: Buffer.alloc(0),
          signerIssuer: Buffer.alloc(0),
          action: {
            $case: 'assignPolicySet',
            value: {
              policySet: { version: set.number, digest: set.digest },
              totalBytes: set.content.length,
              signature: Buffer.alloc(0),
              signerChain: [],
            },
          },
        },
      },
    },
    signature: Buffer.alloc(0),
  }).toString('base64');
  backend.assignedPolicySetVersion = set.number;
  backend.delivering = ({ held }) => ({
    assigned: { number: set.number, digest: set.digest },
    command: held?.digest === set.digest ? null : command,
    commands: [],
  });
}

function replayOf({ digest, content }: { digest: string; content: Buffer }): string {
  return encodeControlMessage({
    version: '1.0',
    timestampUnixMs: 1,
    vaultId: '',
    messageType: 4,
    payload: {
      encrypted: false,
      metadataOnly: true,
      content: {
        $case: 'command',
        value: {
          number: 7,
          signerCertificate: Buffer.alloc(0),
          signerIssuer: Buffer.alloc(0),
          action: {
            $case: 'replayDecisions',
            value: {
              replayId: Buffer.alloc(16),
              draft: { version: 0, digest },
              totalBytes: content.length,
              days: 7,
            },
          },
        },
      },
    },
    signature: Buffer.alloc(0),
  }).toString('base64');
}

async function download(session: TestSession, set: { number: number; digest: string }) {
  const parts: Buffer[] = [];
  for (let offset = 0; ; ) {
    session.send(4, {
      $case: 'policySetRequest',
      value: { policySet: { version: set.number, digest: set.digest }, offset },
    });
    const chunk = await session.next('policySetChunk');
    if (chunk.content.length === 0) return Buffer.concat(parts);
    parts.push(chunk.content);
    offset += chunk.content.length;
  }
}

test('an agent that does not hold its set is told, and gets it in parts below the message limit', async () => {
  const set = setOf(300_000);
  assign(set);
  const session = await welcomed();
  await expect(session.next('command')).resolves.toMatchObject({
    action: { $case: 'assignPolicySet' },
  });
  expect((await download(session, set)).equals(set.content)).toBe(true);
  expect(backend.partsRead).toBe(3);
  expect(link.counters.policySetPartsSent).toBe(8);
  session.send(1, {
    $case: 'heartbeat',
    value: {
      number: 1,
      health: 1,
      degradations: [],
      metrics: undefined,
      policySet: { version: set.number, digest: set.digest },
    },
  });
  await session.next('heartbeatAnswer');
  await expect
    .poll(() => backend.deliveries.at(-1)?.held)
    .toEqual({ number: 3, digest: set.digest });
  expect(link.counters.policyCommandsSent).toBe(1);
});

test('a set is read once for many agents, and a nudge tells those of its organization at once', async () => {
  const organizationId = newUuid();
  const crowd = await Promise.all(
    Array.from({ length: 20 }, () => authority.issueAgent({ organizationId })),
  );
  const open = await Promise.all(crowd.map((each) => welcomed(each)));
  const stranger = await welcomed();
  const set = setOf(100_000);
  assign(set);
  backend.assignedPolicySetVersion = null;
  link.lookAtPolicies(organizationId);
  await Promise.all(
    open.map(async (session) => {
      await session.next('command');
      expect((await download(session, set)).equals(set.content)).toBe(true);
    }),
  );
  expect(backend.partsRead).toBe(1);
  expect(stranger.received.some(({ $case }) => $case === 'command')).toBe(false);
});

test('an agent gets no part of a set that is not its own, and nothing where it is gone', async () => {
  const set = setOf(1_000);
  const other = setOf(1_000);
  assign(set);
  backend.policySets.set(other.digest, other.content);
  const session = await welcomed();
  await session.next('command');
  expect(await download(session, other)).toHaveLength(0);
  expect(await download(session, { ...set, number: 4 })).toHaveLength(0);
  backend.policySets.clear();
  expect(await download(session, set)).toHaveLength(0);
});

test('a draft is for those who were told to replay it, and who has no word for that is told on', async () => {
  const draft = setOf(60_000);
  backend.policySets.set(draft.digest, draft.content);
  backend.delivering = ({ unsupported }) => ({
    assigned: null,
    command: null,
    commands: unsupported === undefined ? [replayOf(draft)] : [],
  });
  const session = await welcomed();
  const { organizationId, agentId } = session.agent;
  link.lookAtAgent(organizationId, agentId);
  await expect(session.next('command')).resolves.toMatchObject({
    action: { $case: 'replayDecisions' },
  });
  expect((await download(session, { ...draft, number: 0 })).equals(draft.content)).toBe(true);
  const other = setOf(1_000);
  backend.policySets.set(other.digest, other.content);
  expect(await download(session, { ...other, number: 0 })).toHaveLength(0);
  session.send(4, { $case: 'commandAnswer', value: { number: 7, outcome: 4 } });
  await expect.poll(() => backend.deliveries.at(-1)?.unsupported).toEqual([7]);
});

test('agents are told when the policy service is back', async () => {
  const set = setOf(1_000);
  assign(set);
  const delivering = backend.delivering;
  backend.delivering = () => {
    throw new Error('away');
  };
  const session = await welcomed();
  await expect.poll(() => link.counters.policyCallsFailed).toBe(1);
  backend.delivering = delivering;
  await session.next('command');
});

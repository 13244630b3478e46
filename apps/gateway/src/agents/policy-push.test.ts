import { newUuid } from '@keystead/contracts/ids';
import { beforeEach, expect, test } from 'vitest';
import { zeroCounters } from './agent-link-counters.ts';
import type { AgentSession } from './agent-session.ts';
import { PolicyPush } from './policy-push.ts';

const organizationId = newUuid();
const set = { number: 1, digest: 'd'.repeat(64) };
const setBytes = 100_000;

let nowMs: number;
/** Agents in the order in which they were asked about. */
let askedAbout: string[];
/** Parts that wait for their streams, in the order in which they were sent. */
let sent: { name: string; offset: number; taken: () => void }[];
let push: PolicyPush;
/** Answers that it takes to tell all that there is to tell. */
let waiting: number;

beforeEach(() => {
  nowMs = 1_000_000;
  askedAbout = [];
  sent = [];
  waiting = 0;
  push = new PolicyPush({
    backend: {
      deliver: async (agents) => {
        askedAbout.push(...agents.map(({ agentId }) => agentId));
        waiting = Math.max(0, waiting - 1);
        const more = waiting > 0;
        return agents.map(() => ({ assigned: set, command: null, commands: [], more }));
      },
      policySetPart: async () => ({
        totalBytes: setBytes,
        content: Buffer.alloc(setBytes).toString('base64'),
      }),
    },
    counters: zeroCounters(),
    monotonicMs: () => nowMs,
    unixMs: () => nowMs,
    warn: () => undefined,
  });
});

/** As far as the push looks at one. */
function sessionOf(name: string): AgentSession {
  const session: Partial<AgentSession> = {
    identity: { organizationId, agentId: name } as AgentSession['identity'],
    state: 'open',
    held: null,
    assigned: set,
    askedAtMs: nowMs,
    unsupported: [],
    drafts: new Set(),
    sent: (_type, content) =>
      new Promise((taken) => {
        const offset = content.$case === 'policySetChunk' ? content.value.offset : -1;
        sent.push({ name, offset, taken });
      }),
  };
  return session as AgentSession;
}

const ask = (session: AgentSession, offset: number) =>
  push.request(session, { policySet: { version: set.number, digest: set.digest }, offset });

test('an agent that fetches its set is not told again, one that fetches nothing is', async () => {
  const idle = sessionOf('idle');
  const fetching = sessionOf('fetching');
  nowMs += 29_000;
  ask(fetching, 0);
  nowMs += 2_000;
  push.tick([idle, fetching]);
  await expect.poll(() => askedAbout).toEqual(['idle']);
  nowMs += 30_000;
  push.tick([fetching]);
  await expect.poll(() => askedAbout).toEqual(['idle', 'fetching']);
});

test('an agent is asked about again at once while there is more to tell it than one answer carries', async () => {
  waiting = 3;
  push.mark(sessionOf('busy'));
  push.flush();
  await expect.poll(() => waiting).toBe(0);
  expect(askedAbout).toEqual(['busy', 'busy', 'busy']);
});

test('an agent whose request waits for its turn is not told again, however long that takes', async () => {
  const crowd = Array.from({ length: 70 }, (_, at) => sessionOf(`agent ${at}`));
  for (const session of crowd) ask(session, 0);
  await expect.poll(() => sent).toHaveLength(64);
  nowMs += 60_000;
  push.tick(crowd.slice(64));
  for (const { taken } of sent.splice(0)) taken();
  await expect.poll(() => sent).toHaveLength(6);
  expect(askedAbout).toEqual([]);
});

test('who has a part goes before who has none, and takes no more than three of four turns', async () => {
  const first = Array.from({ length: 64 }, (_, at) => sessionOf(`first ${at}`));
  for (const session of first) ask(session, 0);
  await expect.poll(() => sent).toHaveLength(64);
  const inFlight = sent.splice(0);
  const later = Array.from({ length: 40 }, (_, at) => sessionOf(`later ${at}`));
  for (const session of later) ask(session, 0);
  for (const session of first) ask(session, 32_768);
  for (const { taken } of inFlight) taken();
  await expect.poll(() => sent).toHaveLength(64);
  const turns = sent.map(({ name }) => (name.startsWith('first') ? 'first' : 'later'));
  expect(turns.filter((turn) => turn === 'later')).toHaveLength(16);
  expect(turns.slice(0, 8).filter((turn) => turn === 'later')).toHaveLength(2);
  // One that is gone is not served.
  for (const session of later) push.forget(session);
  for (const { taken } of sent.splice(0)) taken();
  await expect.poll(() => sent).toHaveLength(16);
  expect(sent.every(({ name }) => name.startsWith('first'))).toBe(true);
});

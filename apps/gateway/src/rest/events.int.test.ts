import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { readLiveEvents } from '@keystead/contracts/agent-link';
import { limits } from '@keystead/contracts/limits';
import { nudges } from '@keystead/contracts/nudges';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type RestFixture, startRest } from '../rest.fixture.ts';

let rest: RestFixture;
/** Events by organization, in the order of their positions. */
const written = new Map<string, { id: string; type: string; at: string; data: object }[]>();
const open: AbortController[] = [];

beforeAll(async () => {
  rest = await startRest();
  rest.answers.internal[readLiveEvents.subject] = (
    { organizationId, after }: { organizationId: string; after: string | null },
    ctx,
  ) => {
    if (ctx.organizationId !== organizationId) throw new Error('another organization was asked');
    const events = written.get(organizationId) ?? [];
    const last = events.at(-1)?.id ?? '100-0';
    if (after === null) return { events: [], position: last, missed: false };
    const following = events.filter(({ id }) => place(id) > place(after));
    return {
      events: following,
      position: following.at(-1)?.id ?? after,
      missed: place(after) < 100,
    };
  };
});
afterAll(() => rest.stop());
afterEach(() => {
  for (const controller of open.splice(0)) controller.abort();
});

const place = (id: string) => Number(id.split('-')[0]);
function write(organizationId: string, data: object) {
  const events = written.get(organizationId) ?? [];
  written.set(organizationId, events);
  const id = `${101 + events.length}-1`;
  events.push({ id, type: 'agent.status', at: new Date().toISOString(), data });
  return id;
}

async function follow(token: string, lastEventId?: string) {
  const controller = new AbortController();
  open.push(controller);
  const answer = await fetch(`${rest.url}/v1/events`, {
    headers: {
      authorization: `Bearer ${token}`,
      ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
    },
    signal: controller.signal,
  });
  const stream = { status: answer.status, headers: answer.headers, text: '', ended: false };
  const read = async () => {
    for await (const chunk of answer.body ?? []) stream.text += Buffer.from(chunk).toString();
  };
  void read()
    .catch(() => {})
    .finally(() => {
      stream.ended = true;
    });
  return Object.assign(stream, { close: () => controller.abort() });
}

async function until(holds: () => boolean | Promise<boolean>, withinMs: number): Promise<number> {
  const startedAtMs = performance.now();
  while (!(await holds())) {
    if (performance.now() - startedAtMs > withinMs) throw new Error(`not within ${withinMs} ms`);
    await delay(10);
  }
  return performance.now() - startedAtMs;
}

test('what happens is told at once when nudged, and within a second or two without', async () => {
  const owner = await rest.signIn();
  const stream = await follow(owner.token);
  expect(stream.status).toBe(200);
  expect(stream.headers.get('content-type')).toMatch(/^text\/event-stream/);
  await until(() => stream.text.includes('id: 100-0'), 1_000);
  const first = write(owner.organizationId, { status: 'offline' });
  rest.nudge(nudges.liveEvents.subject, owner.organizationId);
  await until(() => stream.text.includes(`id: ${first}\nevent: agent.status\ndata: {`), 700);
  const second = write(owner.organizationId, { status: 'online' });
  await until(() => stream.text.includes(`id: ${second}\n`), 2_500);
  expect(stream.text.match(/^event: /gm)?.length).toBe(2);
});

test('a stream goes on after the last event that was received', async () => {
  const owner = await rest.signIn();
  const ids = [1, 2, 3].map((number) => write(owner.organizationId, { number }));
  const stream = await follow(owner.token, ids[0]);
  await until(() => stream.text.includes(`id: ${ids[2]}\n`), 1_500);
  expect(
    [...stream.text.matchAll(/^data: (.*)$/gm)].map(([, text = '']) => JSON.parse(text).data),
  ).toEqual([{ number: 2 }, { number: 3 }]);
});

test('a gap that cannot be filled is told', async () => {
  const owner = await rest.signIn();
  const stream = await follow(owner.token, '5-1');
  await until(() => stream.text.includes('event: missed\n'), 1_500);
});

test('an organization hears nothing of another', async () => {
  const owner = await rest.signIn();
  const other = await rest.signIn();
  const stream = await follow(owner.token);
  const otherStream = await follow(other.token);
  const id = write(other.organizationId, { status: 'offline' });
  rest.nudge(nudges.liveEvents.subject, other.organizationId);
  await until(() => otherStream.text.includes(id), 1_500);
  expect(stream.text).not.toContain('event:');
});

test.each([
  [
    'the session is revoked',
    (owner: Owner) =>
      rest.database.withTenant(owner.tenant, (transaction) =>
        transaction.session.updateMany({ data: { revokedAt: new Date() } }),
      ),
  ],
  [
    'the role changes',
    (owner: Owner) =>
      rest.database.withTenant(owner.tenant, (transaction) =>
        transaction.member.updateMany({ data: { role: 'admin' } }),
      ),
  ],
  [
    'the member is removed',
    (owner: Owner) =>
      rest.database.withTenant(owner.tenant, (transaction) => transaction.member.deleteMany({})),
  ],
] as const)('a stream ends within five seconds after %s', async (_, change) => {
  const owner = await rest.signIn();
  const stream = await follow(owner.token);
  await until(() => stream.text.includes('retry:'), 1_000);
  await change(owner);
  await until(() => stream.ended, 5_000);
  expect(stream.text).toContain(': the credentials have ended');
});
type Owner = Awaited<ReturnType<RestFixture['signIn']>>;

test('the stream of a revoked key ends within five seconds', async () => {
  const owner = await rest.signIn();
  const { key } = await rest.createKey(owner.organizationId, 'viewer');
  const stream = await follow(key);
  await until(() => stream.text.includes('retry:'), 1_000);
  await rest.database.withTenant(owner.tenant, (transaction) =>
    transaction.apiKey.updateMany({ data: { revokedAt: new Date() } }),
  );
  await until(() => stream.ended, 5_000);
});

test('an organization has a bounded number of streams, and gets its places back', async () => {
  const owner = await rest.signIn();
  const streams = await Promise.all(
    Array.from({ length: limits.eventStreamsPerOrganization }, () => follow(owner.token)),
  );
  expect(new Set(streams.map(({ status }) => status))).toEqual(new Set([200]));
  const refused = await follow(owner.token);
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect((await follow((await rest.signIn()).token)).status).toBe(200);
  streams[0]?.close();
  await until(async () => (await follow(owner.token)).status === 200, 3_000);
});

test('a reader that does not read is let go', async () => {
  const owner = await rest.signIn();
  const socket = connect(rest.port, '127.0.0.1');
  socket.pause();
  socket.write(
    `GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${owner.token}\r\n\r\n`,
  );
  const reader = await follow(owner.token);
  await until(() => reader.text.includes('retry:'), 1_000);
  const openStreams = async () =>
    Number(
      /keystead_event_streams\{[^}]*\} (\d+)/.exec(
        await (await fetch(`${rest.url}/metrics`)).text(),
      )?.[1],
    );
  await until(async () => (await openStreams()) >= 2, 2_000);
  const before = await openStreams();
  for (let round = 0; round < 40; round += 1) {
    for (let index = 0; index < 20; index += 1)
      write(owner.organizationId, { filler: 'x'.repeat(20_000) });
    rest.nudge(nudges.liveEvents.subject, owner.organizationId);
    await delay(20);
    if ((await openStreams()) < before) break;
  }
  await until(async () => (await openStreams()) < before, 5_000);
  socket.destroy();
});

test.each(['nonsense', '1', '-', '99999999999999999999-1', "1-1' or 1=1"])(
  'Last-Event-ID %j is refused',
  async (id) => {
    const owner = await rest.signIn();
    const stream = await follow(owner.token, id);
    expect(stream.status).toBe(400);
    await until(() => stream.ended, 1_000);
    expect(JSON.parse(stream.text).errors).toMatchObject([
      { in: 'header', path: '/Last-Event-ID' },
    ]);
  },
);

test('HEAD says what the stream would be, and opens none', async () => {
  const owner = await rest.signIn();
  const answer = await fetch(`${rest.url}/v1/events`, {
    method: 'HEAD',
    headers: { authorization: `Bearer ${owner.token}` },
  });
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toMatch(/^text\/event-stream/);
});

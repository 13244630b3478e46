/** The whole API over every service: what is foreign, and what is hostile. */
import { Agent } from 'node:http';
import { type IdKind, idPrefixes, newUuid, toId } from '@keystead/contracts/ids';
import { operations } from '@keystead/contracts/operations';
import { type ControlPlane, startControlPlane } from '@keystead/test-control-plane/control-plane';
import {
  acceptedRequest,
  type KnownIds,
  requestsOf,
} from '@keystead/test-control-plane/hostile/requests.fixture';
import { expectClear, sendDrawn } from '@keystead/test-control-plane/hostile/send.fixture';
import type { Api } from '@keystead/test-control-plane/installation/api';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';

/** In full with `npm run prove`. */
const runs = process.env.KEYSTEAD_PROVE === 'full' ? 500 : 12;
/** Seven processes, their stores and the tests share two cores. */
const answerWithinMs = 7_500;

let controlPlane: ControlPlane;
let port: number;
let known: KnownIds;
let ownKey: string;
let otherKey: string;
const agent = new Agent({ keepAlive: true });

beforeAll(async () => {
  controlPlane = await startControlPlane({
    environment: {
      KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER: '1000000',
      KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS: '1000000',
      KEYSTEAD_SIGN_UPS_PER_ADDRESS_PER_HOUR: '1000000',
    },
  });
  port = Number(new URL(controlPlane.apiUrl).port);
  const own = await controlPlane.signUp('Own');
  const other = await controlPlane.signUp('Other');
  known = await populate(own.api);
  const createKey = async (api: Api) =>
    (await api.post<{ key: string }>('/v1/api-keys', { name: 'key', role: 'owner' })).key;
  ownKey = await createKey(own.api);
  otherKey = await createKey(other.api);
});
afterAll(async () => {
  agent.destroy();
  await controlPlane?.stop();
});

/** One of everything an organization can have. */
async function populate(api: Api): Promise<KnownIds> {
  const ids = new Map<string, string>();
  const keep = (id: string) => ids.set(id.slice(0, 3), id);
  const create = async (path: string, body: unknown) => {
    const { id } = await api.post<{ id: string }>(path, body);
    keep(id);
    return id;
  };
  await api.patch('/v1/organizations/current', { offlineAfterSeconds: 15 });
  const channel = await create('/v1/channels', {
    kind: 'webhook',
    name: 'hook',
    config: { url: `${controlPlane.inbox.url}/webhooks/own` },
  });
  await create('/v1/subscriptions', {
    name: 'all',
    channelIds: [channel],
    events: ['vault.offline'],
  });
  await create('/v1/alert-rules', { name: 'rule', events: ['vault.offline'] });
  await create('/v1/threshold-rules', { tag: 'slow', offlineAfterSeconds: 60 });
  await create('/v1/enrollment-tokens', { name: 'token' });
  await create('/v1/members', { email: 'guest@keystead.test', name: 'Guest', role: 'viewer' });
  await create('/v1/api-keys', { name: 'spare' });
  keep((await api.post<{ id: string }>(`/v1/channels/${channel}/test`, {})).id);
  const running = await controlPlane.startAgent(api, { name: 'one', vault: 'one' });
  const first = async (path: string) =>
    (await api.get<{ items: { id: string }[] }>(path)).items[0]?.id;
  const shown = (path: string) =>
    vi.waitFor(async () => expect(await first(path)).toBeDefined(), {
      timeout: 60_000,
      interval: 500,
    });
  await shown('/v1/agents?status=online');
  const policy = await create('/v1/policies', {
    name: 'policy',
    source: { format: 'cedar', text: 'permit(principal, action, resource);' },
  });
  await api.post(`/v1/policies/${policy}/versions/1/publish`, {});
  const set = await create('/v1/policy-sets', { name: 'set', policyIds: [policy] });
  await api.post(`/v1/policy-sets/${set}/versions`, {});
  await create('/v1/rollouts', { policySetId: set, target: { kind: 'all' } });
  await create('/v1/policy-replays', { policySetId: set, target: { kind: 'all' } });
  await running.kill();
  await shown('/v1/alerts');
  for (const path of ['/v1/vaults', '/v1/agents', '/v1/outages', '/v1/alerts']) {
    keep((await first(path)) as string);
  }
  return ids;
}

const kindOf = Object.fromEntries(
  Object.entries(idPrefixes).map(([kind, prefix]) => [prefix, kind]),
) as Record<string, IdKind>;

/** Ids of the same kinds that nothing has. */
const absent = (): KnownIds =>
  new Map([...known.keys()].map((prefix) => [prefix, toId(kindOf[prefix] as IdKind, newUuid())]));

const named = (text: string) =>
  text.replace(/"requestId":"[^"]+"/, '').replace(/"timestamp":"[^"]+"/, '');

describe('an id of another organization', () => {
  const prefixesOf = (operation: (typeof operations)[number]) =>
    JSON.stringify(acceptedRequest(operation, new Map())).match(
      /[a-z]{3}_01h455vb4pex5vsknk084sn02q/g,
    );

  test.each(operations.filter(({ path }) => path.includes('{id}')))(
    'is answered by $method $path as one that nobody has',
    async (operation) => {
      const to = { port, token: otherKey, agent };
      expect(prefixesOf(operation)).not.toBeNull();
      const foreign = await sendDrawn(acceptedRequest(operation, known), to);
      const missing = await sendDrawn(acceptedRequest(operation, absent()), to);
      // An approval is made by an agent, and decided by people alone, with whatever id.
      const isApproval = operation.path.startsWith('/v1/approvals/');
      const isDecision = isApproval && operation.method === 'POST';
      expect(foreign.status, foreign.text).toBe(isDecision ? 403 : 404);
      expect(named(foreign.text)).toBe(named(missing.text));
      expect(Object.keys(foreign.headers)).toEqual(Object.keys(missing.headers));
      // What is asked for is there, for its own organization.
      if (operation.method === 'GET' && !isApproval) {
        const own = await sendDrawn(acceptedRequest(operation, known), { ...to, token: ownKey });
        expect(own.status, own.text).toBe(200);
      }
    },
  );

  test('finds nothing as a filter, and nothing in a body', async () => {
    const to = { port, token: otherKey, agent };
    const nobody = absent();
    for (const [path, field, prefix] of [
      ['/v1/agents', 'vaultId', 'vlt'],
      ['/v1/outages', 'vaultId', 'vlt'],
      ['/v1/outages', 'agentId', 'agt'],
      ['/v1/alerts', 'vaultId', 'vlt'],
      ['/v1/deliveries', 'channelId', 'chn'],
      ['/v1/deliveries', 'alertId', 'alr'],
    ] as const) {
      const ask = (ids: KnownIds) =>
        sendDrawn(
          {
            method: 'GET',
            target: `${path}?${field}=${ids.get(prefix)}`,
            headers: {},
            body: undefined,
          },
          to,
        );
      const foreign = await ask(known);
      expect(named(foreign.text), `${path} by ${field}`).toBe(named((await ask(nobody)).text));
      expect(JSON.parse(foreign.text)).toMatchObject({ items: [] });
    }
    const subscribe = (ids: KnownIds) =>
      sendDrawn(
        {
          method: 'POST',
          target: '/v1/subscriptions',
          headers: { 'content-type': 'application/json' },
          body: Buffer.from(
            JSON.stringify({ name: 'x', channelIds: [ids.get('chn')], events: ['vault.offline'] }),
          ),
        },
        to,
      );
    const foreign = await subscribe(known);
    expect(foreign.status).toBeGreaterThanOrEqual(400);
    expect(named(foreign.text)).toBe(named((await subscribe(nobody)).text));
  });
});

describe('whatever is sent', () => {
  const order = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'];
  // What takes things away comes last.
  const sorted = operations.toSorted(
    (one, other) => order.indexOf(one.method) - order.indexOf(other.method),
  );
  test.each(sorted)('$method $path is answered clearly by its service', async (operation) => {
    await fc.assert(
      fc.asyncProperty(requestsOf(operation, known), async (drawn) => {
        const heard = await sendDrawn(drawn, { port, token: ownKey, agent });
        expectClear(
          heard,
          JSON.stringify({ ...drawn, body: drawn.body?.toString() }),
          answerWithinMs,
        );
      }),
      { numRuns: runs },
    );
  });
});

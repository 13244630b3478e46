/** From a written policy to an agent that decides by it, over every process between. */
import { type ControlPlane, startControlPlane } from '@keystead/test-control-plane/control-plane';
import type { Api } from '@keystead/test-control-plane/installation/api';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';

let plane: ControlPlane;
let api: Api;

beforeAll(async () => {
  plane = await startControlPlane();
  api = (await plane.signUp('Policies')).api;
}, 120_000);
afterAll(() => plane?.stop());

interface AgentPolicy {
  state: string;
  held: { number: number; digest: string } | null;
}

async function published(name: string, text: string): Promise<string> {
  const { id } = await api.post<{ id: string }>('/v1/policies', {
    name,
    source: { format: 'cedar', text },
  });
  await api.post(`/v1/policies/${id}/versions/1/publish`, {});
  return id;
}

const eventually = <T>(look: () => Promise<T>, check: (seen: T) => void) =>
  vi.waitFor(async () => check(await look()), { timeout: 60_000, interval: 250 });

test('a set reaches the agents of a rollout within seconds, and one that was away when it returns', async () => {
  await api.patch('/v1/organizations/current', { offlineAfterSeconds: 15 });
  const here = await plane.startAgent(api, { name: 'here', vault: 'vault' });
  const away = await plane.startAgent(api, { name: 'away', vault: 'vault' });
  await eventually(
    () => api.get<{ items: { id: string; name: string }[] }>('/v1/agents?status=online'),
    ({ items }) => expect(items).toHaveLength(2),
  );
  const { items } = await api.get<{ items: { id: string; name: string }[] }>('/v1/agents');
  const idOf = (name: string) => items.find((agent) => agent.name === name)?.id;
  const policyOf = (name: string) => api.get<AgentPolicy>(`/v1/agents/${idOf(name)}/policy`);
  const policyIds = [await published('readers', 'permit(principal, action, resource);')];
  const set = await api.post<{ id: string }>('/v1/policy-sets', { name: 'set', policyIds });
  const sign = () =>
    api.post<{ number: number; digest: string }>(`/v1/policy-sets/${set.id}/versions`, {});
  const rollOut = () =>
    api.post<{ id: string }>('/v1/rollouts', {
      policySetId: set.id,
      target: { kind: 'all' },
      stages: [{ vaults: { kind: 'all' }, watchSeconds: 0 }],
    });
  const first = await sign();
  const rollout = await rollOut();
  for (const name of ['here', 'away']) {
    await eventually(
      () => policyOf(name),
      (policy) =>
        expect(policy).toMatchObject({
          state: 'active',
          held: { number: first.number, digest: first.digest },
        }),
    );
  }
  await eventually(
    () => api.get<{ state: string }>(`/v1/rollouts/${rollout.id}`),
    ({ state }) => expect(state).toBe('completed'),
  );

  await away.kill();
  const second = await sign();
  await rollOut();
  await eventually(
    () => policyOf('here'),
    ({ held }) => expect(held?.number).toBe(second.number),
  );
  expect(await policyOf('away')).toMatchObject({ held: { number: first.number } });
  await away.start();
  await eventually(
    () => policyOf('away'),
    (policy) => expect(policy).toMatchObject({ state: 'active', held: { number: second.number } }),
  );
  await here.kill();
}, 180_000);

test('kill −9 of policy, gateway and an agent in the middle of a rollout: it finishes, nobody holds a mixture', async () => {
  const names = ['canary', 'second', 'third'];
  const agents = await Promise.all(
    names.map((name) => plane.startAgent(api, { name, vault: name })),
  );
  type Item = { id: string; name: string; vault: { id: string } };
  const fleet = async () =>
    (await api.get<{ items: Item[] }>('/v1/agents?status=online')).items.filter(({ name }) =>
      names.includes(name),
    );
  await eventually(fleet, (items) => expect(items).toHaveLength(3));
  const items = await fleet();
  const policyIds = [
    await published('strict', 'permit(principal in Role::"admin", action, resource);'),
  ];
  const set = await api.post<{ id: string }>('/v1/policy-sets', { name: 'strict', policyIds });
  const signed = await api.post<{ number: number; digest: string }>(
    `/v1/policy-sets/${set.id}/versions`,
    {},
  );
  const vaultOf = (name: string) => items.find((item) => item.name === name)?.vault.id;
  const rollout = await api.post<{ id: string }>('/v1/rollouts', {
    policySetId: set.id,
    target: { kind: 'vaults', vaultIds: names.map(vaultOf) },
    stages: [
      { vaults: { kind: 'named', vaultIds: [vaultOf('canary')] }, watchSeconds: 0 },
      { vaults: { kind: 'all' }, watchSeconds: 0 },
    ],
  });
  await agents[1]?.kill();
  for (const name of ['policy', 'gateway'] as const) {
    await plane.services[name].kill();
    await plane.services[name].start();
  }
  agents[1]?.start();
  await eventually(
    () => api.get<{ state: string }>(`/v1/rollouts/${rollout.id}`),
    ({ state }) => expect(state).toBe('completed'),
  );
  for (const { id } of items) {
    await eventually(
      () => api.get<AgentPolicy>(`/v1/agents/${id}/policy`),
      (policy) =>
        expect(policy).toMatchObject({
          state: 'active',
          held: { number: signed.number, digest: signed.digest },
        }),
    );
  }
  await Promise.all(agents.map((agent) => agent.kill()));
}, 180_000);

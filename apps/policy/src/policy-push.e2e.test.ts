/** From a written policy to an agent that decides by it, over every process between. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type ControlPlane, startControlPlane } from '@keystead/test-control-plane/control-plane';
import type { AgentProcess } from '@keystead/test-control-plane/installation/agent-process';
import type { Api } from '@keystead/test-control-plane/installation/api';
import { repository } from '@keystead/test-control-plane/installation/service-process';
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

  // What a draft would have changed, by what both agents did on their own.
  const [policyId = ''] = policyIds;
  const text = 'forbid(principal is System, action, resource);';
  const { version } = await api.post<{ version: number }>(`/v1/policies/${policyId}/versions`, {
    source: { format: 'cedar', text },
  });
  await away.kill();
  type Replay = { id: string; newlyDenied: number; agents: Record<string, number> };
  const replay = await api.post<Replay>('/v1/policy-replays', {
    policySetId: set.id,
    drafts: [{ policyId, version }],
    target: { kind: 'all' },
  });
  const found = () => api.get<Replay>(`/v1/policy-replays/${replay.id}`);
  await eventually(found, (seen) =>
    expect(seen).toMatchObject({ state: 'running', agents: { answered: 1, pending: 1 } }),
  );
  await away.start();
  await eventually(found, (seen) =>
    expect(seen).toMatchObject({ state: 'finished', agents: { answered: 2 } }),
  );
  expect((await found()).newlyDenied).toBeGreaterThan(0);
  const publish = api.post(`/v1/policies/${policyId}/versions/${version}/publish`, {
    stopAboveNewDenials: { count: 0 },
  });
  await expect(publish).rejects.toThrow(replay.id);
  await here.kill();
}, 180_000);

test('kill −9 of policy, gateway and an agent amid a rollout and amid a replay: it finishes, nobody holds a mixture or counts twice', async () => {
  const names = ['canary', 'second', 'third'];
  const agents = await Promise.all(
    names.map((name) => plane.startAgent(api, { name, vault: name })),
  );
  const killed = (...services: ('policy' | 'gateway')[]) =>
    Promise.all(
      services.map(async (name) => {
        await plane.services[name].kill();
        await plane.services[name].start();
      }),
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
  await killed('policy', 'gateway');
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

  // The same amid a replay: it finishes, and each agent counts once, whatever it says again.
  const [first, , third] = agents;
  await third?.kill();
  type Counted = { agentId: string; state: string; decisions: number; newlyDenied: number };
  type Replay = { id: string; state: string; decisions: number; agents: Record<string, number> };
  const replay = await api.post<Replay>('/v1/policy-replays', {
    ...{ policySetId: set.id, number: signed.number },
    target: { kind: 'vaults', vaultIds: names.map(vaultOf) },
  });
  await killed('policy', 'gateway');
  const found = () => api.get<Replay>(`/v1/policy-replays/${replay.id}`);
  const counted = async () =>
    (await api.get<{ items: Counted[] }>(`/v1/policy-replays/${replay.id}/agents`)).items;
  await eventually(found, (seen) =>
    expect(seen).toMatchObject({ state: 'running', agents: { answered: 2, pending: 1 } }),
  );
  const before = (await counted()).filter(({ state }) => state === 'answered');
  // Perhaps without its receipt: then it answers anew.
  await first?.kill();
  await Promise.all([killed('gateway'), first?.start(), third?.start()]);
  await eventually(found, (seen) =>
    expect(seen).toMatchObject({ state: 'finished', agents: { asked: 3, answered: 3 } }),
  );
  const after = await counted();
  expect(after).toHaveLength(3);
  expect(after).toEqual(expect.arrayContaining(before));
  expect((await found()).decisions).toBe(after.reduce((sum, { decisions }) => sum + decisions, 0));
  expect(after.every(({ decisions }) => decisions > 0)).toBe(true);
  await Promise.all(agents.map((agent) => agent.kill()));
}, 180_000);

/** An API key of the agent, and its API with it. */
async function callerOf(agent: AgentProcess, role: string) {
  const [program, node] = [
    join(repository, 'apps', 'vault-agent', 'bin', 'keystead-agent'),
    join(repository, 'node_modules', '.bin'),
  ];
  const { stdout } = await promisify(execFile)(
    program,
    ['api-key', 'create', '--config', agent.configFile, '--name', role, '--role', role],
    { env: { ...process.env, PATH: `${node}:${process.env.PATH}` } },
  );
  const port = /^\s+port:\s*(\d+)\s*$/m.exec(readFileSync(agent.configFile, 'utf8'))?.[1];
  return (method: string, path: string, body?: unknown) =>
    fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers: { authorization: `Bearer ${stdout.trim()}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
}

test('what an agent parks is approved in the control plane, also while the agent is away', async () => {
  const agent = await plane.startAgent(api, { name: 'careful', vault: 'careful' });
  const ask = await callerOf(agent, 'admin');
  const policyIds = [
    await published('anything', 'permit(principal, action, resource);'),
    await published(
      'four eyes',
      `@priority("10") @require_approval("1 of admin within 10 minutes")
       permit(principal, action == Action::"namespace.create", resource);`,
    ),
  ];
  const set = await api.post<{ id: string }>('/v1/policy-sets', { name: 'careful', policyIds });
  await api.post(`/v1/policy-sets/${set.id}/versions`, {});
  const { items } = await api.get<{ items: { vault: { id: string }; name: string }[] }>(
    '/v1/agents',
  );
  const vaultId = items.find(({ name }) => name === 'careful')?.vault.id;
  await api.post('/v1/rollouts', {
    policySetId: set.id,
    target: { kind: 'vaults', vaultIds: [vaultId] },
    stages: [{ vaults: { kind: 'all' }, watchSeconds: 0 }],
  });
  const create = () => ask('POST', '/v1/namespaces', { name: 'project-zeppelin' });
  await eventually(
    async () => {
      const { set: held } = (await (await ask('GET', '/v1/policy')).json()) as {
        set: object | null;
      };
      return held;
    },
    (held) => expect(held).toMatchObject({ policies: 2 }),
  );
  const answer = await (await create()).text();
  const [id] = /apr_[0-9a-z]{26}/.exec(answer) ?? [];
  expect(id, answer).toBeDefined();
  type Approval = { id: string; status: string; decisions: { state: string }[] };
  await eventually(
    () => api.get<{ items: Approval[] }>('/v1/approvals?status=pending'),
    (listed) => {
      expect(listed.items.map((each) => each.id)).toEqual([id]);
      expect(JSON.stringify(listed)).not.toContain('zeppelin');
    },
  );
  await eventually(
    () => api.get<{ items: { kind: string }[] }>('/v1/alerts?status=open'),
    (alerts) => expect(alerts.items.map(({ kind }) => kind)).toContain('approval.requested'),
  );
  await agent.kill();
  await api.post(`/v1/approvals/${id}/approve`, { reason: 'the project is real' });
  agent.start();
  await eventually(
    () => api.get<Approval>(`/v1/approvals/${id}`),
    (approval) =>
      expect(approval).toMatchObject({ status: 'approved', decisions: [{ state: 'accepted' }] }),
  );
  expect((await create()).status).toBe(201);
  await eventually(
    () => api.get<Approval>(`/v1/approvals/${id}`),
    ({ status }) => expect(status).toBe('used'),
  );
  await agent.kill();
}, 180_000);

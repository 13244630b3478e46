import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { wordsOfReason } from '@keystead/contracts/monitoring';
import { createRollout, listRolloutAgents, listRollouts } from '@keystead/contracts/policy';
import { enqueue } from '@keystead/database/outbox';
import { compile } from '@keystead/policy-engine/compile';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  ctxOf,
  denyAll,
  given,
  type Organization,
  PolicyWorld,
  type TestVault,
} from '../policy.fixture.ts';
import { readContent } from '../policy-sets/set-content.ts';
import { countAgents, findRollout, showRollout } from './rollout-rows.ts';

let world: PolicyWorld;

beforeAll(async () => {
  world = await PolicyWorld.open();
});
afterAll(() => world.close());
beforeEach(async () => {
  // The runner looks at every organization: each test begins with no rollout under way.
  await world.database.acrossTenants('roll-out', async (transaction) => {
    await transaction.$executeRaw`update policy.rollout set state = 'stopped' where state = 'running'`;
  });
});

const stages = (...kinds: object[]) =>
  kinds.map((vaults) => ({ vaults, watchSeconds: 0, afterwards: 'continue' }));
const percent = (share: number) => ({ kind: 'percent', percent: share });
const all = { kind: 'all' };

async function fleet(vaults: number) {
  const organization = await world.organization();
  const made: TestVault[] = [];
  for (let index = 0; index < vaults; index += 1) {
    made.push(await world.vault(organization, [null], index % 2 ? ['odd'] : []));
  }
  await world.database.withTenant(organization, (transaction) =>
    transaction.agentLiveness.updateMany({ data: { status: 'online' } }),
  );
  const { set, signed } = await world.signedSet(organization);
  return { organization, vaults: made, set, signed };
}

function start({ ctx }: Organization, policySetId: string, body: Record<string, unknown> = {}) {
  return world.rollouts.create(
    ctx,
    given<typeof createRollout>({
      body: createRollout.body.parse({ policySetId, target: { kind: 'all' }, ...body }),
    }),
  );
}
const show = ({ ctx }: Organization, id: string) =>
  world.rollouts.get(ctx, given({ params: { id } }));
const act = (
  verb: 'approve' | 'pause' | 'resume' | 'stop' | 'rollback',
  { ctx }: Organization,
  id: string,
) => world.rollouts[verb](ctx, given({ params: { id } }));
const assigned = async (vaults: readonly TestVault[]) => {
  const [first] = vaults;
  const rows = await world.database.withTenant(first as TestVault, (transaction) =>
    transaction.policySetAssignment.findMany({ orderBy: { vaultId: 'asc' } }),
  );
  return rows.map(({ version }) => version);
};

const listed = (id: string) =>
  given<typeof listRolloutAgents>({ params: { id }, query: listRolloutAgents.query.parse({}) });

/** Every agent whose vault is assigned the number takes it, but for one. */
async function converge(organization: Organization, { number, digest }: Signed, but?: string) {
  const rows = await world.database.withTenant(
    organization,
    (transaction) => transaction.$queryRaw<{ agent_id: string }[]>`
      select a.id as agent_id from registry.agent a
      join policy.policy_set_assignment p
        on p.organization_id = a.organization_id and p.vault_id = a.vault_id
      where p.version = ${number}`,
  );
  const { organizationId } = organization;
  await world.deliveries.deliver(
    rows
      .filter(({ agent_id: agentId }) => agentId !== but)
      .map(({ agent_id: agentId }) => ({ organizationId, agentId, held: { number, digest } })),
  );
  return rows.length;
}
type Signed = { number: number; digest: string };

test('a set goes stage by stage, each after the agents of the one before hold it', async () => {
  const { organization, vaults, set, signed } = await fleet(10);
  const { id, vaultCount, agents } = await start(organization, set.id, {
    stages: stages(percent(10), percent(50), all),
  });
  expect({ vaultCount, agents }).toMatchObject({
    vaultCount: 10,
    agents: { total: 1, pending: 1, active: 0 },
  });
  expect(await assigned(vaults)).toHaveLength(1);
  expect(await world.runner.run()).toBe(0);
  expect(await converge(organization, signed)).toBe(1);
  expect(await world.runner.run()).toBe(1);
  expect(await assigned(vaults)).toHaveLength(5);
  expect(await world.runner.run()).toBe(0);
  await converge(organization, signed);
  await Promise.all([world.runner.run(), world.runner.run()]);
  expect(await assigned(vaults)).toHaveLength(10);
  expect(await show(organization, id)).toMatchObject({ state: 'running', stage: 2 });
  await converge(organization, signed);
  await world.runner.run();
  expect(await show(organization, id)).toMatchObject({
    state: 'completed',
    agents: { total: 10, active: 10 },
    finishedAt: expect.any(String),
  });
  const listed = await world.rollouts.agents(
    organization.ctx,
    given({ params: { id }, query: listRolloutAgents.query.parse({ limit: 4 }) }),
  );
  expect(listed.items).toHaveLength(4);
  expect(listed.nextAfter).toBe(listed.items.at(-1)?.agentId);
});

test('it aims at a tag, at named vaults, or at all, and one rollout of a set runs at a time', async () => {
  const { organization, set } = await fleet(4);
  const odd = await start(organization, set.id, { target: { kind: 'tag', tag: 'odd' } });
  expect(odd.vaultCount).toBe(2);
  await expect(start(organization, set.id)).rejects.toMatchObject({ code: 'conflict' });
  await act('stop', organization, odd.id);
  await expect(
    start(organization, set.id, { target: { kind: 'tag', tag: 'nobody' } }),
  ).rejects.toMatchObject({ code: 'invalid_request' });
  const other = await fleet(1);
  await expect(
    start(organization, set.id, {
      target: { kind: 'vaults', vaultIds: [toId('vault', other.vaults[0]?.vaultId ?? '')] },
    }),
  ).rejects.toMatchObject({ code: 'unprocessable' });
  await expect(show(other.organization, odd.id)).rejects.toMatchObject({ code: 'not_found' });
  const { items } = await world.rollouts.list(
    organization.ctx,
    given({ query: listRollouts.query.parse({}) }),
  );
  expect(items.map(({ id }) => id)).toEqual([odd.id]);
});

test('agents that reject halt it and people are told; resumed, it forgives what it was halted for', async () => {
  const { organization, set, signed } = await fleet(4);
  const { id } = await start(organization, set.id, { stages: stages(percent(50), all) });
  await converge(organization, { number: signed.number, digest: 'f'.repeat(64) });
  const [first] = (
    await world.rollouts.agents(
      organization.ctx,
      given({ params: { id }, query: listRolloutAgents.query.parse({ state: 'delivered' }) }),
    )
  ).items;
  await world.database.withTenant(organization, (transaction) =>
    enqueue(transaction, organization.organizationId, 'policy.reported', {
      vaultId: toUuid('vault', first?.vaultId ?? ''),
      agentId: toUuid('agent', first?.agentId ?? ''),
      policySet: {
        number: signed.number,
        digest: signed.digest,
        outcome: 'rejected',
        problem: 'policy',
      },
    }),
  );
  await world.reports.take();
  await world.runner.run();
  expect(await show(organization, id)).toMatchObject({
    state: 'halted',
    reason: 'halted_rejections',
    agents: { rejected: 1 },
  });
  const told = async () =>
    (
      await world.database.withTenant(organization, (transaction) =>
        transaction.outbox.findMany({
          where: { topic: 'vault.reported' },
          orderBy: { id: 'asc' },
        }),
      )
    ).map(({ payload }) => {
      const { kind, state } = payload as Record<string, string>;
      return `${kind} ${state}`;
    });
  expect(await told()).toEqual(['policy.rejected raised', 'policy.halted raised']);
  await act('resume', organization, id);
  expect((await told()).at(-1)).toBe('policy.halted cleared');
  await world.runner.run();
  expect(await show(organization, id)).toMatchObject({ state: 'running' });
});

test('an agent that is heard and never answers is told of once; it goes on when it answers, or without all that do not', async () => {
  const { organization, vaults, set, signed } = await fleet(4);
  const { id } = await start(organization, set.id, {
    stages: stages(percent(50), all),
    halt: { answerWithinSeconds: 600 },
  });
  const { items } = await world.rollouts.agents(organization.ctx, listed(id));
  const [first, silent] = items.filter(({ stage }) => stage === 0);
  const told = async () =>
    (
      await world.database.withTenant(organization, (transaction) =>
        transaction.outbox.findMany({ where: { topic: 'vault.reported' }, orderBy: { id: 'asc' } }),
      )
    ).map(({ payload }) => payload as Record<string, string>);
  const converges = (agentId = '') =>
    world.deliveries.deliver([
      {
        organizationId: organization.organizationId,
        agentId: toUuid('agent', agentId),
        held: signed,
      },
    ]);
  const ago = (table: string, column: string, seconds: number) =>
    world.database.withTenant(organization, (transaction) =>
      transaction.$executeRawUnsafe(
        `update ${table} set ${column} = clock_timestamp() - make_interval(secs => ${seconds})`,
      ),
    );
  const looked = async () => {
    await world.runner.run();
    return show(organization, id);
  };
  await converges(first?.agentId);
  await world.deliveries.deliver([
    {
      organizationId: organization.organizationId,
      agentId: toUuid('agent', silent?.agentId ?? ''),
      held: null,
    },
  ]);
  await ago('policy.rollout', 'stage_started_at', 601);
  // It came back, or was told, a moment ago.
  expect((await looked()).state).toBe('running');
  await ago('monitoring.agent_liveness', 'status_since', 601);
  expect((await looked()).state).toBe('running');
  await ago('policy.agent_policy', 'waiting_since', 599);
  expect((await looked()).state).toBe('running');
  await ago('policy.agent_policy', 'waiting_since', 601);
  expect(await looked()).toMatchObject({ state: 'halted', reason: 'halted_unanswered' });
  await looked();
  const raised = {
    agentId: toUuid('agent', silent?.agentId ?? ''),
    vaultId: toUuid('vault', silent?.vaultId ?? ''),
    ...{ kind: 'policy.halted', reason: 'halted_unanswered' },
  };
  expect(await told()).toEqual([{ ...raised, state: 'raised' }]);
  await converges(silent?.agentId);
  expect(await looked()).toMatchObject({ state: 'running', reason: null, stage: 0 });
  expect((await told())[1]).toEqual({ ...raised, state: 'cleared' });
  expect(await looked()).toMatchObject({ stage: 1 });
  await ago('policy.rollout', 'stage_started_at', 601);
  await act('pause', organization, id);
  expect((await looked()).state).toBe('paused');
  await act('resume', organization, id);
  await ago('policy.rollout', 'stage_started_at', 601);
  expect(await looked()).toMatchObject({ state: 'halted', agents: { active: 2, pending: 2 } });
  await act('resume', organization, id);
  expect((await told()).map(({ state }) => state)).toEqual([
    ...['raised', 'cleared', 'raised', 'cleared'],
  ]);
  expect(await looked()).toMatchObject({ state: 'completed', agents: { active: 2, pending: 2 } });
  expect(await assigned(vaults)).toHaveLength(4);
});

test('what has ended says how far its agents were then, which equals a recount, and is not counted again', async () => {
  const { organization, set, signed } = await fleet(3);
  const recount = (id: string) =>
    world.database.withTenant(organization, async (transaction) => {
      const row = await findRollout(transaction, organization, id);
      return showRollout(row, (await countAgents(transaction, [row])).get(row.id));
    });
  const [away] = await world.database.withTenant(organization, async (transaction) => {
    const { agentId } = await transaction.agentLiveness.findFirstOrThrow();
    await transaction.agentLiveness.updateMany({
      where: { agentId },
      data: { status: 'offline' },
    });
    return [agentId];
  });
  const { id } = await start(organization, set.id, { stages: stages(all) });
  await converge(organization, signed, away);
  await world.runner.run();
  const ended = await show(organization, id);
  expect(ended).toMatchObject({ state: 'completed', agents: { total: 3, active: 2, pending: 1 } });
  expect(ended).toEqual(await recount(id));
  await converge(organization, signed);
  expect(await recount(id)).toMatchObject({ agents: { active: 3, pending: 0 } });
  expect(await show(organization, id)).toEqual(ended);
  await world.sign(organization, set.id);
  const next = await start(organization, set.id, { stages: stages(percent(50), all) });
  const stopped = await act('stop', organization, next.id);
  expect(stopped).toMatchObject({ state: 'stopped', agents: { total: 2, pending: 2 } });
  expect(stopped).toEqual(await recount(next.id));
  const query = listRollouts.query.parse({});
  const { items } = await world.rollouts.list(organization.ctx, given({ query }));
  expect(items).toEqual([stopped, ended]);
  const back = await act('rollback', organization, next.id);
  expect(back).toMatchObject({ state: 'rolled_back', agents: { total: 0 } });
  expect(back).toEqual(await recount(next.id));
});

test('new denials above the threshold halt it', async () => {
  const { organization, set, signed } = await fleet(2);
  const { id } = await start(organization, set.id, {
    halt: { newDenials: 10 },
    stages: [{ vaults: all, watchSeconds: 3_600 }],
  });
  await converge(organization, signed);
  const deny = async (newlyDenied: number) => {
    await world.database.withTenant(organization, async (transaction) => {
      const agent = await transaction.agentPolicy.findFirstOrThrow();
      await enqueue(transaction, organization.organizationId, 'policy.reported', {
        vaultId: agent.vaultId,
        agentId: agent.agentId,
        policyDecisions: {
          ...{ number: signed.number, digest: signed.digest },
          allowed: 100,
          denied: newlyDenied,
          newlyAllowed: 0,
          newlyDenied,
          errors: 0,
        },
      });
    });
    await world.reports.take();
    await world.runner.run();
    return (await show(organization, id)).state;
  };
  expect(await deny(9)).toBe('running');
  expect(await deny(1)).toBe('halted');
});

test('paused it goes no further, a stage may wait for somebody, and stopped it stays where it is', async () => {
  const { organization, vaults, set, signed } = await fleet(4);
  const { id } = await start(organization, set.id, {
    stages: [
      { vaults: percent(25), watchSeconds: 0, afterwards: 'wait' },
      { vaults: percent(50), watchSeconds: 0 },
      { vaults: all, watchSeconds: 0 },
    ],
  });
  await act('pause', organization, id);
  await converge(organization, signed);
  expect(await world.runner.run()).toBe(0);
  await act('resume', organization, id);
  await world.runner.run();
  expect(await show(organization, id)).toMatchObject({ state: 'paused', stage: 0 });
  await act('resume', organization, id);
  expect(await show(organization, id)).toMatchObject({ state: 'running', stage: 1 });
  expect(await assigned(vaults)).toHaveLength(2);
  await act('stop', organization, id);
  await converge(organization, signed);
  expect(await world.runner.run()).toBe(0);
  expect(await assigned(vaults)).toHaveLength(2);
  await expect(act('resume', organization, id)).rejects.toMatchObject({ code: 'unprocessable' });
});

test('a vault that gets a later number meanwhile holds nothing up, and none is sent back to an older one', async () => {
  const { organization, vaults, set, signed } = await fleet(4);
  const { id } = await start(organization, set.id, { stages: stages(percent(50), all) });
  const later = await world.sign(organization, set.id);
  const { vaultId } = await world.database.withTenant(organization, (transaction) =>
    transaction.policySetAssignment.findFirstOrThrow(),
  );
  await world.assign({ ...(vaults[0] as TestVault), vaultId }, later.number);
  await converge(organization, signed);
  expect(await world.runner.run()).toBe(1);
  await converge(organization, signed);
  await world.runner.run();
  expect(await show(organization, id)).toMatchObject({ state: 'completed', agents: { total: 3 } });
  await expect(start(organization, set.id, { number: signed.number })).rejects.toMatchObject({
    code: 'unprocessable',
    detail: expect.stringContaining('1 of the vaults hold a later number'),
  });
});

test('a rollout that cannot be moved holds up no other, and one that is paused is watched', async () => {
  const broken = await fleet(1);
  const sound = await fleet(2);
  const spoilt = await start(broken.organization, broken.set.id);
  const { id } = await start(sound.organization, sound.set.id);
  await act('pause', sound.organization, id);
  await world.database.withTenant(broken.organization, async (transaction) => {
    await transaction.$executeRaw`
      update policy.rollout set halt = '{"rejectedAgents": "many"}' where id = ${toUuid('rollout', spoilt.id)}::uuid`;
  });
  await converge(sound.organization, { ...sound.signed, digest: 'f'.repeat(64) });
  await world.database.withTenant(sound.organization, (transaction) =>
    transaction.agentPolicy.updateMany({ data: { state: 'rejected', reason: 'policy' } }),
  );
  await expect(world.runner.run()).rejects.toThrow('1 rollouts could not be moved');
  expect(await show(sound.organization, id)).toMatchObject({
    state: 'halted',
    reason: 'halted_rejections',
  });
});

test('rolled back, vaults get what they held before, or an empty set, signed under a new number', async () => {
  const { organization, vaults, set, signed: first } = await fleet(3);
  for (const vault of vaults.slice(0, 2)) await world.assign(vault, first.number);
  const strict = await world.published(organization, denyAll);
  await world.sets.update(
    organization.ctx,
    given({ params: { id: set.id }, body: { policyIds: [strict] } }),
  );
  const second = await world.sign(organization, set.id);
  const { id } = await start(organization, set.id);
  expect(await assigned(vaults)).toEqual([second.number, second.number, second.number]);
  const back = await act('rollback', organization, id);
  expect(back).toMatchObject({ state: 'rolled_back', reason: expect.stringContaining('1 vaults') });
  const numbers = await assigned(vaults);
  const [third, empty] = [numbers[0] ?? 0, numbers[2] ?? 0];
  expect(numbers).toEqual([third, third, empty]);
  expect([third, empty].sort()).toEqual([second.number + 1, second.number + 2]);
  const emptied = await world.database.withTenant(organization, (transaction) =>
    transaction.policySetVersion.findFirst({ where: { number: empty } }),
  );
  const nothing = readContent(emptied?.content ?? new Uint8Array()).set;
  expect(await compile(nothing)).toMatchObject({ ok: true, value: { levels: [] } });
  // It does not become what the set says.
  const { latestNumber } = await world.sets.get(
    organization.ctx,
    given({ params: { id: set.id } }),
  );
  expect(latestNumber).not.toBe(empty);
  const contents = await world.database.withTenant(organization, (transaction) =>
    transaction.policySetVersion.findMany({
      where: { number: { in: [first.number, third] } },
      select: { content: true, predecessorDigest: true },
      orderBy: { number: 'asc' },
    }),
  );
  const [before, after] = contents.map(({ content }) =>
    JSON.parse(Buffer.from(content).toString('utf8')),
  );
  expect(after.set).toEqual(before.set);
  expect(contents[1]?.predecessorDigest).toBe(third < empty ? second.digest : emptied?.digest);
});

test('rolled back, a vault gets what it held when its stage began, not when the rollout was planned', async () => {
  const { organization, vaults, set } = await fleet(2);
  const strict = await world.published(organization, denyAll);
  const between = (await world.signedSet(organization, [strict])).signed;
  const newest = await world.sign(organization, set.id);
  const { id } = await start(organization, set.id, { stages: stages(percent(50), all) });
  const { items } = await world.rollouts.agents(organization.ctx, listed(id));
  const late = toUuid('vault', items.find(({ stage }) => stage === 1)?.vaultId ?? '');
  await world.assign({ ...(vaults[0] as TestVault), vaultId: late }, between.number);
  await converge(organization, newest);
  await world.runner.run();
  await act('rollback', organization, id);
  const { digest } = await world.assignments.get(
    organization.ctx,
    given({ params: { id: toId('vault', late) } }),
  );
  const held = await world.database.withTenant(organization, (transaction) =>
    transaction.policySetVersion.findFirst({ where: { digest: digest ?? '' } }),
  );
  expect(JSON.stringify(readContent(held?.content ?? new Uint8Array()).set)).toContain(strict);
});

test('a vault that comes later gets what was rolled out to its tag, or else to all, and keeps what it is given', async () => {
  const { organization, vaults, set, signed } = await fleet(2);
  await start(organization, set.id, { stages: stages(all) });
  await converge(organization, signed);
  await world.runner.run();
  const second = await world.sign(organization, set.id);
  await start(organization, set.id, {
    target: { kind: 'tag', tag: 'odd' },
    stages: stages(all),
  });
  await converge(organization, second);
  await world.runner.run();
  const third = await world.sign(organization, set.id);
  const plain = await world.vault(organization);
  const odd = await world.vault(organization, [], ['odd']);
  const own = await world.vault(organization);
  await world.assign(own, third.number);
  expect(await world.standing.assignNew()).toBe(2);
  expect(await world.standing.assignNew()).toBe(0);
  const numberOf = async ({ ctx, vaultId }: TestVault) =>
    (await world.assignments.get(ctx, given({ params: { id: toId('vault', vaultId) } }))).version;
  expect(await Promise.all([plain, odd, own].map(numberOf))).toEqual([
    signed.number,
    second.number,
    third.number,
  ]);
  expect(await Promise.all(vaults.map(numberOf))).toEqual([signed.number, second.number]);
});

describe('where the organization asks for four eyes', () => {
  const askForFourEyes = (organization: Organization) =>
    world.database.withTenant(organization, (transaction) =>
      transaction.organization.updateMany({ data: { fourEyes: true } }),
    );
  const by = ({ organizationId }: Organization, name: string): Organization => ({
    organizationId,
    ctx: ctxOf(organizationId, name),
  });
  /** An API key, and the person who made it. */
  async function keyOf(organization: Organization, madeById: string | null): Promise<Organization> {
    const { organizationId } = organization;
    const id = newUuid();
    await world.database.withTenant(organization, (transaction) =>
      transaction.apiKey.create({
        data: {
          ...{ organizationId, id, madeById, name: 'CI', role: 'admin', prefix: 'k' },
          hash: Buffer.alloc(32),
        },
      }),
    );
    const ctx: TenantCtx = {
      ...organization.ctx,
      actor: { kind: 'apiKey', id: toId('apiKey', id), name: 'CI' },
      ...{ personId: null, credentialId: id },
    };
    return { organizationId, ctx };
  }

  const told = async (organization: Organization) => {
    const rows = await world.database.withTenant(organization, (transaction) =>
      transaction.outbox.findMany({ where: { topic: 'vault.reported' }, orderBy: { id: 'asc' } }),
    );
    return rows.map(({ payload }) => payload as Record<string, string>);
  };

  test('people are told once that a rollout waits for a second person, and that it waits no more', async () => {
    const { organization, vaults, set } = await fleet(2);
    await askForFourEyes(organization);
    const began = async () => {
      world.nudges.length = 0;
      const { id } = await start(organization, set.id);
      expect(world.nudges).toContain('vaultReports');
      return { id, reason: `rollout:${id}` };
    };
    const first = await began();
    await world.runner.run();
    const [raised] = await told(organization);
    expect(raised).toMatchObject({ kind: 'policy.awaiting_approval', state: 'raised' });
    expect(wordsOfReason(raised?.reason ?? '')).toContain(first.id);
    const vault = vaults.find(({ vaultId }) => vaultId === raised?.vaultId);
    expect(vault?.agents).toEqual([raised?.agentId]);
    await act('approve', by(organization, 'Other'), first.id);
    await act('stop', organization, first.id);
    const second = await began();
    await act('stop', organization, second.id);
    expect((await told(organization)).map(({ reason, state }) => [reason, state])).toEqual([
      [first.reason, 'raised'],
      [first.reason, 'cleared'],
      [second.reason, 'raised'],
      [second.reason, 'cleared'],
    ]);
  });

  test('a rollout gives nobody anything until a second person approves it', async () => {
    const { organization, vaults, set, signed } = await fleet(2);
    await askForFourEyes(organization);
    const other = by(organization, 'Other');
    const { id, state } = await start(organization, set.id, { stages: stages(percent(50), all) });
    expect(state).toBe('awaiting_approval');
    await world.runner.run();
    expect(await assigned(vaults)).toEqual([]);
    const refused = { code: 'unprocessable' };
    await expect(act('approve', organization, id)).rejects.toMatchObject(refused);
    await expect(
      act('approve', await keyOf(organization, other.ctx.actor.id), id),
    ).rejects.toMatchObject({ ...refused, detail: expect.stringContaining('API key') });
    for (const verb of ['resume', 'pause', 'rollback'] as const) {
      await expect(act(verb, organization, id)).rejects.toMatchObject(refused);
    }
    await expect(start(other, set.id)).rejects.toMatchObject({ code: 'conflict' });
    // Whoever goes round the service is stopped by the database.
    await expect(
      world.database.withTenant(organization, (transaction) =>
        transaction.rollout.updateMany({
          where: { id: toUuid('rollout', id) },
          data: { approvedById: organization.ctx.actor.id },
        }),
      ),
    ).rejects.toThrow('rollout_second_person');
    expect(await act('approve', other, id)).toMatchObject({
      state: 'running',
      reason: null,
      approvedBy: { id: other.ctx.actor.id, name: 'Other' },
      approvedAt: expect.any(String),
    });
    expect(await assigned(vaults)).toEqual([signed.number]);
    await expect(act('approve', other, id)).rejects.toMatchObject(refused);
    const audit = await world.database.withTenant(organization, (transaction) =>
      transaction.auditEvent.findFirst({ where: { action: 'rollouts.approve' } }),
    );
    expect(audit).toMatchObject({
      actorId: other.ctx.actor.id,
      changes: { state: { from: 'awaiting_approval', to: 'running' } },
    });
  });

  test('whoever made an API key is no second person of what it begins', async () => {
    const { organization, set } = await fleet(1);
    await askForFourEyes(organization);
    const other = by(organization, 'Other');
    const key = await keyOf(organization, organization.ctx.actor.id);
    const { id } = await start(key, set.id);
    await expect(act('approve', organization, id)).rejects.toMatchObject({ code: 'unprocessable' });
    expect(await act('approve', other, id)).toMatchObject({ state: 'running' });
    await act('stop', organization, id);
    await expect(start(await keyOf(organization, null), set.id)).rejects.toMatchObject({
      code: 'unprocessable',
      detail: expect.stringContaining('nobody knows who made this API key'),
    });
  });

  test('a set goes to no vault by hand, policies need two people too, and undoing needs one', async () => {
    const { organization, vaults, set, signed } = await fleet(1);
    const [vault] = vaults;
    await world.assign(vault as TestVault, signed.number);
    await askForFourEyes(organization);
    await expect(world.published(organization)).rejects.toMatchObject({ code: 'unprocessable' });
    const second = await world.sign(organization, set.id);
    await expect(world.assign(vault as TestVault, second.number)).rejects.toMatchObject({
      code: 'unprocessable',
      detail: expect.stringContaining('four eyes'),
    });
    const stopped = await start(organization, set.id);
    expect(await act('stop', organization, stopped.id)).toMatchObject({ state: 'stopped' });
    const { id } = await start(organization, set.id);
    await act('approve', by(organization, 'Other'), id);
    expect(await act('rollback', organization, id)).toMatchObject({ state: 'rolled_back' });
    expect(await assigned(vaults)).toEqual([second.number + 1]);
  });

  test('what vaults were given while it waited is not undone by an approval', async () => {
    const { organization, vaults, set } = await fleet(1);
    const later = await world.sign(organization, set.id);
    await askForFourEyes(organization);
    const { id } = await start(organization, set.id, { number: later.number - 1 });
    await world.database.withTenant(organization, (transaction) =>
      transaction.policySetAssignment.create({
        data: {
          ...{ organizationId: organization.organizationId, version: later.number },
          vaultId: vaults[0]?.vaultId ?? '',
        },
      }),
    );
    await expect(act('approve', by(organization, 'Other'), id)).rejects.toMatchObject({
      code: 'unprocessable',
      detail: expect.stringContaining('1 of the vaults hold a later number'),
    });
  });
});

test('every step is in the audit', async () => {
  const { organization, set } = await fleet(1);
  const { id } = await start(organization, set.id);
  await act('pause', organization, id);
  await act('resume', organization, id);
  await act('stop', organization, id);
  const rows = await world.database.withTenant(organization, (transaction) =>
    transaction.auditEvent.findMany({
      where: { targetKind: 'rollout' },
      orderBy: { id: 'asc' },
      select: { action: true },
    }),
  );
  expect(rows.map(({ action }) => action)).toEqual([
    'rollouts.create',
    'rollouts.pause',
    'rollouts.resume',
    'rollouts.stop',
  ]);
});

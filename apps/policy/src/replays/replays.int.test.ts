import {
  Command,
  ControlMessage,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { policySetDigest } from '@keystead/agent-protocol/policy-set-signature';
import type { PolicyReplayReport } from '@keystead/contracts/agent-link';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { createRollout, type publishPolicyVersion } from '@keystead/contracts/policy';
import { createPolicyReplay } from '@keystead/contracts/policy-replays';
import { policyDraftContent } from '@keystead/contracts/policy-set-content';
import { enqueue } from '@keystead/database/outbox';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import {
  denyAll,
  given,
  type Organization,
  PolicyWorld,
  permitAll,
  type TestVault,
} from '../policy.fixture.ts';

let world: PolicyWorld;
let organization: Organization;
let vault: TestVault;

beforeAll(async () => {
  world = await PolicyWorld.open();
});
afterAll(() => world.close());
beforeEach(async () => {
  organization = await world.organization();
  vault = await world.vault(organization, [null, null], ['prod']);
});

const readers = 'permit(principal in Role::"reader", action, resource);';

async function draftOf(policyId: string, text = readers): Promise<number> {
  const { version } = await world.policies.addVersion(
    organization.ctx,
    given({ params: { id: policyId }, body: { source: { format: 'cedar', text }, note: '' } }),
  );
  return version;
}

const ask = (body: Record<string, unknown>) =>
  world.replays.create(
    organization.ctx,
    given<typeof createPolicyReplay>({
      body: createPolicyReplay.body.parse({ target: { kind: 'all' }, ...body }),
    }),
  );
const show = (id: string) => world.replays.get(organization.ctx, given({ params: { id } }));

/** What the gateway is given for the agents of a vault. */
async function told({ organizationId, agents }: TestVault, unsupported: number[][] = []) {
  const { results } = await world.deliveries.deliver(
    agents.map((agentId, index) => ({
      organizationId,
      agentId,
      held: null,
      ...(unsupported[index] ? { unsupported: unsupported[index] } : {}),
    })),
  );
  return results.map(({ commands }) =>
    commands.map((command) => {
      const content = ControlMessage.decode(Buffer.from(command, 'base64')).payload?.content;
      return content?.$case === 'command' ? content.value : Command.decode(new Uint8Array());
    }),
  );
}

async function answer(
  replayId: string,
  agentId: string | undefined,
  changes: Partial<PolicyReplayReport> = {},
): Promise<void> {
  const { organizationId, vaultId } = vault;
  await world.database.withTenant({ organizationId }, (transaction) =>
    enqueue(transaction, organizationId, 'policy.reported', {
      vaultId,
      agentId: agentId ?? '',
      policyReplay: {
        replayId: toUuid('policyReplay', replayId),
        outcome: 'done',
        fromMs: Date.parse('2026-06-01T00:00:00Z'),
        decisions: 0,
        newlyDenied: 0,
        newlyAllowed: 0,
        newlyNeedingApproval: 0,
        unchanged: 0,
        unevaluated: [],
        differences: [],
        durationMs: 12,
        ...changes,
      },
    }),
  );
  await world.reports.take();
}

test('a draft goes to agents as signed commands, is fetched in parts, and what they answer is added up beside it', async () => {
  const policyId = await world.published(organization, permitAll);
  const { set } = await world.signedSet(organization, [policyId]);
  const version = await draftOf(policyId);
  const drafts = [{ policyId, version }];
  const replay = await ask({ policySetId: set.id, drafts, days: 30 });
  expect(replay).toMatchObject({ state: 'running', drafts, agents: { asked: 2, pending: 2 } });

  const [[first], [second]] = (await told(vault)) as [Command[], Command[]];
  expect(await told(vault)).toEqual([[], []]);
  const action = first?.action?.$case === 'replayDecisions' ? first.action.value : undefined;
  expect(second?.action).toEqual(first?.action);
  expect(action).toMatchObject({ days: 30, draft: { version: 0 } });
  const digest = action?.draft?.digest ?? '';
  const { organizationId } = organization;
  const part = await world.deliveries.part({ organizationId, digest, offset: 0 });
  const content = Buffer.from(part.content ?? '', 'base64');
  expect(content).toHaveLength(action?.totalBytes ?? 0);
  expect(policySetDigest(content)).toBe(digest);
  const draft = policyDraftContent.parse(JSON.parse(content.toString()));
  expect(JSON.stringify(draft.set)).toContain(`${policyId}:v${version}`);
  const stranger = await world.organization();
  expect(await world.deliveries.part({ ...stranger, digest, offset: 0 })).toMatchObject({
    content: null,
  });

  const reference = 'ab'.repeat(32);
  const found = {
    decisions: 100,
    newlyDenied: 10,
    newlyAllowed: 1,
    unchanged: 84,
    unevaluated: [{ obstacle: 'resource_gone', count: 5 }],
    differences: [{ reference, change: 'newly_denied', count: 10 }],
  };
  await answer(replay.id, vault.agents[0], found);
  // The same report again, as after a lost receipt, changes nothing.
  await answer(replay.id, vault.agents[0], { ...found, newlyDenied: 99 });
  expect(await show(replay.id)).toMatchObject({
    state: 'running',
    agents: { pending: 1, answered: 1 },
    decisions: 100,
    newlyDenied: 10,
    notEvaluable: 5,
    newlyDeniedShare: 10 / 95,
  });
  await answer(replay.id, vault.agents[1], found);
  expect(await show(replay.id)).toMatchObject({
    state: 'finished',
    decisions: 200,
    newlyDenied: 20,
    unevaluated: [{ obstacle: 'resource_gone', count: 10 }],
    differences: [{ vaultId: toId('vault', vault.vaultId), reference, count: 20 }],
  });
  const agents = await world.replays.agents(
    organization.ctx,
    given({ params: { id: replay.id }, query: { limit: 1 } }),
  );
  expect(agents.items).toMatchObject([
    { state: 'answered', from: '2026-06-01T00:00:00.000Z', newlyDenied: 10 },
  ]);
  expect(agents.nextAfter).not.toBeNull();
  // What is fetched no more is not kept.
  expect(await world.deliveries.part({ organizationId, digest, offset: 0 })).toMatchObject({
    content: null,
  });
  const versionShown = await world.policies.getVersion(
    organization.ctx,
    given({ params: { id: policyId, version } }),
  );
  expect(versionShown.replay).toMatchObject({ id: replay.id, newlyDenied: 20 });
  const setShown = await world.sets.get(organization.ctx, given({ params: { id: set.id } }));
  expect(setShown.replay?.id).toBe(replay.id);
});

test('nothing is published, and no rollout begins, above what a replay may deny; one that runs halts', async () => {
  const { ctx } = organization;
  const policyId = await world.published(organization, permitAll);
  const { set } = await world.signedSet(organization, [policyId]);
  const version = await draftOf(policyId);
  const publish = (threshold: object) =>
    world.policies.publish(
      ctx,
      given<typeof publishPolicyVersion>({
        params: { id: policyId, version },
        body: { stopAboveNewDenials: threshold },
      }),
    );
  await expect(publish({ count: 0 })).rejects.toMatchObject({ code: 'unprocessable' });
  const replay = await ask({ policySetId: set.id, drafts: [{ policyId, version }] });
  await answer(replay.id, vault.agents[0], { decisions: 100, newlyDenied: 2, unchanged: 98 });
  await expect(publish({ count: 1 })).rejects.toMatchObject({ code: 'unprocessable' });
  await expect(publish({ share: 0.01 })).rejects.toMatchObject({ code: 'unprocessable' });
  expect((await publish({ count: 2 })).replay?.newlyDenied).toBe(2);

  const { number } = await world.sign(organization, set.id);
  const rollOut = (stopAboveNewDenials: object | null) =>
    world.rollouts.create(
      ctx,
      given<typeof createRollout>({
        body: createRollout.body.parse({
          policySetId: set.id,
          target: { kind: 'all' },
          stages: [{ vaults: { kind: 'all' }, watchSeconds: 3_600 }],
          halt: { stopAboveNewDenials },
        }),
      }),
    );
  await expect(rollOut({ share: 0.01 })).rejects.toMatchObject({ code: 'unprocessable' });
  const rollout = await rollOut({ share: 0.02 });
  expect(rollout).toMatchObject({ number, state: 'running', replay: { id: replay.id } });
  await world.runner.run();
  const get = () => world.rollouts.get(ctx, given({ params: { id: rollout.id } }));
  expect(await get()).toMatchObject({ state: 'running' });
  await answer(replay.id, vault.agents[1], { decisions: 100, newlyDenied: 3, unchanged: 97 });
  await world.runner.run();
  expect(await get()).toMatchObject({ state: 'halted', reason: 'halted_replay' });
  // Who resumes has seen it.
  await world.rollouts.resume(ctx, given({ params: { id: rollout.id } }));
  await world.runner.run();
  expect(await get()).toMatchObject({ state: 'running', replay: { newlyDenied: 5 } });
});

test('no replay hangs: who is away expires, who is too old says so, and what comes late is taken', async () => {
  const policyId = await world.published(organization, denyAll);
  const drafts = [{ policyId, version: 1 }];
  const replay = await ask({ drafts });
  const [[first]] = (await told(vault)) as [[{ number: number }], unknown];
  await told(vault, [[first.number]]);
  expect(await show(replay.id)).toMatchObject({ agents: { unsupported: 1, pending: 1 } });
  // Told no more, however long it waits.
  await world.database.withTenant(organization, (transaction) =>
    transaction.agentCommand.updateMany({ data: { sentAt: new Date(0) } }),
  );
  const again = await told(vault);
  expect(again.map((commands) => commands.length)).toEqual([0, 1]);
  await world.database.withTenant(organization, (transaction) =>
    transaction.replay.updateMany({ data: { expiresAt: new Date(0) } }),
  );
  expect(await world.replayRunner.run()).toBeGreaterThan(0);
  expect(await show(replay.id)).toMatchObject({
    state: 'finished',
    agents: { unsupported: 1, expired: 1, pending: 0 },
  });
  expect(await told(vault)).toEqual([[], []]);
  await answer(replay.id, vault.agents[1], { outcome: 'rejected' });
  expect(await show(replay.id)).toMatchObject({ agents: { rejected: 1, expired: 0 } });
  // Somebody need not wait.
  const stopped = await ask({ drafts });
  const end = await world.replays.stop(organization.ctx, given({ params: { id: stopped.id } }));
  expect(end).toMatchObject({ state: 'finished', agents: { expired: 2 } });
  expect(await told(vault)).toEqual([[], []]);
});

test('it is aimed by tag, by vault or at all, bounded, and at nothing of others', async () => {
  const policyId = await world.published(organization, permitAll);
  const drafts = [{ policyId, version: 1 }];
  await world.vault(organization, [null], ['test']);
  const agentsOf = async (target: object, more = {}) =>
    (await ask({ drafts, target, ...more })).agents;
  expect(await agentsOf({ kind: 'all' })).toMatchObject({ matching: 3, asked: 3 });
  expect(await agentsOf({ kind: 'all' }, { maxAgents: 2 })).toMatchObject({
    matching: 3,
    asked: 2,
  });
  expect(await agentsOf({ kind: 'tag', tag: 'test' })).toMatchObject({ asked: 1 });
  const vaultIds = [toId('vault', vault.vaultId)];
  expect(await agentsOf({ kind: 'vaults', vaultIds })).toMatchObject({ asked: 2 });
  await expect(agentsOf({ kind: 'tag', tag: 'none' })).rejects.toMatchObject({
    code: 'invalid_request',
  });
  const foreign = await world.vault(await world.organization(), [null]);
  await expect(
    agentsOf({ kind: 'vaults', vaultIds: [toId('vault', foreign.vaultId)] }),
  ).rejects.toMatchObject({ code: 'unprocessable' });
  const broken = await world.policies.addVersion(
    organization.ctx,
    given({
      params: { id: policyId },
      body: { source: { format: 'cedar', text: 'permit(principal, action, resource' }, note: '' },
    }),
  );
  await expect(ask({ drafts: [{ policyId, version: broken.version }] })).rejects.toMatchObject({
    code: 'unprocessable',
  });
  await expect(show(toId('policyReplay', newUuid()))).rejects.toMatchObject({ code: 'not_found' });
  for (;;) {
    const rejected = await ask({ drafts }).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (rejected === undefined) continue;
    expect(rejected).toMatchObject({ code: 'limit_reached' });
    break;
  }
});

/** Reads and shows rollouts, and the statements of which their steps consist. */
import { etagOf } from '@keystead/access/precondition';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Output } from '@keystead/contracts/operation';
import {
  type getRollout,
  type PolicyReplaySummary,
  type RolloutStage,
  rolloutHalt,
} from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { type Sql, sql } from '@keystead/database/sql';
import { assignNumber, lockVaults } from '../assignments/assignment-rows.ts';
import { newestReplayOf } from '../replays/replay-rows.ts';
import type { Progress, Troubles } from './next-step.ts';

export type RolloutRow = Awaited<ReturnType<typeof findRollout>>;
export type ShownRollout = Output<typeof getRollout>;

/** Kept beside the limits, for the way back from a halt. */
export interface HaltRecord {
  forgiven?: Partial<Troubles>;
  /** What the set says, where a replay of it may stop the rollout. */
  saysDigest?: string;
  /** Whom the alert is about. */
  alert?: AlertRecord;
}

interface AlertRecord {
  vaultId: string;
  agentId: string;
  reason: string;
}

/** @throws ServiceError `not_found` */
export async function findRollout(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
  id: string,
) {
  const row = await transaction.rollout.findUnique({
    where: { organizationId_id: { organizationId, id: toUuid('rollout', id) } },
  });
  if (!row) throw notFound();
  return row;
}

/** As {@link findRollout}, and nobody else moves it until the end of the transaction. */
export async function lockRollout(transaction: Transaction, ctx: TenantCtx, id: string) {
  await transaction.$queryRaw`
    select id from policy.rollout
    where organization_id = ${ctx.organizationId}::uuid and id = ${toUuid('rollout', id)}::uuid
    for no key update`;
  return findRollout(transaction, ctx, id);
}

export const stagesOf = (row: Pick<RolloutRow, 'stages'>) =>
  row.stages as unknown as RolloutStage[];

export const haltOf = ({ halt }: Pick<RolloutRow, 'halt'>) => {
  const { forgiven, alert, saysDigest, ...limits } = halt as HaltRecord & Record<string, unknown>;
  return {
    limits: rolloutHalt.parse(limits),
    forgiven: { rejected: 0, errors: 0, newlyDenied: 0, replayedDenials: 0, ...forgiven },
    saysDigest,
    alert,
  };
};

/** Assigns the vaults of a stage. @returns how many changed */
export async function assignStage(
  transaction: Transaction,
  { organizationId, id, number }: Pick<RolloutRow, 'organizationId' | 'id' | 'number'>,
  stage: number,
): Promise<number> {
  const vaults = await transaction.rolloutVault.findMany({
    where: { organizationId, rolloutId: id, stage },
    select: { vaultId: true },
    orderBy: { vaultId: 'asc' },
  });
  const ids = vaults.map(({ vaultId }) => vaultId);
  await lockVaults(transaction, organizationId, ids);
  // What they hold now is what a rollback gives back, however long ago the plan was made.
  await transaction.$executeRaw`
    update policy.rollout_vault v set previous_number = p.version
    from policy.policy_set_assignment p
    where v.organization_id = ${organizationId}::uuid and v.rollout_id = ${id}::uuid
      and v.stage = ${stage} and p.organization_id = v.organization_id and p.vault_id = v.vault_id
      and p.version <> ${number} and v.previous_number is distinct from p.version`;
  return (await assignNumber(transaction, organizationId, ids, number)).length;
}

export interface StateCounts extends Progress {
  pending: number;
  delivered: number;
  drifted: number;
  replay: PolicyReplaySummary | null;
  /** Of those that are unanswered, who has been waited for longest. */
  silent: { vaultId: string; agentId: string }[];
}

const none: StateCounts = {
  agents: 0,
  pending: 0,
  delivered: 0,
  active: 0,
  rejected: 0,
  drifted: 0,
  waiting: 0,
  unanswered: 0,
  skipped: 0,
  errors: 0,
  newlyDenied: 0,
  replayedDenials: 0,
  replayedShare: 0,
  replay: null,
  silent: [],
};

/**
 * How far the agents of the vaults are that each rollout has reached. A vault that was assigned a later
 * number since is that number's, and nobody waits for it here.
 */
export async function countAgents(
  transaction: Transaction,
  rollouts: readonly Pick<RolloutRow, 'organizationId' | 'id' | 'halt'>[],
): Promise<Map<string, StateCounts>> {
  if (rollouts.length === 0) return new Map();
  const rows = await transaction.$queryRaw<(StateCounts & { id: string })[]>`
    select r.id, count(*)::int as agents,
      count(*) filter (where s.state = 'pending')::int as pending,
      count(*) filter (where s.state = 'delivered')::int as delivered,
      count(*) filter (where s.state = 'active')::int as active,
      count(*) filter (where s.state = 'rejected')::int as rejected,
      count(*) filter (where s.state = 'drifted')::int as drifted,
      count(*) filter (where w.waits)::int as waiting,
      count(*) filter (where w.is_silent)::int as unanswered,
      count(*) filter (where g.agent_id is not null)::int as skipped,
      coalesce(array_to_json((array_agg(json_build_object('vaultId', a.vault_id, 'agentId', a.id)
        order by w.since, a.id) filter (where w.is_silent))[1:1]), '[]') as silent,
      least(coalesce(sum(s.errors), 0), ${Number.MAX_SAFE_INTEGER})::float8 as errors,
      least(coalesce(sum(s.newly_denied), 0), ${Number.MAX_SAFE_INTEGER})::float8 as "newlyDenied"
    ${reached(rollouts)}
    group by r.id`;
  const counted = new Map(rows.map(({ id, ...counts }) => [id, { ...none, ...counts }]));
  for (const rollout of rollouts) {
    counted.set(rollout.id, {
      ...(counted.get(rollout.id) ?? none),
      ...(await replayOf(transaction, rollout)),
    });
  }
  return counted;
}

/** What people are shown: of a rollout that has ended, how far its agents were then, where that was kept. */
export async function countsToShow(
  transaction: Transaction,
  rollouts: readonly RolloutRow[],
): Promise<Map<string, StateCounts>> {
  const counted = await countAgents(
    transaction,
    rollouts.filter(({ finalCounts }) => finalCounts === null),
  );
  for (const rollout of rollouts) {
    const { id, finalCounts } = rollout;
    if (finalCounts === null) continue;
    const replay = await replayOf(transaction, rollout);
    counted.set(id, { ...none, ...(finalCounts as Partial<StateCounts>), ...replay });
  }
  return counted;
}

/** To be kept in the transaction that ends it, after everything else that it does. */
export async function finalCountsOf(transaction: Transaction, rollout: RolloutRow) {
  const counts = (await countAgents(transaction, [rollout])).get(rollout.id) ?? none;
  const { agents, pending, delivered, active, rejected, drifted, errors, newlyDenied } = counts;
  return { agents, pending, delivered, active, rejected, drifted, errors, newlyDenied };
}

/** Nobody waits any more for those that are silent; what they are told stays. */
export async function skipSilent(transaction: Transaction, rollout: RolloutRow): Promise<void> {
  await transaction.$executeRaw`
    insert into policy.rollout_skipped_agent (organization_id, rollout_id, agent_id)
    select r.organization_id, r.id, a.id
    ${reached([rollout])} and w.is_silent
    on conflict do nothing`;
}

async function replayOf(
  transaction: Transaction,
  rollout: Pick<RolloutRow, 'organizationId' | 'halt'>,
): Promise<Partial<StateCounts>> {
  const { saysDigest } = haltOf(rollout);
  if (saysDigest === undefined) return {};
  const replay = await newestReplayOf(transaction, rollout, saysDigest);
  return {
    replay,
    replayedDenials: replay?.newlyDenied ?? 0,
    replayedShare: replay?.newlyDeniedShare ?? 0,
  };
}

/** Agents (`a`) of the vaults that the rollouts (`r`) have reached, and whether they are waited for (`w`). */
const reached = (rollouts: readonly Pick<RolloutRow, 'organizationId' | 'id'>[]): Sql => sql`
    from policy.rollout r
    join policy.rollout_vault v
      on v.organization_id = r.organization_id and v.rollout_id = r.id and v.stage <= r.stage
    join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.vault_id and p.version = r.number
    join registry.agent a
      on a.organization_id = r.organization_id and a.vault_id = v.vault_id
      and a.deleted_at is null and a.revoked_at is null
    left join monitoring.agent_liveness l
      on l.organization_id = a.organization_id and l.agent_id = a.id
    left join policy.agent_policy k
      on k.organization_id = a.organization_id and k.agent_id = a.id and k.number = r.number
    left join policy.rollout_skipped_agent g
      on g.organization_id = r.organization_id and g.rollout_id = r.id and g.agent_id = a.id
    cross join lateral (
      select coalesce(k.state, 'pending') as state, k.errors, k.newly_denied
    ) s
    cross join lateral (
      select s.state not in ('active', 'rejected') and l.status in ('online', 'late')
          and g.agent_id is null as waits,
        greatest(r.stage_started_at, l.status_since, k.waiting_since) as since
    ) t
    cross join lateral (
      select t.waits, t.since, t.waits and t.since < clock_timestamp() - make_interval(
        secs => case when r.halt ? 'answerWithinSeconds'
          then (r.halt->>'answerWithinSeconds')::float8
          else ${limits.rolloutAnswerDefaultSeconds} end) as is_silent
    ) w
    where (r.organization_id, r.id) in (
      select * from unnest(
        ${rollouts.map(({ organizationId }) => organizationId)}::uuid[],
        ${rollouts.map(({ id }) => id)}::uuid[]
      ))`;

export function showRollout(row: RolloutRow, counts: StateCounts = none): ShownRollout {
  const { agents: total, pending, delivered, active, rejected, drifted } = counts;
  return {
    id: toId('rollout', row.id),
    policySetId: toId('policySet', row.setId),
    number: row.number,
    state: row.state as 'running',
    reason: row.reason,
    stage: row.stage,
    stages: stagesOf(row),
    halt: haltOf(row).limits,
    vaultCount: row.vaultCount,
    agents: { total, pending, delivered, active, rejected, drifted },
    decisions: { newlyDenied: counts.newlyDenied, errors: counts.errors },
    replay: counts.replay,
    createdBy: row.createdBy,
    approvedBy:
      row.approvedById === null ? null : { id: row.approvedById, name: row.approvedBy ?? '' },
    approvedAt: row.approvedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
    stageStartedAt: row.stageStartedAt.toISOString(),
    finishedAt: row.finishedAt?.toISOString() ?? null,
    etag: etagOf(row.revision),
  };
}

export const noCounts = none;

const alertKinds: Record<string, 'policy.halted' | 'policy.awaiting_approval'> = {
  halted: 'policy.halted',
  awaiting_approval: 'policy.awaiting_approval',
};

/**
 * People are told that a rollout stands still until somebody does something, or that this is over, by the
 * row as it is then.
 */
export async function tellPeople(
  transaction: Transaction,
  row: RolloutRow,
  state: 'raised' | 'cleared',
): Promise<void> {
  const { alert } = haltOf(row);
  const kind = alertKinds[row.state];
  if (kind === undefined || alert === undefined) return;
  const { vaultId, agentId, reason } = alert;
  await enqueueMany(transaction, 'vault.reported', [
    { organizationId: row.organizationId, payload: { vaultId, agentId, kind, reason, state } },
  ]);
}

/** An alert is about an agent: of what a rollout waits with, the first of the first vault that has one. */
export async function firstAgentOf(
  transaction: Transaction,
  { organizationId, id }: Pick<RolloutRow, 'organizationId' | 'id'>,
): Promise<{ vaultId: string; agentId: string } | undefined> {
  const [agent] = await transaction.$queryRaw<{ vaultId: string; agentId: string }[]>`
    select v.vault_id as "vaultId", a.id as "agentId" from policy.rollout_vault v
    join registry.agent a
      on a.organization_id = v.organization_id and a.vault_id = v.vault_id
      and a.deleted_at is null and a.revoked_at is null
    join monitoring.agent_liveness l
      on l.organization_id = a.organization_id and l.agent_id = a.id
    where v.organization_id = ${organizationId}::uuid and v.rollout_id = ${id}::uuid
    order by v.stage, v.vault_id, a.id limit 1`;
  return agent;
}

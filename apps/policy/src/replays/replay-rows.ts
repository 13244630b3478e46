/** Reads and shows replays. What they found is added up from what their agents answered. */
import { createHash } from 'node:crypto';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Output } from '@keystead/contracts/operation';
import type { PolicyReplaySummary } from '@keystead/contracts/policy';
import type { getPolicyReplay } from '@keystead/contracts/policy-replays';
import type { Transaction } from '@keystead/database/database';

type Shown = Output<typeof getPolicyReplay>;

/** Without the content: it may be megabytes. */
export const replayColumns = {
  organizationId: true,
  id: true,
  setId: true,
  number: true,
  policyIds: true,
  policyVersions: true,
  target: true,
  days: true,
  saysDigest: true,
  state: true,
  matching: true,
  createdBy: true,
  createdAt: true,
  expiresAt: true,
  finishedAt: true,
} as const;

export type ReplayRow = Awaited<ReturnType<typeof findReplay>>;

/** @throws ServiceError `not_found` */
export async function findReplay(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
  id: string,
) {
  const row = await transaction.replay.findUnique({
    where: { organizationId_id: { organizationId, id: toUuid('policyReplay', id) } },
    select: replayColumns,
  });
  if (!row) throw notFound();
  return row;
}

/** Equal for everything that says the same to the policy engine, under whatever number or form. */
export function saysDigest(set: Record<string, unknown>): string {
  return createHash('sha256').update(JSON.stringify(set)).digest('hex');
}

interface Sums {
  asked: number;
  pending: number;
  answered: number;
  rejected: number;
  failed: number;
  unsupported: number;
  expired: number;
  decisions: number;
  newlyDenied: number;
  newlyAllowed: number;
  newlyNeedingApproval: number;
  unchanged: number;
}

const none: Sums = {
  asked: 0,
  pending: 0,
  answered: 0,
  rejected: 0,
  failed: 0,
  unsupported: 0,
  expired: 0,
  decisions: 0,
  newlyDenied: 0,
  newlyAllowed: 0,
  newlyNeedingApproval: 0,
  unchanged: 0,
};

export async function summaries(
  transaction: Transaction,
  rows: readonly ReplayRow[],
): Promise<Map<string, PolicyReplaySummary>> {
  const [first] = rows;
  if (first === undefined) return new Map();
  const found = await transaction.$queryRaw<(Sums & { id: string })[]>`
    select replay_id as id, count(*)::int as asked,
      count(*) filter (where state = 'pending')::int as pending,
      count(*) filter (where state = 'answered')::int as answered,
      count(*) filter (where state = 'rejected')::int as rejected,
      count(*) filter (where state = 'failed')::int as failed,
      count(*) filter (where state = 'unsupported')::int as unsupported,
      count(*) filter (where state = 'expired')::int as expired,
      sum(decisions)::float8 as decisions,
      sum(newly_denied)::float8 as "newlyDenied",
      sum(newly_allowed)::float8 as "newlyAllowed",
      sum(newly_needing_approval)::float8 as "newlyNeedingApproval",
      sum(unchanged)::float8 as unchanged
    from policy.replay_agent
    where organization_id = ${first.organizationId}::uuid
      and replay_id = any(${rows.map(({ id }) => id)}::uuid[])
    group by replay_id`;
  const sums = new Map(found.map(({ id, ...counted }) => [id, counted]));
  return new Map(rows.map((row) => [row.id, summaryOf(row, sums.get(row.id) ?? none)]));
}

export async function summary(
  transaction: Transaction,
  row: ReplayRow | null | undefined,
): Promise<PolicyReplaySummary | null> {
  return row ? ((await summaries(transaction, [row])).get(row.id) ?? null) : null;
}

function summaryOf(row: ReplayRow, sums: Sums): PolicyReplaySummary {
  const { asked, pending, answered, rejected, failed, unsupported, expired, ...counts } = sums;
  const { newlyDenied, newlyAllowed, newlyNeedingApproval, unchanged, decisions } = counts;
  const evaluated = newlyDenied + newlyAllowed + newlyNeedingApproval + unchanged;
  return {
    id: toId('policyReplay', row.id),
    state: row.state as 'running',
    days: row.days,
    agents: {
      matching: row.matching,
      asked,
      pending,
      answered,
      rejected,
      failed,
      unsupported,
      expired,
    },
    ...counts,
    notEvaluable: Math.max(0, decisions - evaluated),
    newlyDeniedShare: evaluated === 0 ? 0 : newlyDenied / evaluated,
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

/** The newest replay in which that version was a draft. */
export async function newestReplayOfDraft(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
  policyId: string,
  version: number,
): Promise<PolicyReplaySummary | null> {
  const rows = await transaction.replay.findMany({
    where: { organizationId, policyIds: { has: policyId } },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    select: replayColumns,
  });
  const row = rows.find(
    ({ policyIds, policyVersions }) => policyVersions[policyIds.indexOf(policyId)] === version,
  );
  return summary(transaction, row);
}

export async function newestReplayOfSet(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
  setId: string,
): Promise<PolicyReplaySummary | null> {
  const row = await transaction.replay.findFirst({
    where: { organizationId, setId },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    select: replayColumns,
  });
  return summary(transaction, row);
}

/** The newest replay of exactly what a set says. @param says {@link saysDigest} of it */
export async function newestReplayOf(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
  says: string,
): Promise<PolicyReplaySummary | null> {
  const row = await transaction.replay.findFirst({
    where: { organizationId, saysDigest: says },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    select: replayColumns,
  });
  return summary(transaction, row);
}

export async function showReplay(transaction: Transaction, row: ReplayRow): Promise<Shown> {
  const { organizationId, id } = row;
  const unevaluated = await transaction.$queryRaw<Shown['unevaluated']>`
    select u.obstacle, sum(u.count)::float8 as count from policy.replay_agent a
    cross join lateral jsonb_to_recordset(a.unevaluated) as u(obstacle text, count bigint)
    where a.organization_id = ${organizationId}::uuid and a.replay_id = ${id}::uuid
    group by u.obstacle order by 2 desc, 1`;
  const differences = await transaction.$queryRaw<
    { vault_id: string; reference: string; change: string; count: number }[]
  >`
    select a.vault_id, d.reference, d.change, sum(d.count)::float8 as count
    from policy.replay_agent a
    cross join lateral jsonb_to_recordset(a.differences)
      as d(reference text, change text, count bigint)
    where a.organization_id = ${organizationId}::uuid and a.replay_id = ${id}::uuid
    group by a.vault_id, d.reference, d.change
    order by 4 desc, d.reference limit ${limits.replayDifferencesShown}`;
  return {
    ...((await summary(transaction, row)) as PolicyReplaySummary),
    policySetId: row.setId === null ? null : toId('policySet', row.setId),
    number: row.number,
    drafts: row.policyIds.map((policyId, index) => ({
      policyId: toId('policy', policyId),
      version: row.policyVersions[index] ?? 0,
    })),
    target: row.target as Shown['target'],
    unevaluated,
    differences: differences.map(({ vault_id: vaultId, ...difference }) => ({
      ...difference,
      vaultId: toId('vault', vaultId),
    })),
  };
}

/** Reads and shows approvals. */

import type { ApprovalReport } from '@keystead/contracts/agent-link';
import type { approvalRefusals, getApproval } from '@keystead/contracts/approvals';
import { toId } from '@keystead/contracts/ids';
import type { Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';

export type ShownApproval = Output<typeof getApproval>;
export type ApprovalRow = Awaited<ReturnType<typeof findRows>>[number];
export type Requirements = ApprovalReport['requirements'];
type Reported = ApprovalReport['decisions'];

export function findRows(
  transaction: Transaction,
  page: { where: object; orderBy?: object[]; take?: number },
) {
  return transaction.approval.findMany({
    ...page,
    include: { decisions: { orderBy: { decidedAt: 'asc' } } },
  });
}

export const requirementsOf = ({ requirements }: Pick<ApprovalRow, 'requirements'>) =>
  requirements as unknown as Requirements;

/** What is over by time is over, whether or not the duty has been here. */
export function statusOf(
  { state, expiresAt }: Pick<ApprovalRow, 'state' | 'expiresAt'>,
  now: Date,
): ShownApproval['status'] {
  const canExpire = state === 'pending' || state === 'approved';
  return canExpire && expiresAt <= now ? 'expired' : (state as 'pending');
}

/** Of vaults that were deleted too: what was approved stays to be seen. */
export async function vaultNames(
  transaction: Transaction,
  organizationId: string,
  rows: readonly Pick<ApprovalRow, 'vaultId'>[],
): Promise<ReadonlyMap<string, string>> {
  const vaults = await transaction.vault.findMany({
    where: { organizationId, id: { in: rows.map(({ vaultId }) => vaultId) } },
    select: { id: true, name: true },
  });
  return new Map(vaults.map(({ id, name }) => [id, name]));
}

export function showApproval(
  row: ApprovalRow,
  names: ReadonlyMap<string, string>,
  now: Date,
): ShownApproval {
  const reported = row.reported as unknown as Reported;
  const own = new Map(row.decisions.map((decision) => [decision.id, decision]));
  const byUs = (decision: ApprovalRow['decisions'][number]) => ({
    by: { id: toId('person', decision.personId), name: decision.personName },
    reason: decision.reason,
  });
  const known = reported.map(({ verdict, atMs, approverRef, decisionId }) => {
    const decision = decisionId === null ? undefined : own.get(decisionId);
    if (decisionId !== null) own.delete(decisionId);
    return {
      verdict,
      at: new Date(atMs).toISOString(),
      ...(decision ? byUs(decision) : { by: null, reason: null }),
      approverRef,
      state: 'accepted' as const,
      refusal: null,
    };
  });
  const sent = [...own.values()].map((decision) => ({
    verdict: decision.verdict as 'approve',
    at: decision.decidedAt.toISOString(),
    ...byUs(decision),
    approverRef: null,
    state: decision.state as 'sent',
    refusal: decision.refusal as (typeof approvalRefusals)[number] | null,
  }));
  return {
    id: toId('approval', row.id),
    vault: { id: toId('vault', row.vaultId), name: names.get(row.vaultId) ?? '' },
    agentId: toId('agent', row.agentId),
    action: row.action,
    namespaceRef: row.namespaceRef,
    secretRef: row.secretRef,
    otherRef: row.otherRef,
    requesterRef: row.requesterRef,
    status: statusOf(row, now),
    requirements: requirementsOf(row),
    decisions: [...known, ...sent],
    requestedAt: row.requestedAt.toISOString(),
    expiresAt: row.expiresAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
  };
}

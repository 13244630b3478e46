/**
 * What agents say of approvals, taken in: what waits and how far it is, and what became of decisions.
 * People are told of what waits, and that it is over.
 */
import type { ApprovalAnswer, ApprovalReport } from '@keystead/contracts/agent-link';
import { approvalRefusals } from '@keystead/contracts/approvals';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { forgetCommands } from '../deliveries/agent-commands.ts';

export interface Reporter {
  organizationId: string;
  vaultId: string;
  agentId: string;
}

type Told = ReturnType<typeof toldOf>;

/** Takes a report of an agent. One that is older than what is known, or one too many, changes nothing. */
export async function takeApproval(
  transaction: Transaction,
  { organizationId, vaultId, agentId }: Reporter,
  report: ApprovalReport,
): Promise<Told[]> {
  const [row] = await transaction.$queryRaw<
    { agent_id: string; told: boolean; is_late: boolean }[]
  >`
    insert into policy.approval as t (organization_id, id, vault_id, agent_id, revision, state, action,
      namespace_ref, secret_ref, other_ref, requester_ref, requirements, reported, requested_at,
      expires_at, updated_at)
    select ${organizationId}::uuid, ${report.id}::uuid, ${vaultId}::uuid, ${agentId}::uuid,
      ${report.revision}, ${report.state}, ${report.action}, ${report.namespaceRef},
      ${report.secretRef}, ${report.otherRef}, ${report.requesterRef},
      ${JSON.stringify(report.requirements)}::jsonb, ${JSON.stringify(report.decisions)}::jsonb,
      ${new Date(report.requestedAtMs)}::timestamptz, ${new Date(report.expiresAtMs)}::timestamptz,
      clock_timestamp()
    where ${limits.approvalsKeptPerVault} > (
        select count(*) from policy.approval k
        where k.organization_id = ${organizationId}::uuid and k.vault_id = ${vaultId}::uuid)
      or exists (
        select from policy.approval k
        where k.organization_id = ${organizationId}::uuid and k.id = ${report.id}::uuid)
    on conflict (organization_id, id) do update set
      revision = excluded.revision, state = excluded.state, reported = excluded.reported,
      updated_at = excluded.updated_at
    where t.revision < excluded.revision and t.vault_id = excluded.vault_id
    returning agent_id, told, expires_at <= clock_timestamp() as is_late`;
  if (row === undefined) return [];
  const of = { organizationId, vaultId, agentId: row.agent_id };
  const waits = report.state === 'pending' && !row.is_late;
  if (waits === row.told) return [];
  if (waits) {
    const told = await transaction.approval.count({
      where: { organizationId, vaultId, told: true },
    });
    if (told >= limits.approvalsToldEach) return [];
  }
  await transaction.$executeRaw`
    update policy.approval set told = ${waits}
    where organization_id = ${organizationId}::uuid and id = ${report.id}::uuid`;
  return [toldOf(of, report.id, waits ? 'raised' : 'cleared')];
}

/** The agent has taken a decision, or says why it does not. It need not be told any more, nor the others. */
export async function takeAnswer(
  transaction: Transaction,
  { organizationId, vaultId, agentId }: Reporter,
  { approvalId, decisionId, outcome }: ApprovalAnswer,
): Promise<void> {
  const isAccepted = outcome === 'accepted';
  const refusal = approvalRefusals.find((each) => each === outcome) ?? 'not_acceptable';
  const changed = await transaction.$executeRaw`
    update policy.approval_decision d
    set state = ${isAccepted ? 'accepted' : 'refused'}, refusal = ${isAccepted ? null : refusal}
    from policy.approval a
    where d.organization_id = ${organizationId}::uuid and d.id = ${decisionId}::uuid
      and d.approval_id = ${approvalId}::uuid and d.state <> 'accepted'
      and a.organization_id = d.organization_id and a.id = d.approval_id
      and a.vault_id = ${vaultId}::uuid`;
  // One agent speaks for the store that all of the vault's have, unless it could not read the decision.
  const isAboutStore = outcome !== 'not_acceptable' && outcome !== 'unknown_approval';
  await forgetCommands(
    transaction,
    organizationId,
    decisionId,
    changed > 0 && isAboutStore ? undefined : agentId,
  );
}

function toldOf(
  { organizationId, vaultId, agentId }: Reporter,
  approvalId: string,
  state: 'raised' | 'cleared',
) {
  const reason = `approval:${toId('approval', approvalId)}`;
  return {
    organizationId,
    payload: { vaultId, agentId, kind: 'approval.requested', reason, state },
  } as const;
}

const batch = 500;

@Injectable()
export class ApprovalsEnd {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** Ends what nobody decided in time, and forgets what ended long ago. */
  async look(): Promise<void> {
    const over = await this.database.acrossTenants('deliver-policies', async (transaction) => {
      const rows = await transaction.$queryRaw<
        { organization_id: string; id: string; vault_id: string; agent_id: string; told: boolean }[]
      >`
        with over as (
          select organization_id, id, told from policy.approval
          where state in ('pending', 'approved') and expires_at <= clock_timestamp()
          order by expires_at limit ${batch} for update skip locked
        )
        update policy.approval a set state = 'expired', told = false, updated_at = clock_timestamp()
        from over where a.organization_id = over.organization_id and a.id = over.id
        returning a.organization_id, a.id, a.vault_id, a.agent_id, over.told`;
      await enqueueMany(
        transaction,
        'vault.reported',
        rows
          .filter(({ told }) => told)
          .map((row) =>
            toldOf(
              {
                organizationId: row.organization_id,
                vaultId: row.vault_id,
                agentId: row.agent_id,
              },
              row.id,
              'cleared',
            ),
          ),
      );
      await transaction.$executeRaw`
        delete from policy.approval where state in ('denied', 'used', 'expired')
          and expires_at < clock_timestamp() - make_interval(days => ${limits.approvalKeepDays})`;
      return rows;
    });
    if (over.some(({ told }) => told)) this.bus.nudge('vaultReports');
  }
}

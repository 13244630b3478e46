/** The steps of a replay: an agent has answered, cannot, or is waited for no longer. */
import type { PolicyReplayReport } from '@keystead/contracts/agent-link';
import type { Transaction } from '@keystead/database/database';
import { forgetCommands } from '../deliveries/agent-commands.ts';

export interface Reporter {
  organizationId: string;
  agentId: string;
}

const states: Record<string, string> = { done: 'answered', rejected: 'rejected' };

/** Once: the same report again changes nothing. One that comes late is taken all the same. */
export async function takeReplay(
  transaction: Transaction,
  { organizationId, agentId }: Reporter,
  report: PolicyReplayReport,
): Promise<void> {
  const { replayId, outcome, fromMs, unevaluated, differences, durationMs, ...counts } = report;
  const state = states[outcome] ?? 'failed';
  await transaction.$executeRaw`
    update policy.replay_agent set state = ${state},
      from_at = case when ${fromMs}::float8 > 0 then to_timestamp(${fromMs}::float8 / 1000) end,
      decisions = ${counts.decisions}::bigint, newly_denied = ${counts.newlyDenied}::bigint,
      newly_allowed = ${counts.newlyAllowed}::bigint,
      newly_needing_approval = ${counts.newlyNeedingApproval}::bigint,
      unchanged = ${counts.unchanged}::bigint,
      unevaluated = ${JSON.stringify(unevaluated)}::jsonb,
      differences = ${JSON.stringify(differences)}::jsonb,
      duration_ms = ${Math.min(durationMs, 2 ** 31 - 1)}, answered_at = clock_timestamp()
    where organization_id = ${organizationId}::uuid and replay_id = ${replayId}::uuid
      and agent_id = ${agentId}::uuid and state in ('pending', 'expired', 'unsupported')`;
  await forgetCommands(transaction, organizationId, replayId, agentId);
  await finishAnswered(transaction, organizationId, replayId);
}

/** The agents have no word for what they were told under these numbers: they are told no more. */
export async function takeUnsupported(
  transaction: Transaction,
  agents: readonly (Reporter & { unsupported?: number[] | undefined })[],
): Promise<void> {
  for (const { organizationId, agentId, unsupported = [] } of agents) {
    if (unsupported.length === 0) continue;
    const dropped = await transaction.$queryRaw<{ subject_id: string }[]>`
      delete from policy.agent_command
      where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid
        and number = any(${unsupported}::bigint[])
      returning subject_id`;
    for (const { subject_id: replayId } of dropped) {
      await transaction.$executeRaw`
        update policy.replay_agent set state = 'unsupported', answered_at = clock_timestamp()
        where organization_id = ${organizationId}::uuid and replay_id = ${replayId}::uuid
          and agent_id = ${agentId}::uuid and state = 'pending'`;
      await finishAnswered(transaction, organizationId, replayId);
    }
  }
}

/** Two that answer at once may both leave it to the duty. */
async function finishAnswered(
  transaction: Transaction,
  organizationId: string,
  replayId: string,
): Promise<void> {
  await transaction.$executeRaw`
    update policy.replay r set state = 'finished', finished_at = clock_timestamp(), content = null
    where r.organization_id = ${organizationId}::uuid and r.id = ${replayId}::uuid
      and r.state = 'running' and not exists (
        select from policy.replay_agent a where a.organization_id = r.organization_id
          and a.replay_id = r.id and a.state = 'pending')`;
}

/** Nobody is waited for any more. */
export async function expireReplay(
  transaction: Transaction,
  organizationId: string,
  replayId: string,
): Promise<void> {
  await transaction.$executeRaw`
    update policy.replay_agent set state = 'expired'
    where organization_id = ${organizationId}::uuid and replay_id = ${replayId}::uuid
      and state = 'pending'`;
  await forgetCommands(transaction, organizationId, replayId);
  await finishAnswered(transaction, organizationId, replayId);
}

/**
 * What agents report of sets: that one is active, rejected or stale, and how they decided under it.
 * Each report is an outbox row that is deleted with its effect.
 */
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany, type OutboxRow, take } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { takeAnswer, takeApproval } from '../approvals/approval-reports.ts';
import { takeReplay } from '../replays/replay-steps.ts';
import { reportOf } from './deliveries.ts';

type Row = OutboxRow<'policy.reported'>;
type Told = ReturnType<typeof reportOf> | Awaited<ReturnType<typeof takeApproval>>[number];

const batch = 200;
/** What an agent counts is its own word: a sum stops here, and holds up nobody's reports. */
const countMax = Number.MAX_SAFE_INTEGER;

@Injectable()
export class AgentReports {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** @returns how many reports were taken */
  async take(): Promise<number> {
    let all = 0;
    for (let taken = batch; taken === batch; all += taken) {
      const told = await this.database.acrossTenants('deliver-policies', async (transaction) => {
        const rows = await take(transaction, 'policy.reported', batch);
        taken = rows.length;
        const told: Told[] = [];
        for (const row of rows) told.push(...(await record(transaction, row)));
        await enqueueMany(transaction, 'vault.reported', told);
        return told.length > 0;
      });
      if (told) this.bus.nudge('vaultReports');
    }
    return all;
  }
}

async function record(transaction: Transaction, { organizationId, payload }: Row): Promise<Told[]> {
  if (organizationId === null) return [];
  const { vaultId, agentId, policySet, policyDecisions, policyReplay } = payload;
  const { approval, approvalAnswer } = payload;
  const reporter = { organizationId, vaultId, agentId };
  if (policyReplay !== undefined) await takeReplay(transaction, reporter, policyReplay);
  if (approvalAnswer !== undefined) await takeAnswer(transaction, reporter, approvalAnswer);
  if (approval !== undefined) return takeApproval(transaction, reporter, approval);
  const of = { organization_id: organizationId, vault_id: vaultId, agent_id: agentId };
  if (policyDecisions) {
    const { number, allowed, denied, newlyDenied, errors } = policyDecisions;
    await transaction.$executeRaw`
      update policy.agent_policy set
        allowed = least(allowed, ${countMax - allowed}::bigint) + ${allowed}::bigint,
        denied = least(denied, ${countMax - denied}::bigint) + ${denied}::bigint,
        newly_denied = least(newly_denied, ${countMax - newlyDenied}::bigint) + ${newlyDenied}::bigint,
        errors = least(errors, ${countMax - errors}::bigint) + ${errors}::bigint
      where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid
        and number = ${number}`;
  }
  if (policySet === undefined) return [];
  const { number, digest, outcome, problem } = policySet;
  switch (outcome) {
    case 'active': {
      await transaction.$executeRaw`
        update policy.agent_policy set state = 'active', held_number = ${number},
          held_digest = ${digest}, reason = null, stale_since = null,
          active_at = clock_timestamp(), updated_at = clock_timestamp()
        where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid
          and number = ${number} and state <> 'active'`;
      return [
        ...rejections.map((reason) => reportOf(of, 'policy.rejected', reason, 'cleared')),
        reportOf(of, 'policy.drifted', 'drifted', 'cleared'),
        reportOf(of, 'policy.drifted', 'rolled_back', 'cleared'),
        reportOf(of, 'policy.stale', 'stale', 'cleared'),
      ];
    }
    case 'rejected': {
      const changed = await transaction.$executeRaw`
        update policy.agent_policy set state = 'rejected', reason = ${problem},
          updated_at = clock_timestamp()
        where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid
          and number = ${number} and state <> 'active'`;
      return changed > 0 ? [reportOf(of, 'policy.rejected', `rejected_${problem}`, 'raised')] : [];
    }
    case 'damaged':
    case 'rolled_back': {
      await transaction.$executeRaw`
        update policy.agent_policy set state = 'drifted', updated_at = clock_timestamp(),
          waiting_since = case when state in ('delivered', 'drifted') then waiting_since
            else clock_timestamp() end
        where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid
          and number = ${number}`;
      const reason = outcome === 'damaged' ? 'drifted' : outcome;
      return [reportOf(of, 'policy.drifted', reason, 'raised')];
    }
    case 'stale':
    case 'fresh': {
      const isStale = outcome === 'stale';
      await transaction.$executeRaw`
        update policy.agent_policy
        set stale_since = case when ${isStale}::boolean then clock_timestamp() end
        where organization_id = ${organizationId}::uuid and agent_id = ${agentId}::uuid`;
      return [reportOf(of, 'policy.stale', 'stale', isStale ? 'raised' : 'cleared')];
    }
    default:
      return [];
  }
}

/** The words of a rejection, as the agent link has them. */
const rejections = [
  'signature',
  'organization',
  'number',
  'predecessor',
  'digest',
  'form',
  'policy',
  'too_large',
  'store',
  'configuration',
].map((problem) => `rejected_${problem}`);

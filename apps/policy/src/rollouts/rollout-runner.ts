/**
 * Moves rollouts on. Takes no input: rollouts that run are rows, each is looked at in a transaction of
 * its own, and doing it twice changes nothing. Killed anywhere, the next run goes on.
 */
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { type HaltReason, nextStep } from './next-step.ts';
import {
  assignStage,
  countAgents,
  haltOf,
  noCounts,
  type RolloutRow,
  stagesOf,
} from './rollout-rows.ts';
import { waitsForSomebody } from './rollouts.ts';

const rolloutsPerRun = 200;

@Injectable()
export class RolloutRunner {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** @returns how many rollouts moved */
  async run(): Promise<number> {
    const running = await this.database.acrossTenants(
      'roll-out',
      (transaction) => transaction.$queryRaw<{ organization_id: string; id: string }[]>`
        select organization_id, id from policy.rollout where state = 'running'
        order by updated_at limit ${rolloutsPerRun}`,
    );
    let moved = 0;
    for (const { organization_id: organizationId, id } of running) {
      const step = await this.database.withTenant({ organizationId }, (transaction) =>
        move(transaction, organizationId, id),
      );
      if (step === 'nothing') continue;
      moved += 1;
      if (step === 'halt') this.bus.nudge('vaultReports');
      else this.bus.nudge('policySets', organizationId);
    }
    return moved;
  }
}

async function move(transaction: Transaction, organizationId: string, id: string) {
  const [locked] = await transaction.$queryRaw<{ now: Date }[]>`
    select clock_timestamp() as now from policy.rollout
    where organization_id = ${organizationId}::uuid and id = ${id}::uuid and state = 'running'
    for no key update skip locked`;
  if (!locked) return 'nothing';
  const row = await transaction.rollout.findUniqueOrThrow({
    where: { organizationId_id: { organizationId, id } },
  });
  const counts = (await countAgents(transaction, [row])).get(id) ?? noCounts;
  const stages = stagesOf(row);
  const { limits: halt, forgiven } = haltOf(row);
  const step = nextStep(
    {
      stage: row.stage,
      stages,
      halt,
      forgiven,
      stageStartedAtMs: row.stageStartedAt.getTime(),
    },
    counts,
    locked.now.getTime(),
  );
  switch (step.do) {
    case 'nothing':
      break;
    case 'halt':
      await haltFor(transaction, row, step.reason);
      break;
    case 'advance':
      await assignStage(transaction, row, row.stage + 1);
      await update(transaction, row, { stage: row.stage + 1, stageStartedAt: locked.now });
      break;
    case 'pause':
      await update(transaction, row, { state: 'paused', reason: waitsForSomebody });
      break;
    case 'complete':
      await update(transaction, row, { state: 'completed', finishedAt: locked.now });
  }
  return step.do;
}

async function haltFor(
  transaction: Transaction,
  row: RolloutRow,
  reason: HaltReason,
): Promise<void> {
  const { organizationId } = row;
  const [agent] = await transaction.$queryRaw<{ vault_id: string; agent_id: string }[]>`
    select k.vault_id, k.agent_id from policy.agent_policy k
    join policy.rollout_vault v
      on v.organization_id = k.organization_id and v.vault_id = k.vault_id
      and v.rollout_id = ${row.id}::uuid and v.stage <= ${row.stage}
    where k.organization_id = ${organizationId}::uuid and k.number = ${row.number}
    order by k.state = 'rejected' desc, k.errors desc, k.newly_denied desc, k.agent_id limit 1`;
  const halt = row.halt as Record<string, unknown>;
  await update(transaction, row, {
    state: 'halted',
    reason,
    halt: {
      ...halt,
      ...(agent ? { alert: { vaultId: agent.vault_id, agentId: agent.agent_id, reason } } : {}),
    },
  });
  if (!agent) return;
  await enqueueMany(transaction, 'vault.reported', [
    {
      organizationId,
      payload: {
        vaultId: agent.vault_id,
        agentId: agent.agent_id,
        kind: 'policy.halted',
        reason,
        state: 'raised',
      },
    },
  ]);
}

function update(
  transaction: Transaction,
  { organizationId, id }: RolloutRow,
  data: Record<string, unknown>,
) {
  return transaction.rollout.update({
    where: { organizationId_id: { organizationId, id } },
    data: { ...data, updatedAt: new Date(), revision: { increment: 1 } },
  });
}

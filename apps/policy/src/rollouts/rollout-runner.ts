/**
 * Moves rollouts on. Takes no input: rollouts that run are rows, each is looked at in a transaction of
 * its own, and doing it twice changes nothing. Killed anywhere, the next run goes on.
 */

import { toUuid } from '@keystead/contracts/ids';
import { Database, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { type HaltReason, nextStep, stillForgiven } from './next-step.ts';
import {
  assignStage,
  countAgents,
  finalCountsOf,
  haltOf,
  noCounts,
  type RolloutRow,
  type StateCounts,
  stagesOf,
  tellPeople,
} from './rollout-rows.ts';
import { waitsForSomebody } from './rollouts.ts';

const rolloutsPerQuery = 200;
const firstId = '00000000-0000-0000-0000-000000000000';

@Injectable()
export class RolloutRunner {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /**
   * Looks at every rollout that runs; at those that are paused: these go no further, and people are told
   * of troubles all the same; and at those that agents have kept waiting for too long, until they answer.
   * @returns how many rollouts moved
   * @throws AggregateError when all were looked at: one that cannot be moved holds up no other
   */
  async run(): Promise<number> {
    let moved = 0;
    const failures: unknown[] = [];
    for (let last = { organization_id: firstId, id: firstId }; ; ) {
      const some = await this.database.acrossTenants(
        'roll-out',
        (transaction) => transaction.$queryRaw<{ organization_id: string; id: string }[]>`
          select organization_id, id from policy.rollout
          where (state in ('running', 'paused')
              or (state = 'halted' and reason = 'halted_unanswered'))
            and (organization_id, id) > (${last.organization_id}::uuid, ${last.id}::uuid)
          order by organization_id, id limit ${rolloutsPerQuery}`,
      );
      for (const { organization_id: organizationId, id } of some) {
        try {
          if (await this.#move(organizationId, id)) moved += 1;
        } catch (error) {
          failures.push(error);
        }
      }
      const next = some.at(-1);
      if (next === undefined || some.length < rolloutsPerQuery) break;
      last = next;
    }
    if (failures.length > 0) {
      throw new AggregateError(failures, `${failures.length} rollouts could not be moved`);
    }
    return moved;
  }

  async #move(organizationId: string, id: string): Promise<boolean> {
    const step = await this.database.withTenant({ organizationId }, (transaction) =>
      move(transaction, organizationId, id),
    );
    if (step === 'halt' || step === 'go on') this.bus.nudge('vaultReports');
    else if (step !== 'nothing') this.bus.nudge('policySets', organizationId);
    return step !== 'nothing';
  }
}

async function move(transaction: Transaction, organizationId: string, id: string) {
  const [locked] = await transaction.$queryRaw<{ now: Date }[]>`
    select clock_timestamp() as now from policy.rollout
    where organization_id = ${organizationId}::uuid and id = ${id}::uuid
      and (state in ('running', 'paused') or (state = 'halted' and reason = 'halted_unanswered'))
    for no key update skip locked`;
  if (!locked) return 'nothing';
  const row = await transaction.rollout.findUniqueOrThrow({
    where: { organizationId_id: { organizationId, id } },
  });
  const counts = (await countAgents(transaction, [row])).get(id) ?? noCounts;
  const stages = stagesOf(row);
  const { limits: halt, forgiven: before } = haltOf(row);
  const forgiven = stillForgiven(before, counts);
  if (JSON.stringify(forgiven) !== JSON.stringify(before)) {
    const data: Record<string, unknown> = { halt: { ...(row.halt as object), forgiven } };
    await transaction.rollout.update({
      where: { organizationId_id: { organizationId, id } },
      data: { ...data },
    });
  }
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
  const isUnanswered = step.do === 'halt' && step.reason === 'halted_unanswered';
  // Paused, it waits for nobody.
  if (row.state === 'paused' && (step.do !== 'halt' || isUnanswered)) return 'nothing';
  if (row.state === 'halted') {
    if (isUnanswered) return 'nothing';
    await tellPeople(transaction, row, 'cleared');
    if (step.do !== 'halt') {
      await update(transaction, row, { state: 'running', reason: null });
      return 'go on';
    }
  }
  switch (step.do) {
    case 'nothing':
      break;
    case 'halt':
      await haltFor(transaction, row, step.reason, counts);
      break;
    case 'advance':
      await assignStage(transaction, row, row.stage + 1);
      await update(transaction, row, { stage: row.stage + 1, stageStartedAt: locked.now });
      break;
    case 'pause':
      await update(transaction, row, { state: 'paused', reason: waitsForSomebody });
      break;
    case 'complete':
      await update(transaction, row, {
        state: 'completed',
        finishedAt: locked.now,
        finalCounts: await finalCountsOf(transaction, row),
      });
  }
  return step.do;
}

async function haltFor(
  transaction: Transaction,
  row: RolloutRow,
  reason: HaltReason,
  counts: StateCounts,
): Promise<void> {
  const agent = await concerned(transaction, row, reason, counts);
  const halt = row.halt as Record<string, unknown>;
  const halted = await update(transaction, row, {
    state: 'halted',
    reason,
    halt: {
      ...halt,
      ...(agent ? { alert: { ...agent, reason } } : {}),
    },
  });
  if (agent) await tellPeople(transaction, halted, 'raised');
}

/** The agent that the alert names: the one with most of what it halts for. */
async function concerned(
  transaction: Transaction,
  { organizationId, id, number, stage }: RolloutRow,
  reason: HaltReason,
  { replay, silent }: StateCounts,
): Promise<{ vaultId: string; agentId: string } | undefined> {
  if (reason === 'halted_unanswered') return silent[0];
  if (reason === 'halted_replay') {
    if (replay === null) return undefined;
    const agent = await transaction.replayAgent.findFirst({
      where: { organizationId, replayId: toUuid('policyReplay', replay.id) },
      orderBy: [{ newlyDenied: 'desc' }, { agentId: 'asc' }],
      select: { vaultId: true, agentId: true },
    });
    return agent ?? undefined;
  }
  const [agent] = await transaction.$queryRaw<{ vaultId: string; agentId: string }[]>`
    select k.vault_id as "vaultId", k.agent_id as "agentId" from policy.agent_policy k
    join policy.rollout_vault v
      on v.organization_id = k.organization_id and v.vault_id = k.vault_id
      and v.rollout_id = ${id}::uuid and v.stage <= ${stage}
    where k.organization_id = ${organizationId}::uuid and k.number = ${number}
    order by case ${reason}::text when 'halted_errors' then k.errors
        when 'halted_denials' then k.newly_denied
        else case when k.state = 'rejected' then 1 else 0 end end desc, k.agent_id limit 1`;
  return agent;
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

/**
 * Rollouts: a signed set goes to vaults stage by stage. A stage is assignments, made in one
 * transaction; everything else follows from them. People pause, resume, stop and roll back here; the
 * stages themselves are moved by {@link RolloutRunner}.
 */
import { asDate, Listing } from '@keystead/access/listing';
import { personBehind } from '@keystead/access/person-behind';
import { checkMatch } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Operation, Output } from '@keystead/contracts/operation';
import {
  approveRollout,
  createRollout,
  type getRollout,
  type listRolloutAgents,
  listRollouts,
  pauseRollout,
  resumeRollout,
  rollbackRollout,
  stopRollout,
} from '@keystead/contracts/policy';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { assignNumber } from '../assignments/assignment-rows.ts';
import { databaseClock } from '../database-clock.ts';
import type { AgentState } from '../deliveries/next-delivery.ts';
import { asksForFourEyes } from '../four-eyes.ts';
import { addSetVersion } from '../policy-sets/policy-sets.ts';
import { readContent } from '../policy-sets/set-content.ts';
import { findSet } from '../policy-sets/set-rows.ts';
import { newestReplayOf, saysDigest } from '../replays/replay-rows.ts';
import { requireBelow } from '../replays/replay-verdict.ts';
import { OrganizationSigners, type Signer } from '../signing/organization-signers.ts';
import {
  assignStage,
  countAgents,
  countsToShow,
  finalCountsOf,
  findRollout,
  firstAgentOf,
  type HaltRecord,
  haltOf,
  lockRollout,
  noCounts,
  type RolloutRow,
  showRollout,
  skipSilent,
  tellPeople,
} from './rollout-rows.ts';
import { mayApprove } from './second-person.ts';
import { planStages } from './stage-plan.ts';

type Shown = Output<typeof getRollout>;
type Step = typeof pauseRollout;

@Injectable()
export class Rollouts {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(OrganizationSigners) private readonly signers: OrganizationSigners,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listRollouts>,
  ): Promise<Output<typeof listRollouts>> {
    const { state, policySetId } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const page = await this.listing.page(ctx, listRollouts.id, input.query, {
        fields: { createdAt: { read: asDate } },
        where: {
          organizationId: ctx.organizationId,
          ...(state ? { state: { in: state } } : {}),
          ...(policySetId ? { setId: toUuid('policySet', policySetId) } : {}),
        },
        fetch: (page) => transaction.rollout.findMany(page),
        valueOf: (row) => row.createdAt,
        idOf: (row) => row.id,
        toItem: (row) => row,
      });
      const counts = await countsToShow(transaction, page.items);
      return {
        items: page.items.map((row) => showRollout(row, counts.get(row.id) ?? noCounts)),
        nextCursor: page.nextCursor,
      };
    });
  }

  async get(ctx: TenantCtx, input: Input<typeof getRollout>): Promise<Shown> {
    return this.work.read(ctx, async (transaction) =>
      shown(transaction, await findRollout(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createRollout>): Promise<Shown> {
    const { organizationId } = ctx;
    const { stages, halt, target } = input.body;
    try {
      const answer = await this.work.write(ctx, createRollout, input, async (transaction, note) => {
        const set = await findSet(transaction, ctx, input.body.policySetId);
        const number = input.body.number ?? set.latestNumber;
        const signed = number && (await signedNumber(transaction, organizationId, number));
        if (!number || !signed || signed.setId !== set.id) {
          throw new ServiceError('unprocessable', {
            detail: 'the set has no signed version of that number',
          });
        }
        const says = await requireReplayBelow(transaction, ctx, number, halt);
        const id = newUuid();
        const vaults = await aimedAt(transaction, organizationId, target, id);
        const plan = planStages(
          vaults.map(({ id: vault }) => vault),
          stages,
          (vault) => toUuid('vault', vault),
        );
        if (plan.size === 0) {
          throw invalidRequest('body', [{ path: ['target'], message: 'aims at no vault' }]);
        }
        const ahead = vaults.filter(
          (vault) => plan.has(vault.id) && vault.number !== null && vault.number > number,
        );
        if (ahead.length > 0) throw areAhead(ahead.length, number);
        const begunById = await personBehind(transaction, ctx);
        const needsApproval = await asksForFourEyes(transaction, ctx);
        if (needsApproval && begunById === null) {
          throw new ServiceError('unprocessable', {
            detail:
              'the organization asks for four eyes, and nobody knows who made this API key: make a new one',
          });
        }
        const row = await transaction.rollout.create({
          data: {
            organizationId,
            id,
            setId: set.id,
            number,
            state: needsApproval ? 'awaiting_approval' : 'running',
            reason: needsApproval ? waitsForApproval : null,
            stages,
            halt: { ...halt, ...(says === undefined ? {} : { saysDigest: says }) },
            ...(target.kind === 'vaults' ? {} : { target }),
            vaultCount: plan.size,
            createdBy: ctx.actor.name,
            begunById,
          },
        });
        await writePlan(transaction, organizationId, id, vaults, plan);
        if (needsApproval) await askForSecondPerson(transaction, row);
        else await assignStage(transaction, row, 0);
        note({
          target: { kind: 'rollout', id: toId('rollout', id), name: set.name },
          changes: { number, vaults: plan.size, stages: stages.length, state: row.state },
        });
        return shown(transaction, row);
      });
      this.bus.nudge('policySets', organizationId);
      if (answer.state === 'awaiting_approval') this.bus.nudge('vaultReports');
      return answer;
    } catch (error) {
      if (isUniqueViolation(error)) {
        throw new ServiceError('conflict', { detail: 'a rollout of this set is under way' });
      }
      throw error;
    }
  }

  /** The second person, where the organization asks for one: what was planned begins now. */
  approve(ctx: TenantCtx, input: Input<Step>): Promise<Shown> {
    return this.#move(
      ctx,
      approveRollout,
      input,
      ['awaiting_approval'],
      async (transaction, row) => {
        const step = mayApprove(row.begunById, ctx.actor);
        if (!step.may) throw new ServiceError('unprocessable', { detail: step.because });
        const { limits: halt } = haltOf(row);
        await requireReplayBelow(transaction, ctx, row.number, halt);
        await requireNoneAhead(transaction, row);
        await assignStage(transaction, row, 0);
        const { alert, ...kept } = row.halt as HaltRecord;
        return {
          state: 'running',
          reason: null,
          halt: { ...kept },
          approvedById: ctx.actor.id,
          approvedBy: ctx.actor.name,
          approvedAt: await databaseClock(transaction),
          stageStartedAt: await databaseClock(transaction),
        };
      },
    );
  }

  pause(ctx: TenantCtx, input: Input<Step>): Promise<Shown> {
    return this.#move(ctx, pauseRollout, input, ['running'], async () => ({
      state: 'paused',
      reason: `paused by ${ctx.actor.name}`,
    }));
  }

  resume(ctx: TenantCtx, input: Input<Step>): Promise<Shown> {
    return this.#move(ctx, resumeRollout, input, ['paused', 'halted'], async (transaction, row) => {
      const counts = (await countAgents(transaction, [row])).get(row.id) ?? noCounts;
      const { limits, saysDigest: says } = haltOf(row);
      if (row.reason === 'halted_unanswered') await skipSilent(transaction, row);
      const { rejected, errors, newlyDenied, replayedDenials } = counts;
      // Where a stage was done and waited for somebody, the next one begins.
      const waited = row.state === 'paused' && row.reason === waitsForSomebody;
      if (waited) await assignStage(transaction, row, row.stage + 1);
      return {
        state: 'running',
        reason: null,
        ...(waited ? { stage: row.stage + 1 } : {}),
        stageStartedAt: await databaseClock(transaction),
        halt: {
          ...limits,
          ...(says === undefined ? {} : { saysDigest: says }),
          forgiven: { rejected, errors, newlyDenied, replayedDenials },
        },
      };
    });
  }

  stop(ctx: TenantCtx, input: Input<Step>): Promise<Shown> {
    // What has gone wrong is undone at once: stopping and rolling back wait for nobody.
    return this.#move(ctx, stopRollout, input, ['awaiting_approval', ...underWay], async () => ({
      state: 'stopped',
      reason: `stopped by ${ctx.actor.name}`,
      finishedAt: new Date(),
    }));
  }

  async rollback(ctx: TenantCtx, input: Input<Step>): Promise<Shown> {
    const signer = await this.signers.current(ctx);
    return this.#move(
      ctx,
      rollbackRollout,
      input,
      [...underWay, 'stopped', 'completed'],
      async (transaction, row) => {
        const emptied = await giveBack(transaction, ctx, row, signer);
        return {
          state: 'rolled_back',
          reason:
            emptied > 0
              ? `rolled back by ${ctx.actor.name}; ${emptied} vaults held nothing before and get an empty set`
              : `rolled back by ${ctx.actor.name}`,
          finishedAt: new Date(),
        };
      },
    );
  }

  async agents(
    ctx: TenantCtx,
    input: Input<typeof listRolloutAgents>,
  ): Promise<Output<typeof listRolloutAgents>> {
    const { organizationId } = ctx;
    const { limit, state, after } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const { id, number } = await findRollout(transaction, ctx, input.params.id);
      const rows = await transaction.$queryRaw<
        {
          agent_id: string;
          agent_name: string;
          vault_id: string;
          stage: number;
          state: AgentState;
          reason: string | null;
          held_number: number | null;
        }[]
      >`
        select * from (
          select a.id as agent_id, a.name as agent_name, v.vault_id, v.stage,
            coalesce(k.state, 'pending') as state, k.reason, k.held_number
          from policy.rollout_vault v
          join registry.agent a
            on a.organization_id = v.organization_id and a.vault_id = v.vault_id
            and a.deleted_at is null and a.revoked_at is null
          left join policy.policy_set_assignment p
            on p.organization_id = v.organization_id and p.vault_id = v.vault_id
          left join policy.agent_policy k
            on k.organization_id = a.organization_id and k.agent_id = a.id and k.number = ${number}
          where v.organization_id = ${organizationId}::uuid and v.rollout_id = ${id}::uuid
            and (p.version is null or p.version <= ${number})
        ) agents
        where (${state ?? null}::text[] is null or state = any(${state ?? null}::text[]))
          and (${after === undefined ? null : toUuid('agent', after)}::uuid is null
            or agent_id > ${after === undefined ? null : toUuid('agent', after)}::uuid)
        order by agent_id limit ${limit + 1}`;
      const page = rows.slice(0, limit);
      const last = page.at(-1);
      return {
        items: page.map((row) => ({
          agentId: toId('agent', row.agent_id),
          agentName: row.agent_name,
          vaultId: toId('vault', row.vault_id),
          stage: row.stage,
          state: row.state,
          reason: row.reason,
          heldNumber: row.held_number,
        })),
        nextAfter: rows.length > limit && last ? toId('agent', last.agent_id) : null,
      };
    });
  }

  async #move(
    ctx: TenantCtx,
    operation: Step,
    input: Input<Step>,
    from: readonly string[],
    decide: (
      transaction: Transaction,
      row: RolloutRow,
    ) => Promise<
      Partial<
        Pick<
          RolloutRow,
          'state' | 'reason' | 'stage' | 'finishedAt' | 'approvedById' | 'approvedBy' | 'approvedAt'
        >
      > &
        object
    >,
  ): Promise<Shown> {
    const { organizationId } = ctx;
    const answer = await this.work.write(
      ctx,
      operation as Operation as Step,
      input,
      async (transaction, note) => {
        const row = await lockRollout(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        if (!from.includes(row.state)) {
          throw new ServiceError('unprocessable', { detail: `the rollout is ${row.state}` });
        }
        const changes = await decide(transaction, row);
        const updated = await transaction.rollout.update({
          where: { organizationId_id: { organizationId, id: row.id } },
          data: {
            ...changes,
            ...(changes.finishedAt ? { finalCounts: await finalCountsOf(transaction, row) } : {}),
            updatedAt: new Date(),
            revision: { increment: 1 },
          },
        });
        await tellPeople(transaction, row, 'cleared');
        note({
          target: { kind: 'rollout', id: input.params.id },
          changes: { state: { from: row.state, to: updated.state } },
        });
        return shown(transaction, updated);
      },
    );
    this.bus.nudge('policySets', organizationId);
    this.bus.nudge('vaultReports');
    return answer;
  }
}

const underWay = ['running', 'paused', 'halted'];
const waitsForApproval = 'waits for the approval of a second person';
export const waitsForSomebody = 'the stage is done and waits for somebody to resume';

async function shown(transaction: Transaction, row: RolloutRow): Promise<Shown> {
  return showRollout(row, (await countsToShow(transaction, [row])).get(row.id) ?? noCounts);
}

/** Nobody looks at what they do not know of: people are told, once, until somebody approves or stops it. */
async function askForSecondPerson(transaction: Transaction, row: RolloutRow): Promise<void> {
  const { organizationId, id } = row;
  const agent = await firstAgentOf(transaction, row);
  if (agent === undefined) return;
  const alert = { ...agent, reason: `rollout:${toId('rollout', id)}` };
  const waiting = await transaction.rollout.update({
    where: { organizationId_id: { organizationId, id } },
    data: { halt: { ...(row.halt as object), alert } },
  });
  await tellPeople(transaction, waiting, 'raised');
}

function signedNumber(transaction: Transaction, organizationId: string, number: number) {
  return transaction.policySetVersion.findUnique({
    where: { organizationId_number: { organizationId, number } },
    select: { setId: true },
  });
}

/** What the set says, where a replay of that may stop the rollout. @throws ServiceError where it does now */
async function requireReplayBelow(
  transaction: Transaction,
  ctx: TenantCtx,
  number: number,
  { stopAboveNewDenials }: Input<typeof createRollout>['body']['halt'],
): Promise<string | undefined> {
  if (stopAboveNewDenials === null) return undefined;
  const { organizationId } = ctx;
  const { content } = await transaction.policySetVersion.findUniqueOrThrow({
    where: { organizationId_number: { organizationId, number } },
    select: { content: true },
  });
  const says = saysDigest(readContent(content).set);
  requireBelow(stopAboveNewDenials, await newestReplayOf(transaction, ctx, says));
  return says;
}

const areAhead = (vaults: number, number: number) =>
  new ServiceError('unprocessable', {
    detail: `${vaults} of the vaults hold a later number than ${number}, and agents never go back: sign the set anew and roll that version out`,
  });

/** @throws ServiceError where vaults were given a later number since the rollout was planned */
async function requireNoneAhead(
  transaction: Transaction,
  { organizationId, id, number }: RolloutRow,
): Promise<void> {
  const [ahead] = await transaction.$queryRaw<{ vaults: number }[]>`
    select count(*)::int as vaults from policy.rollout_vault v
    join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.vault_id
    where v.organization_id = ${organizationId}::uuid and v.rollout_id = ${id}::uuid
      and p.version > ${number}`;
  if (ahead && ahead.vaults > 0) throw areAhead(ahead.vaults, number);
}

interface AimedVault {
  id: string;
  number: number | null;
}

/** In an order that is another one for every rollout, so that not the same vaults are canaries always. */
async function aimedAt(
  transaction: Transaction,
  organizationId: string,
  target: Input<typeof createRollout>['body']['target'],
  rolloutId: string,
): Promise<AimedVault[]> {
  const tag = target.kind === 'tag' ? target.tag : null;
  const ids = target.kind === 'vaults' ? target.vaultIds.map((id) => toUuid('vault', id)) : null;
  const rows = await transaction.$queryRaw<AimedVault[]>`
    select v.id, p.version as number from registry.vault v
    left join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.id
    where v.organization_id = ${organizationId}::uuid and v.deleted_at is null
      and (${tag}::text is null or v.tags @> array[${tag}::text])
      and (${ids}::uuid[] is null or v.id = any(${ids}::uuid[]))
    order by md5(${rolloutId} || v.id::text)`;
  if (ids !== null && rows.length !== new Set(ids).size) {
    throw new ServiceError('unprocessable', { detail: 'one of the vaults does not exist' });
  }
  return rows;
}

const rowsPerStatement = 10_000;

async function writePlan(
  transaction: Transaction,
  organizationId: string,
  rolloutId: string,
  vaults: readonly AimedVault[],
  plan: ReadonlyMap<string, number>,
): Promise<void> {
  const rows = vaults.flatMap(({ id, number }) => {
    const stage = plan.get(id);
    return stage === undefined ? [] : [{ id, number, stage }];
  });
  for (let at = 0; at < rows.length; at += rowsPerStatement) {
    const some = rows.slice(at, at + rowsPerStatement);
    await transaction.$executeRaw`
      insert into policy.rollout_vault (organization_id, rollout_id, vault_id, stage, previous_number)
      select ${organizationId}::uuid, ${rolloutId}::uuid, k.* from unnest(
        ${some.map(({ id }) => id)}::uuid[],
        ${some.map(({ stage }) => stage)}::int[],
        ${some.map(({ number }) => number)}::int[]
      ) as k(vault_id, stage, previous_number)`;
  }
}

/**
 * Signs what the vaults held before under new numbers, and assigns those: an agent never goes back. Those
 * that held nothing get a set without policies, under which roles decide alone.
 * @returns how many vaults held nothing before
 */
async function giveBack(
  transaction: Transaction,
  ctx: TenantCtx,
  row: RolloutRow,
  signer: Signer,
): Promise<number> {
  const { organizationId } = ctx;
  const vaults = await transaction.$queryRaw<{ vault_id: string; previous: number | null }[]>`
    select v.vault_id, v.previous_number as previous
    from policy.rollout_vault v
    join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.vault_id
      and p.version = ${row.number}
    where v.organization_id = ${organizationId}::uuid and v.rollout_id = ${row.id}::uuid
      and v.stage <= ${row.stage} and (v.previous_number is null or v.previous_number < ${row.number})
    order by v.vault_id for no key update of p`;
  let emptied = 0;
  for (const [previous, group] of Map.groupBy(vaults, (vault) => vault.previous)) {
    const ids = group.map(({ vault_id }) => vault_id);
    if (previous === null) {
      const empty = await addSetVersion(transaction, ctx, signer, {
        setId: row.setId,
        set: { networks: {}, namespaces: {} },
        settings: { staleness: null, configuration: {} },
        note: `nothing, after the rollback of ${row.number}`,
        isNewest: false,
      });
      emptied += (await assignNumber(transaction, organizationId, ids, empty.number)).length;
      continue;
    }
    const before = await transaction.policySetVersion.findUniqueOrThrow({
      where: { organizationId_number: { organizationId, number: previous } },
    });
    const { set, staleness, configuration } = readContent(before.content);
    const signed = await addSetVersion(transaction, ctx, signer, {
      setId: before.setId,
      set,
      settings: { staleness, configuration },
      note: `what number ${previous} said, after the rollback of ${row.number}`,
    });
    await assignNumber(transaction, organizationId, ids, signed.number);
  }
  return emptied;
}

/**
 * Replays: a draft goes to agents, which decide by it what they decided in the last days, and answer with
 * counts. It decides nothing there: it is no set, has no number, and is signed by nobody but in the command
 * that names its digest.
 */
import { asDate, Listing } from '@keystead/access/listing';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import { policySetDigest, policySetMaxBytes } from '@keystead/agent-protocol/policy-set-signature';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import { policySetSettings } from '@keystead/contracts/policy';
import {
  createPolicyReplay,
  type getPolicyReplay,
  type listPolicyReplayAgents,
  listPolicyReplays,
  stopPolicyReplay,
} from '@keystead/contracts/policy-replays';
import { type PolicyDraftContent, policyDraftForm } from '@keystead/contracts/policy-set-content';
import type { Transaction } from '@keystead/database/database';
import { compile } from '@keystead/policy-engine/compile';
import { Inject, Injectable } from '@nestjs/common';
import { databaseClock } from '../database-clock.ts';
import { AgentCommands, orderCommands } from '../deliveries/agent-commands.ts';
import { engineSet, readContent } from '../policy-sets/set-content.ts';
import { choosePolicies, findSet, settingsOf } from '../policy-sets/set-rows.ts';
import {
  findReplay,
  type ReplayRow,
  replayColumns,
  saysDigest,
  showReplay,
  summaries,
} from './replay-rows.ts';
import { expireReplay } from './replay-steps.ts';

type Body = Input<typeof createPolicyReplay>['body'];
type Shown = Output<typeof getPolicyReplay>;

interface AimedAgent {
  id: string;
  vault_id: string;
  matching: number;
}

@Injectable()
export class Replays {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(AgentCommands) private readonly commands: Pick<AgentCommands, 'nudge'>,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listPolicyReplays>,
  ): Promise<Output<typeof listPolicyReplays>> {
    const { state, policySetId } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const page = await this.listing.page(ctx, listPolicyReplays.id, input.query, {
        fields: { createdAt: { read: asDate } },
        where: {
          organizationId: ctx.organizationId,
          ...(state ? { state: { in: state } } : {}),
          ...(policySetId ? { setId: toUuid('policySet', policySetId) } : {}),
        },
        fetch: (page) => transaction.replay.findMany({ ...page, select: replayColumns }),
        valueOf: (row: ReplayRow) => row.createdAt,
        idOf: (row: ReplayRow) => row.id,
        toItem: (row: ReplayRow) => row,
      });
      const shown = await summaries(transaction, page.items);
      return {
        items: page.items.flatMap(({ id }) => shown.get(id) ?? []),
        nextCursor: page.nextCursor,
      };
    });
  }

  async get(ctx: TenantCtx, input: Input<typeof getPolicyReplay>): Promise<Shown> {
    return this.work.read(ctx, async (transaction) =>
      showReplay(transaction, await findReplay(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createPolicyReplay>): Promise<Shown> {
    const { organizationId } = ctx;
    const { body } = input;
    const set = await this.work.read(ctx, (transaction) => chosenSet(transaction, ctx, body));
    await requireWhole(set);
    const content = draftBytes(organizationId, set);
    const digest = policySetDigest(content);
    const replayId = newUuid();
    let asked: AimedAgent[] = [];
    const answer = await this.work.write(
      ctx,
      createPolicyReplay,
      input,
      async (transaction, note) => {
        await requireRoom(transaction, organizationId);
        asked = await aimedAt(transaction, organizationId, body, replayId);
        if (asked.length === 0) {
          throw invalidRequest('body', [{ path: ['target'], message: 'aims at no agent' }]);
        }
        const now = await databaseClock(transaction);
        const expiresAt = new Date(now.getTime() + body.expiresInSeconds * 1_000);
        const row = await transaction.replay.create({
          data: {
            organizationId,
            id: replayId,
            setId: body.policySetId === undefined ? null : toUuid('policySet', body.policySetId),
            number: body.number ?? null,
            policyIds: body.drafts.map(({ policyId }) => toUuid('policy', policyId)),
            policyVersions: body.drafts.map(({ version }) => version),
            target: body.target,
            days: body.days,
            digest,
            saysDigest: saysDigest(set),
            content: bytes(content),
            totalBytes: content.length,
            matching: asked[0]?.matching ?? 0,
            createdBy: ctx.actor.name,
            expiresAt,
          },
          select: replayColumns,
        });
        await transaction.replayAgent.createMany({
          data: asked.map((agent) => ({
            organizationId,
            replayId,
            agentId: agent.id,
            vaultId: agent.vault_id,
          })),
        });
        await orderCommands(
          transaction,
          asked.map((agent) => ({
            organizationId,
            agentId: agent.id,
            vaultId: agent.vault_id,
            subjectId: replayId,
            expiresAt,
            action: {
              $case: 'replayDecisions',
              value: {
                replayId: Buffer.from(replayId.replaceAll('-', ''), 'hex'),
                draft: { version: 0, digest },
                totalBytes: content.length,
                days: body.days,
              },
            },
          })),
        );
        note({
          target: { kind: 'policyReplay', id: toId('policyReplay', replayId) },
          changes: { digest, days: body.days, agents: asked.length },
        });
        return showReplay(transaction, row);
      },
    );
    this.commands.nudge(asked.map(({ id: agentId }) => ({ organizationId, agentId })));
    return answer;
  }

  async stop(ctx: TenantCtx, input: Input<typeof stopPolicyReplay>): Promise<Shown> {
    return this.work.write(ctx, stopPolicyReplay, input, async (transaction, note) => {
      const row = await findReplay(transaction, ctx, input.params.id);
      await expireReplay(transaction, ctx.organizationId, row.id);
      note({ target: { kind: 'policyReplay', id: input.params.id } });
      return showReplay(transaction, await findReplay(transaction, ctx, input.params.id));
    });
  }

  async agents(
    ctx: TenantCtx,
    input: Input<typeof listPolicyReplayAgents>,
  ): Promise<Output<typeof listPolicyReplayAgents>> {
    const { organizationId } = ctx;
    const { limit, state, after } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const { id: replayId } = await findReplay(transaction, ctx, input.params.id);
      const rows = await transaction.replayAgent.findMany({
        where: {
          organizationId,
          replayId,
          ...(state ? { state: { in: state } } : {}),
          ...(after ? { agentId: { gt: toUuid('agent', after) } } : {}),
        },
        orderBy: { agentId: 'asc' },
        take: limit + 1,
      });
      const page = rows.slice(0, limit);
      const agents = await transaction.agent.findMany({
        where: { organizationId, id: { in: page.map(({ agentId }) => agentId) } },
        select: { id: true, name: true },
      });
      const names = new Map(agents.map(({ id, name }) => [id, name]));
      const last = page.at(-1);
      return {
        items: page.map((row) => ({
          agentId: toId('agent', row.agentId),
          agentName: names.get(row.agentId) ?? '',
          vaultId: toId('vault', row.vaultId),
          state: row.state as 'pending',
          from: row.fromAt?.toISOString() ?? null,
          decisions: Number(row.decisions),
          newlyDenied: Number(row.newlyDenied),
          newlyAllowed: Number(row.newlyAllowed),
          newlyNeedingApproval: Number(row.newlyNeedingApproval),
          unchanged: Number(row.unchanged),
          unevaluated: row.unevaluated as { obstacle: string; count: number }[],
          differences: row.differences as { reference: string; change: string; count: number }[],
          durationMs: row.durationMs,
          answeredAt: row.answeredAt?.toISOString() ?? null,
        })),
        nextAfter: rows.length > limit && last ? toId('agent', last.agentId) : null,
      };
    });
  }
}

/** What is published, with drafts in the place of some; or what a signed version says. */
async function chosenSet(
  transaction: Transaction,
  ctx: TenantCtx,
  { policySetId, number, drafts }: Body,
): Promise<Record<string, unknown>> {
  const { organizationId } = ctx;
  const row = policySetId ? await findSet(transaction, ctx, policySetId) : undefined;
  if (number !== undefined) {
    const signed = await transaction.policySetVersion.findUnique({
      where: { organizationId_number: { organizationId, number } },
    });
    if (!signed || signed.setId !== row?.id) throw notFound();
    return readContent(signed.content).set;
  }
  const versions = new Map(
    drafts.map(({ policyId, version }) => [toUuid('policy', policyId), version]),
  );
  const policyIds = [...new Set([...(row?.policyIds ?? []), ...versions.keys()])];
  const chosen = await choosePolicies(transaction, ctx, policyIds, versions);
  return engineSet(chosen, row ? settingsOf(row) : policySetSettings.parse({}));
}

async function requireWhole(set: Record<string, unknown>): Promise<void> {
  const compiled = await compile(set);
  if (compiled.ok) {
    compiled.value.close();
    return;
  }
  const [first] = compiled.problems;
  throw new ServiceError('unprocessable', {
    detail: `the policies do not go together: ${first?.policyId ?? ''} ${first?.what ?? ''}`,
  });
}

function draftBytes(organizationId: string, set: Record<string, unknown>): Buffer {
  const draft: PolicyDraftContent = {
    form: policyDraftForm,
    organizationId: toId('organization', organizationId),
    set,
  };
  const content = Buffer.from(JSON.stringify(draft));
  if (content.length > policySetMaxBytes) {
    throw new ServiceError('limit_reached', {
      detail: `the draft has ${content.length} bytes, at most ${policySetMaxBytes} are sent`,
    });
  }
  return content;
}

/** Makes room for one more among those that are kept. @throws ServiceError `limit_reached` */
async function requireRoom(transaction: Transaction, organizationId: string): Promise<void> {
  await transaction.$executeRaw`
    select pg_advisory_xact_lock(hashtextextended(${`policy-replays/${organizationId}`}, 0))`;
  const running = await transaction.replay.count({ where: { organizationId, state: 'running' } });
  if (running >= limits.replaysRunningPerOrganization) {
    throw new ServiceError('limit_reached', { detail: `${running} replays are running` });
  }
  await transaction.$executeRaw`
    delete from policy.replay where organization_id = ${organizationId}::uuid and state = 'finished'
      and id in (
        select id from policy.replay where organization_id = ${organizationId}::uuid
        order by created_at desc, id desc offset ${limits.replaysKeptPerOrganization - 1})`;
}

/** In an order that is another one for every replay, so that not the same agents are asked always. */
async function aimedAt(
  transaction: Transaction,
  organizationId: string,
  { target, maxAgents }: Body,
  replayId: string,
): Promise<AimedAgent[]> {
  const tag = target.kind === 'tag' ? target.tag : null;
  const ids = target.kind === 'vaults' ? target.vaultIds.map((id) => toUuid('vault', id)) : null;
  if (ids !== null) {
    const there = await transaction.vault.count({
      where: { organizationId, id: { in: ids }, deletedAt: null },
    });
    if (there !== new Set(ids).size) {
      throw new ServiceError('unprocessable', { detail: 'one of the vaults does not exist' });
    }
  }
  return transaction.$queryRaw<AimedAgent[]>`
    select a.id, a.vault_id, (count(*) over ())::int as matching from registry.agent a
    join registry.vault v on v.organization_id = a.organization_id and v.id = a.vault_id
      and v.deleted_at is null
    where a.organization_id = ${organizationId}::uuid
      and a.deleted_at is null and a.revoked_at is null
      and (${tag}::text is null or v.tags @> array[${tag}::text])
      and (${ids}::uuid[] is null or v.id = any(${ids}::uuid[]))
    order by md5(${replayId} || a.id::text) limit ${maxAgents}`;
}

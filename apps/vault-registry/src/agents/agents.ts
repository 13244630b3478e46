import { Listing } from '@keystead/access/listing';
import { type Note, TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import { deleteAgent, type getAgent, listAgents, revokeAgent } from '@keystead/contracts/registry';
import type { Transaction } from '@keystead/database/database';
import {
  afterPosition,
  allOf,
  inOrder,
  type Sql,
  type SqlKeyset,
  sql,
} from '@keystead/database/sql';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { CONFIG, type Config } from '../config.ts';
import {
  type AgentRow,
  agentStatusColumn,
  inAgentStates,
  readAgents,
  showAgent,
} from './agent-rows.ts';
import { revokeAgentsWhere } from './revocation.ts';

const sortColumns = {
  name: { column: sql`a.name`, type: 'text', nullable: false },
  enrolledAt: { column: sql`a.enrolled_at`, type: 'timestamptz', nullable: false },
  status: { column: agentStatusColumn, type: 'text', nullable: false },
  lastHeartbeatAt: { column: sql`l.last_seen_at`, type: 'timestamptz', nullable: true },
  version: { column: sql`r.version`, type: 'text', nullable: true },
} as const;

const sortValues: Record<string, (row: AgentRow) => Date | string | null> = {
  name: (row) => row.name,
  enrolledAt: (row) => row.enrolled_at,
  status: (row) => row.status,
  lastHeartbeatAt: (row) => row.last_seen_at,
  version: (row) => row.version,
};

@Injectable()
export class Agents {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async list(ctx: TenantCtx, input: Input<typeof listAgents>): Promise<Output<typeof listAgents>> {
    const { query } = input;
    const conditions: Sql[] = [];
    if (query.vaultId) {
      conditions.push(sql`a.vault_id = ${toUuid('vault', query.vaultId)}::uuid`);
    }
    if (query.name !== undefined) {
      conditions.push(sql`strpos(lower(a.name), lower(${query.name}::text)) > 0`);
    }
    if (query.status) conditions.push(inAgentStates(query.status));
    if (query.version !== undefined) conditions.push(sql`r.version = ${query.version}`);
    if (query.tag) conditions.push(sql`v.tags && ${query.tag}::text[]`);
    return this.work.read(ctx, (transaction) =>
      this.listing.walk<AgentRow, Output<typeof getAgent>>(ctx, listAgents.id, query, {
        fetch: ({ sort, descending, position, take }) => {
          const keyset: SqlKeyset = {
            ...sortColumns[sort as keyof typeof sortColumns],
            id: sql`a.id`,
            descending,
          };
          return readAgents(transaction, ctx.organizationId, {
            where: allOf([...conditions, afterPosition(keyset, position)]),
            order: inOrder(keyset),
            take,
          });
        },
        valueOf: (row, sort) => sortValues[sort]?.(row) ?? null,
        idOf: (row) => row.id,
        toItem: (row) => this.#show(row),
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getAgent>): Promise<Output<typeof getAgent>> {
    const agentId = toUuid('agent', input.params.id);
    return this.work.read(ctx, async (transaction) =>
      this.#show(await readAgent(transaction, ctx, agentId)),
    );
  }

  async revoke(
    ctx: TenantCtx,
    input: Input<typeof revokeAgent>,
  ): Promise<Output<typeof revokeAgent>> {
    const agentId = toUuid('agent', input.params.id);
    const reason = input.body.reason ?? null;
    const answer = await this.work.write(ctx, revokeAgent, input, async (transaction, note) => {
      await revoke(transaction, ctx, agentId, note, { reason, deleted: false });
      return this.#show(await readAgent(transaction, ctx, agentId));
    });
    this.#tell(ctx);
    return answer;
  }

  async delete(
    ctx: TenantCtx,
    input: Input<typeof deleteAgent>,
  ): Promise<Output<typeof deleteAgent>> {
    const agentId = toUuid('agent', input.params.id);
    await this.work.write(ctx, deleteAgent, input, async (transaction, note) => {
      await revoke(transaction, ctx, agentId, note, {
        reason: 'the agent was deleted',
        deleted: true,
      });
      return null;
    });
    this.#tell(ctx);
    return null;
  }

  #tell({ organizationId }: TenantCtx): void {
    this.bus.nudge('revocations');
    this.bus.nudge('thresholds', organizationId);
  }

  #show(row: AgentRow) {
    return showAgent(row, this.config.KEYSTEAD_OFFLINE_AFTER_SECONDS);
  }
}

async function revoke(
  transaction: Transaction,
  ctx: TenantCtx,
  agentId: string,
  note: Note,
  how: { reason: string | null; deleted: boolean },
): Promise<void> {
  const before = await readAgent(transaction, ctx, agentId);
  const { organizationId } = ctx;
  await revokeAgentsWhere(transaction, organizationId, sql`id = ${agentId}::uuid`, how);
  note({
    target: { kind: 'agent', id: toId('agent', agentId), name: before.name },
    changes: { vault: before.vault_name, ...(how.reason === null ? {} : { reason: how.reason }) },
  });
}

async function readAgent(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  agentId: string,
): Promise<AgentRow> {
  const [row] = await readAgents(transaction, organizationId, {
    where: sql`a.id = ${agentId}::uuid`,
    order: sql`a.id`,
    take: 1,
  });
  if (!row) throw notFound();
  return row;
}

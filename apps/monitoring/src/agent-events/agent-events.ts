/** What agents report of their own life: kept once, however often it is sent. */
import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { RetainedEvent } from '@keystead/contracts/agent-link';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { listAgentEvents } from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

@Injectable()
export class AgentEvents {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  /** Answers after the commit; a replay changes nothing and is answered the same way. */
  async record(events: readonly RetainedEvent[]): Promise<{ recorded: number; known: number }> {
    if (events.length === 0) return { recorded: 0, known: 0 };
    const { count } = await this.database.acrossTenants('record-agent-events', (transaction) =>
      transaction.agentEvent.createMany({
        data: events.map((event) => ({
          organizationId: event.organizationId,
          id: newUuid(),
          agentId: event.agentId,
          bootId: event.bootId,
          sequence: BigInt(event.sequence),
          kind: event.kind,
          occurredAt: new Date(event.occurredAtMs),
          details: event.details,
          signature: event.signature,
        })),
        skipDuplicates: true,
      }),
    );
    return { recorded: count, known: events.length - count };
  }

  async list(
    ctx: TenantCtx,
    input: Input<typeof listAgentEvents>,
  ): Promise<Output<typeof listAgentEvents>> {
    const { organizationId } = ctx;
    const agentId = toUuid('agent', input.params.id);
    return this.work.read(ctx, async (transaction) => {
      const agent = await transaction.agent.findFirst({
        where: { organizationId, id: agentId, deletedAt: null },
        select: { id: true },
      });
      if (!agent) throw notFound();
      return this.listing.page(ctx, `${listAgentEvents.id}:${agentId}`, input.query, {
        fields: { receivedAt: { read: asDate } },
        where: {
          organizationId,
          agentId,
          ...(input.query.kind ? { kind: { in: input.query.kind } } : {}),
        },
        fetch: (page) => transaction.agentEvent.findMany(page),
        valueOf: (row) => row.receivedAt,
        idOf: (row) => row.id,
        toItem: (row) => ({
          id: toId('agentEvent', row.id),
          kind: row.kind as 'boot',
          occurredAt: row.occurredAt.toISOString(),
          receivedAt: row.receivedAt.toISOString(),
          bootId: row.bootId,
          sequence: Number(row.sequence),
          details: row.details as Record<string, string | number | boolean | null>,
        }),
      });
    });
  }
}

import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import {
  type AlertKind,
  acknowledgeAlert,
  type getAlert,
  listAlerts,
  muteAlert,
  type Severity,
} from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { writeLiveEvents } from '../live-events/live-event-rows.ts';

const include = {
  vault: { select: { id: true, name: true } },
  agents: { select: { agentId: true, agentName: true }, orderBy: { agentName: 'asc' } },
} as const;

type Row = Awaited<ReturnType<typeof find>>;

@Injectable()
export class Alerts {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Bus) private readonly bus: Bus,
  ) {}

  async list(ctx: TenantCtx, input: Input<typeof listAlerts>): Promise<Output<typeof listAlerts>> {
    const { organizationId } = ctx;
    const { status, kind, severity, vaultId, since, until } = input.query;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listAlerts.id, input.query, {
        fields: {
          openedAt: { read: asDate },
          resolvedAt: { read: asDate, nullable: true },
          severity: { field: 'severityRank' },
          kind: {},
          status: {},
          agentCount: {},
          acknowledgedAt: { read: asDate, nullable: true },
          vault: { field: 'vault.name' },
        },
        where: {
          organizationId,
          ...(status ? { status: { in: status } } : {}),
          ...(kind ? { kind: { in: kind } } : {}),
          ...(severity ? { severity: { in: severity } } : {}),
          ...(vaultId ? { vaultId: toUuid('vault', vaultId) } : {}),
          ...(since || until
            ? { openedAt: { ...(since ? { gte: since } : {}), ...(until ? { lt: until } : {}) } }
            : {}),
        },
        fetch: (page) => transaction.alert.findMany({ ...page, include }),
        valueOf: sortValue,
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getAlert>): Promise<Output<typeof getAlert>> {
    return this.work.read(ctx, async (transaction) =>
      show(await find(transaction, ctx, input.params.id)),
    );
  }

  async acknowledge(
    ctx: TenantCtx,
    input: Input<typeof acknowledgeAlert>,
  ): Promise<Output<typeof acknowledgeAlert>> {
    const answer = await this.work.write(
      ctx,
      acknowledgeAlert,
      input,
      async (transaction, note) => {
        const row = await find(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        note({ target: { kind: 'alert', id: input.params.id, name: row.summary } });
        if (row.status !== 'open') return show(row);
        return this.#update(transaction, ctx, row, {
          status: 'acknowledged',
          acknowledgedAt: new Date(),
          acknowledgedBy: ctx.actor.name,
        });
      },
    );
    this.bus.nudge('liveEvents', ctx.organizationId);
    return answer;
  }

  async mute(ctx: TenantCtx, input: Input<typeof muteAlert>): Promise<Output<typeof muteAlert>> {
    const { seconds } = input.body;
    const answer = await this.work.write(ctx, muteAlert, input, async (transaction, note) => {
      const row = await find(transaction, ctx, input.params.id);
      checkMatch(input.ifMatch, row.revision, false);
      const mutedUntil = seconds === 0 ? null : new Date(Date.now() + seconds * 1_000);
      note({
        target: { kind: 'alert', id: input.params.id, name: row.summary },
        changes: { mutedUntil: { from: row.mutedUntil, to: mutedUntil } },
      });
      // Mute is about the vault: it holds for every alert that is open about it.
      await transaction.alert.updateMany({
        where: {
          organizationId: ctx.organizationId,
          vaultId: row.vaultId,
          OR: [{ status: { not: 'resolved' } }, { mutedUntil: { gt: new Date() } }],
        },
        data: { mutedUntil },
      });
      return this.#update(transaction, ctx, row, { mutedUntil });
    });
    this.bus.nudge('liveEvents', ctx.organizationId);
    return answer;
  }

  async #update(
    transaction: Transaction,
    { organizationId }: TenantCtx,
    row: Row,
    data: Record<string, unknown>,
  ): Promise<Output<typeof getAlert>> {
    const updated = await transaction.alert.update({
      where: { organizationId_id: { organizationId, id: row.id } },
      data: { ...data, revision: { increment: 1 } },
      include,
    });
    await writeLiveEvents(transaction, [
      {
        organizationId,
        type: 'alert.updated',
        at: new Date(),
        data: {
          id: toId('alert', row.id),
          status: updated.status,
          vault: { id: toId('vault', row.vaultId), name: row.vault.name },
        },
      },
    ]);
    return show(updated);
  }
}

function sortValue(row: Row, sort: string) {
  if (sort === 'severity') return row.severityRank;
  if (sort === 'vault') return row.vault.name;
  return row[sort as 'openedAt' | 'acknowledgedAt' | 'kind' | 'agentCount'];
}

async function find(transaction: Transaction, { organizationId }: TenantCtx, id: string) {
  const row = await transaction.alert.findUnique({
    where: { organizationId_id: { organizationId, id: toUuid('alert', id) } },
    include,
  });
  if (!row) throw notFound();
  return row;
}

function show(row: Row): Output<typeof getAlert> {
  return {
    id: toId('alert', row.id),
    kind: row.kind as AlertKind,
    severity: row.severity as Severity,
    status: row.status as 'open',
    vault: { id: toId('vault', row.vault.id), name: row.vault.name },
    agents: row.agents.map((agent) => ({
      id: toId('agent', agent.agentId),
      name: agent.agentName,
    })),
    agentCount: row.agentCount,
    reasons: row.reasons,
    summary: row.summary,
    openedAt: row.openedAt.toISOString(),
    resolvedAt: row.resolvedAt?.toISOString() ?? null,
    acknowledgedAt: row.acknowledgedAt?.toISOString() ?? null,
    acknowledgedBy: row.acknowledgedBy,
    mutedUntil: row.mutedUntil?.toISOString() ?? null,
    flapping: row.flapping,
    resolves: row.resolvesId ? toId('alert', row.resolvesId) : null,
    outageSeconds: row.outageSeconds,
    etag: etagOf(row.revision),
  };
}

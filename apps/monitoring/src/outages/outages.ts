import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import { type getOutage, listOutages } from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import { Inject, Injectable } from '@nestjs/common';

const include = {
  agent: { select: { id: true, name: true } },
  vault: { select: { id: true, name: true } },
} as const;

interface Row {
  id: string;
  silentSince: Date;
  openedAt: Date;
  closedAt: Date | null;
  closedBy: string | null;
  agent: { id: string; name: string };
  vault: { id: string; name: string };
}

@Injectable()
export class Outages {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listOutages>,
  ): Promise<Output<typeof listOutages>> {
    const { organizationId } = ctx;
    const { status, agentId, vaultId, since, until } = input.query;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listOutages.id, input.query, {
        fields: {
          openedAt: { read: asDate },
          silentSince: { read: asDate },
          closedAt: { read: asDate, nullable: true },
          agent: { field: 'agent.name' },
          vault: { field: 'vault.name' },
        },
        where: {
          organizationId,
          ...(status === 'open' ? { closedAt: null } : {}),
          ...(status === 'closed' ? { closedAt: { not: null } } : {}),
          ...(agentId ? { agentId: toUuid('agent', agentId) } : {}),
          ...(vaultId ? { vaultId: toUuid('vault', vaultId) } : {}),
          ...(since || until
            ? { openedAt: { ...(since ? { gte: since } : {}), ...(until ? { lt: until } : {}) } }
            : {}),
        },
        fetch: (page) => transaction.outage.findMany({ ...page, include }),
        valueOf: (row, sort) =>
          sort === 'agent' || sort === 'vault' ? row[sort].name : row[sort as 'openedAt'],
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getOutage>): Promise<Output<typeof getOutage>> {
    return this.work.read(ctx, async (transaction) => {
      const row = await transaction.outage.findUnique({
        where: {
          organizationId_id: {
            organizationId: ctx.organizationId,
            id: toUuid('outage', input.params.id),
          },
        },
        include,
      });
      if (!row) throw notFound();
      return show(row);
    });
  }
}

function show(row: Row): Output<typeof getOutage> {
  const end = row.closedAt ?? new Date();
  return {
    id: toId('outage', row.id),
    agent: { id: toId('agent', row.agent.id), name: row.agent.name },
    vault: { id: toId('vault', row.vault.id), name: row.vault.name },
    status: row.closedAt ? 'closed' : 'open',
    silentSince: row.silentSince.toISOString(),
    openedAt: row.openedAt.toISOString(),
    closedAt: row.closedAt?.toISOString() ?? null,
    closedBy: row.closedBy as 'heartbeat' | null,
    lengthSeconds: Math.max(0, (end.getTime() - row.silentSince.getTime()) / 1_000),
  };
}

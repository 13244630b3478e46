import { differences } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import {
  type AlertKind,
  createAlertRule,
  deleteAlertRule,
  type getAlertRule,
  listAlertRules,
  type Severity,
  updateAlertRule,
} from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

type Row = Awaited<ReturnType<typeof find>>;

@Injectable()
export class AlertRules {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listAlertRules>,
  ): Promise<Output<typeof listAlertRules>> {
    const { enabled } = input.query;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listAlertRules.id, input.query, {
        fields: {
          createdAt: { read: asDate },
          updatedAt: { read: asDate },
          name: {},
          action: {},
        },
        where: {
          organizationId: ctx.organizationId,
          ...(enabled ? { enabled: enabled === 'true' } : {}),
        },
        fetch: (page) => transaction.alertRule.findMany(page),
        valueOf: (row, sort) => row[sort as 'name'],
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getAlertRule>) {
    return this.work.read(ctx, async (transaction) =>
      show(await find(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createAlertRule>) {
    const { organizationId } = ctx;
    return this.work.write(ctx, createAlertRule, input, async (transaction, note) => {
      const count = await transaction.alertRule.count({ where: { organizationId } });
      if (count >= limits.alertRulesPerOrganization) {
        throw new ServiceError('limit_reached', { detail: `at most ${count} alert rules` });
      }
      const row = await transaction.alertRule.create({
        data: { organizationId, id: newUuid(), ...input.body },
      });
      note({ target: { kind: 'alertRule', id: toId('alertRule', row.id), name: row.name } });
      return show(row);
    });
  }

  async update(ctx: TenantCtx, input: Input<typeof updateAlertRule>) {
    const { organizationId } = ctx;
    return this.work.write(ctx, updateAlertRule, input, async (transaction, note) => {
      const row = await find(transaction, ctx, input.params.id);
      checkMatch(input.ifMatch, row.revision, false);
      const updated = await transaction.alertRule.update({
        where: { organizationId_id: { organizationId, id: row.id } },
        data: { ...input.body, updatedAt: new Date(), revision: { increment: 1 } },
      });
      note({
        target: { kind: 'alertRule', id: input.params.id, name: updated.name },
        changes: differences(row, input.body),
      });
      return show(updated);
    });
  }

  async remove(ctx: TenantCtx, input: Input<typeof deleteAlertRule>) {
    const { organizationId } = ctx;
    return this.work.write(ctx, deleteAlertRule, input, async (transaction, note) => {
      const row = await find(transaction, ctx, input.params.id);
      checkMatch(input.ifMatch, row.revision, false);
      await transaction.alertRule.delete({
        where: { organizationId_id: { organizationId, id: row.id } },
      });
      note({ target: { kind: 'alertRule', id: input.params.id, name: row.name } });
      return null;
    });
  }
}

async function find(transaction: Transaction, { organizationId }: TenantCtx, id: string) {
  const row = await transaction.alertRule.findUnique({
    where: { organizationId_id: { organizationId, id: toUuid('alertRule', id) } },
  });
  if (!row) throw notFound();
  return row;
}

function show(row: Row): Output<typeof getAlertRule> {
  return {
    id: toId('alertRule', row.id),
    name: row.name,
    events: row.events as AlertKind[],
    vaultTags: row.vaultTags,
    action: row.action as 'raise',
    severity: row.severity as Severity | null,
    enabled: row.enabled,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

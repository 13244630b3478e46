import { differences } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import {
  createThresholdRule,
  deleteThresholdRule,
  type getThresholdRule,
  listThresholdRules,
  updateThresholdRule,
} from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';

type Row = Awaited<ReturnType<typeof find>>;

@Injectable()
export class ThresholdRules {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Bus) private readonly bus: Bus,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listThresholdRules>,
  ): Promise<Output<typeof listThresholdRules>> {
    const { tag } = input.query;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listThresholdRules.id, input.query, {
        fields: {
          tag: {},
          offlineAfterSeconds: {},
          createdAt: { read: asDate },
          updatedAt: { read: asDate },
        },
        where: { organizationId: ctx.organizationId, ...(tag ? { tag } : {}) },
        fetch: (page) => transaction.thresholdRule.findMany(page),
        valueOf: (row, sort) => row[sort as 'tag'],
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getThresholdRule>) {
    return this.work.read(ctx, async (transaction) =>
      show(await find(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createThresholdRule>) {
    const { organizationId } = ctx;
    const answer = await this.work
      .write(ctx, createThresholdRule, input, async (transaction, note) => {
        const count = await transaction.thresholdRule.count({ where: { organizationId } });
        if (count >= limits.thresholdRulesPerOrganization) {
          throw new ServiceError('limit_reached', { detail: `at most ${count} threshold rules` });
        }
        const row = await transaction.thresholdRule.create({
          data: { organizationId, id: newUuid(), ...input.body },
        });
        note({
          target: { kind: 'thresholdRule', id: toId('thresholdRule', row.id), name: row.tag },
          changes: { offlineAfterSeconds: { from: null, to: row.offlineAfterSeconds } },
        });
        return show(row);
      })
      .catch((error: unknown) => {
        if (!isUniqueViolation(error)) throw error;
        throw new ServiceError('conflict', { detail: `there is a rule for ${input.body.tag}` });
      });
    this.bus.nudge('thresholds', organizationId);
    return answer;
  }

  async update(ctx: TenantCtx, input: Input<typeof updateThresholdRule>) {
    const { organizationId } = ctx;
    const answer = await this.work.write(
      ctx,
      updateThresholdRule,
      input,
      async (transaction, note) => {
        const row = await find(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        const updated = await transaction.thresholdRule.update({
          where: { organizationId_id: { organizationId, id: row.id } },
          data: { ...input.body, updatedAt: new Date(), revision: { increment: 1 } },
        });
        note({
          target: { kind: 'thresholdRule', id: input.params.id, name: row.tag },
          changes: differences(row, input.body),
        });
        return show(updated);
      },
    );
    this.bus.nudge('thresholds', organizationId);
    return answer;
  }

  async remove(ctx: TenantCtx, input: Input<typeof deleteThresholdRule>) {
    const { organizationId } = ctx;
    const answer = await this.work.write(
      ctx,
      deleteThresholdRule,
      input,
      async (transaction, note) => {
        const row = await find(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        await transaction.thresholdRule.delete({
          where: { organizationId_id: { organizationId, id: row.id } },
        });
        note({
          target: { kind: 'thresholdRule', id: input.params.id, name: row.tag },
          changes: { offlineAfterSeconds: { from: row.offlineAfterSeconds, to: null } },
        });
        return null;
      },
    );
    this.bus.nudge('thresholds', organizationId);
    return answer;
  }
}

async function find(transaction: Transaction, { organizationId }: TenantCtx, id: string) {
  const row = await transaction.thresholdRule.findUnique({
    where: { organizationId_id: { organizationId, id: toUuid('thresholdRule', id) } },
  });
  if (!row) throw notFound();
  return row;
}

function show(row: Row): Output<typeof getThresholdRule> {
  return {
    id: toId('thresholdRule', row.id),
    tag: row.tag,
    offlineAfterSeconds: row.offlineAfterSeconds,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

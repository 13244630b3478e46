import { differences } from '@keystead/access/audit';
import { Listing } from '@keystead/access/listing';
import { checkMatch } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  createVault,
  deleteVault,
  type getVault,
  listVaults,
  updateVault,
} from '@keystead/contracts/registry';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
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
import { revokeAgentsWhere } from '../agents/revocation.ts';
import { CONFIG, type Config } from '../config.ts';
import { readVault, readVaults, showVault, type VaultRow } from './vault-rows.ts';

const sortColumns = {
  name: { column: sql`v.name`, type: 'text' },
  createdAt: { column: sql`v.created_at`, type: 'timestamptz' },
  updatedAt: { column: sql`v.updated_at`, type: 'timestamptz' },
} as const;

const sortValues: Record<string, (row: VaultRow) => Date | string> = {
  name: (row) => row.name,
  createdAt: (row) => row.created_at,
  updatedAt: (row) => row.updated_at,
};

@Injectable()
export class Vaults {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async list(ctx: TenantCtx, input: Input<typeof listVaults>): Promise<Output<typeof listVaults>> {
    const { query } = input;
    const conditions: Sql[] = [];
    if (query.name !== undefined) {
      conditions.push(sql`strpos(lower(v.name), lower(${query.name}::text)) > 0`);
    }
    if (query.tag) conditions.push(sql`v.tags && ${query.tag}::text[]`);
    return this.work.read(ctx, (transaction) =>
      this.listing.walk<VaultRow, Output<typeof getVault>>(ctx, listVaults.id, query, {
        fetch: ({ sort, descending, position, take }) => {
          const keyset: SqlKeyset = {
            ...sortColumns[sort as keyof typeof sortColumns],
            id: sql`v.id`,
            descending,
            nullable: false,
          };
          return readVaults(transaction, ctx.organizationId, {
            where: allOf([...conditions, afterPosition(keyset, position)]),
            order: inOrder(keyset),
            take,
            statuses: query.status,
          });
        },
        valueOf: (row, sort) => sortValues[sort]?.(row) ?? null,
        idOf: (row) => row.id,
        toItem: (row) => this.#show(row),
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getVault>): Promise<Output<typeof getVault>> {
    const vaultId = toUuid('vault', input.params.id);
    return this.work.read(ctx, (transaction) => this.#read(transaction, ctx, vaultId));
  }

  async create(
    ctx: TenantCtx,
    input: Input<typeof createVault>,
  ): Promise<Output<typeof createVault>> {
    const { organizationId } = ctx;
    const { name, tags, offlineAfterSeconds } = input.body;
    const vaultId = newUuid();
    const created = await this.work
      .write(ctx, createVault, input, async (transaction, note) => {
        await requireRoomForVault(transaction, organizationId);
        await transaction.vault.create({
          data: { organizationId, id: vaultId, name, tags, offlineAfterSeconds },
        });
        note({
          target: { kind: 'vault', id: toId('vault', vaultId), name },
          changes: { name, tags, offlineAfterSeconds },
        });
        return this.#read(transaction, ctx, vaultId);
      })
      .catch(nameTaken);
    this.bus.nudge('thresholds', ctx.organizationId);
    return created;
  }

  async update(
    ctx: TenantCtx,
    input: Input<typeof updateVault>,
  ): Promise<Output<typeof updateVault>> {
    const { organizationId } = ctx;
    const vaultId = toUuid('vault', input.params.id);
    const { body } = input;
    const updated = await this.work
      .write(ctx, updateVault, input, async (transaction, note) => {
        const before = await lockVault(transaction, organizationId, vaultId);
        checkMatch(input.ifMatch, before.revision, true);
        const { maintenanceUntil, ...plain } = body;
        const changes = differences<Record<string, unknown>>(
          {
            name: before.name,
            tags: before.tags,
            offlineAfterSeconds: before.offline_after_seconds,
            maintenanceUntil: before.maintenance_until?.toISOString() ?? null,
          },
          {
            ...plain,
            ...(maintenanceUntil === undefined
              ? {}
              : { maintenanceUntil: maintenanceUntil && new Date(maintenanceUntil).toISOString() }),
          },
        );
        await transaction.vault.update({
          where: { organizationId_id: { organizationId, id: vaultId } },
          data: {
            ...(body.name === undefined ? {} : { name: body.name }),
            ...(body.tags === undefined ? {} : { tags: body.tags }),
            ...(body.offlineAfterSeconds === undefined
              ? {}
              : { offlineAfterSeconds: body.offlineAfterSeconds }),
            ...(maintenanceUntil === undefined
              ? {}
              : { maintenanceUntil: maintenanceUntil && new Date(maintenanceUntil) }),
            updatedAt: before.now,
            revision: { increment: 1 },
          },
        });
        note({
          target: { kind: 'vault', id: input.params.id, name: body.name ?? before.name },
          changes,
        });
        return this.#read(transaction, ctx, vaultId);
      })
      .catch(nameTaken);
    this.bus.nudge('thresholds', ctx.organizationId);
    return updated;
  }

  /** Its agents go with it; their outages and alerts stay readable, so the rows stay. */
  async delete(
    ctx: TenantCtx,
    input: Input<typeof deleteVault>,
  ): Promise<Output<typeof deleteVault>> {
    const { organizationId } = ctx;
    const vaultId = toUuid('vault', input.params.id);
    await this.work.write(ctx, deleteVault, input, async (transaction, note) => {
      const vault = await lockVault(transaction, organizationId, vaultId);
      checkMatch(input.ifMatch, vault.revision, false);
      await transaction.vault.update({
        where: { organizationId_id: { organizationId, id: vaultId } },
        data: { deletedAt: vault.now, updatedAt: vault.now, revision: { increment: 1 } },
      });
      const agents = await revokeAgentsWhere(
        transaction,
        organizationId,
        sql`vault_id = ${vaultId}::uuid`,
        { reason: 'the vault was deleted', deleted: true },
      );
      note({
        target: { kind: 'vault', id: input.params.id, name: vault.name },
        changes: { agents },
      });
      return null;
    });
    this.bus.nudge('revocations');
    this.bus.nudge('thresholds', ctx.organizationId);
    return null;
  }

  async #read(transaction: Transaction, { organizationId }: TenantCtx, vaultId: string) {
    const row = await readVault(transaction, organizationId, vaultId);
    if (!row) throw notFound();
    return this.#show(row);
  }

  #show(row: VaultRow) {
    return showVault(row, this.config.KEYSTEAD_OFFLINE_AFTER_SECONDS);
  }
}

/** @throws ServiceError `limit_reached` */
export async function requireRoomForVault(
  transaction: Transaction,
  organizationId: string,
): Promise<void> {
  const count = await transaction.vault.count({ where: { organizationId, deletedAt: null } });
  if (count >= limits.vaultsPerOrganization) {
    throw new ServiceError('limit_reached', {
      detail: `an organization has at most ${limits.vaultsPerOrganization} vaults`,
    });
  }
}

async function lockVault(transaction: Transaction, organizationId: string, vaultId: string) {
  const [row] = await transaction.$queryRaw<
    {
      name: string;
      tags: string[];
      offline_after_seconds: number | null;
      maintenance_until: Date | null;
      revision: number;
      now: Date;
    }[]
  >`
    select name, tags, offline_after_seconds, maintenance_until, revision, clock_timestamp() as now
    from registry.vault
    where organization_id = ${organizationId}::uuid and id = ${vaultId}::uuid
      and deleted_at is null
    for no key update`;
  if (!row) throw notFound();
  return row;
}

function nameTaken(error: unknown): never {
  if (isUniqueViolation(error)) {
    throw new ServiceError('conflict', { detail: 'another vault has this name' });
  }
  throw error;
}

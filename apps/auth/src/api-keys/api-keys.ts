/** API keys: credentials of an organization for programs. Only the hash of a key is stored. */
import { newCredential } from '@keystead/access/credential';
import { asDate, Listing } from '@keystead/access/listing';
import { personBehind } from '@keystead/access/person-behind';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import { createApiKey, listApiKeys, revokeApiKey } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import { mayGrant, role as roleSchema } from '@keystead/contracts/permissions';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { Refusals } from '../refusals/refusals.ts';

@Injectable()
export class ApiKeys {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Refusals) private readonly refusals: Refusals,
  ) {}

  async list(
    ctx: TenantCtx,
    { query }: Input<typeof listApiKeys>,
  ): Promise<Output<typeof listApiKeys>> {
    const { organizationId } = ctx;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listApiKeys.id, query, {
        fields: {
          createdAt: { read: asDate },
          name: {},
          role: {},
          expiresAt: { read: asDate, nullable: true },
          lastUsedAt: { read: asDate, nullable: true },
          revokedAt: { read: asDate, nullable: true },
        },
        where: {
          organizationId,
          ...(query.role ? { role: { in: query.role } } : {}),
          ...(query.revoked === undefined
            ? {}
            : { revokedAt: query.revoked === 'true' ? { not: null } : null }),
        },
        fetch: (page) => transaction.apiKey.findMany(page),
        valueOf: (row, sort) => row[sort as 'createdAt' | 'name' | 'role' | 'expiresAt'],
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async create(
    ctx: TenantCtx,
    input: Input<typeof createApiKey>,
  ): Promise<Output<typeof createApiKey>> {
    const { organizationId } = ctx;
    const { name, role, ttlSeconds } = input.body;
    return this.refusals.watch(ctx, createApiKey, { changes: { name, role } }, () =>
      this.work.write(ctx, createApiKey, input, async (transaction, note) => {
        if (!mayGrant(roleSchema.parse(ctx.role), role)) {
          throw new ServiceError('permission_denied', {
            detail: `only an owner makes a key with the role ${role}`,
          });
        }
        const now = new Date();
        const living = await transaction.apiKey.count({
          where: {
            organizationId,
            revokedAt: null,
            OR: [{ expiresAt: null }, { expiresAt: { gt: now } }],
          },
        });
        if (living >= limits.apiKeysPerOrganization) {
          throw new ServiceError('limit_reached', {
            detail: `an organization has at most ${limits.apiKeysPerOrganization} API keys`,
          });
        }
        const credential = newCredential('apiKey');
        const row = await transaction.apiKey.create({
          data: {
            organizationId,
            id: newUuid(),
            name,
            role,
            madeById: await personBehind(transaction, ctx),
            prefix: credential.prefix,
            hash: bytes(credential.hash),
            createdAt: now,
            expiresAt: ttlSeconds === null ? null : new Date(now.getTime() + ttlSeconds * 1_000),
          },
        });
        note({
          target: { kind: 'apiKey', id: toId('apiKey', row.id), name },
          changes: { role: { from: null, to: role }, expiresAt: { from: null, to: row.expiresAt } },
        });
        return { ...show(row), key: credential.text };
      }),
    );
  }

  async revoke(ctx: TenantCtx, input: Input<typeof revokeApiKey>): Promise<null> {
    const { organizationId } = ctx;
    const id = toUuid('apiKey', input.params.id);
    return this.work.write(ctx, revokeApiKey, input, async (transaction, note) => {
      const row = await find(transaction, organizationId, id);
      await transaction.apiKey.updateMany({
        where: { organizationId, id, revokedAt: null },
        data: { revokedAt: new Date() },
      });
      note({ target: { kind: 'apiKey', id: input.params.id, name: row.name } });
      return null;
    });
  }
}

async function find(transaction: Transaction, organizationId: string, id: string) {
  const row = await transaction.apiKey.findUnique({
    where: { organizationId_id: { organizationId, id } },
  });
  if (!row) throw notFound();
  return row;
}

function show(row: Awaited<ReturnType<typeof find>>) {
  return {
    id: toId('apiKey', row.id),
    name: row.name,
    role: roleSchema.parse(row.role),
    prefix: row.prefix,
    createdAt: row.createdAt.toISOString(),
    expiresAt: row.expiresAt?.toISOString() ?? null,
    lastUsedAt: row.lastUsedAt?.toISOString() ?? null,
    revokedAt: row.revokedAt?.toISOString() ?? null,
  };
}

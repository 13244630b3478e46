import { newCredential } from '@keystead/access/credential';
import { Listing } from '@keystead/access/listing';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  createEnrollmentToken,
  type enrollmentToken,
  listEnrollmentTokens,
  revokeEnrollmentToken,
} from '@keystead/contracts/registry';
import type { Transaction } from '@keystead/database/database';
import {
  afterPosition,
  allOf,
  inOrder,
  nothing,
  type Sql,
  type SqlKeyset,
  sql,
} from '@keystead/database/sql';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { CONFIG, type Config } from '../config.ts';
import { AuthorityKeeper } from '../issuing/authority-keeper.ts';
import { enrollCommand } from './enroll-command.ts';
import { tokenStatusOf } from './token-status.ts';

interface TokenRow {
  id: string;
  name: string;
  prefix: string;
  vault_name: string | null;
  tags: string[];
  max_uses: number;
  uses: number;
  created_at: Date;
  expires_at: Date;
  revoked_at: Date | null;
  now: Date;
}

const sortColumns = {
  createdAt: { column: sql`t.created_at`, type: 'timestamptz' },
  name: { column: sql`t.name`, type: 'text' },
  expiresAt: { column: sql`t.expires_at`, type: 'timestamptz' },
} as const;

const sortValues: Record<string, (row: TokenRow) => Date | string> = {
  createdAt: (row) => row.created_at,
  name: (row) => row.name,
  expiresAt: (row) => row.expires_at,
};

// As `tokenStatusOf` decides.
const statusColumn = sql`
  case
    when t.revoked_at is not null then 'revoked'
    when t.uses >= t.max_uses then 'used_up'
    when t.expires_at <= statement_timestamp() then 'expired'
    else 'active'
  end`;

@Injectable()
export class EnrollmentTokens {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(AuthorityKeeper) private readonly authority: AuthorityKeeper,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listEnrollmentTokens>,
  ): Promise<Output<typeof listEnrollmentTokens>> {
    const { query } = input;
    const inState = query.status ? [sql`${statusColumn} = ${query.status}`] : [];
    return this.work.read(ctx, (transaction) =>
      this.listing.walk<TokenRow, z.input<typeof enrollmentToken>>(
        ctx,
        listEnrollmentTokens.id,
        query,
        {
          fetch: ({ sort, descending, position, take }) => {
            const keyset: SqlKeyset = {
              ...sortColumns[sort as keyof typeof sortColumns],
              id: sql`t.id`,
              descending,
              nullable: false,
            };
            return readTokens(transaction, ctx.organizationId, {
              where: allOf([...inState, afterPosition(keyset, position)]),
              order: inOrder(keyset),
              take,
            });
          },
          valueOf: (row, sort) => sortValues[sort]?.(row) ?? null,
          idOf: (row) => row.id,
          toItem: showToken,
        },
      ),
    );
  }

  /** The token itself is in this answer and nowhere else: its hash is stored. */
  async create(
    ctx: TenantCtx,
    input: Input<typeof createEnrollmentToken>,
  ): Promise<Output<typeof createEnrollmentToken>> {
    const { organizationId } = ctx;
    const { name, maxUses, ttlSeconds, vault, tags } = input.body;
    const { fingerprint } = this.authority.current();
    return this.work.write(ctx, createEnrollmentToken, input, async (transaction, note) => {
      await requireRoomForToken(transaction, organizationId);
      const tokenId = newUuid();
      const credential = newCredential('enrollmentToken');
      await transaction.$executeRaw`
        insert into registry.enrollment_token
          (organization_id, id, name, prefix, hash, vault_name, tags, max_uses, expires_at)
        values (${organizationId}::uuid, ${tokenId}::uuid, ${name}, ${credential.prefix},
          ${bytes(credential.hash)}, ${vault}, ${tags}::text[], ${maxUses},
          clock_timestamp() + make_interval(secs => ${ttlSeconds}))`;
      note({
        target: { kind: 'enrollmentToken', id: toId('enrollmentToken', tokenId), name },
        changes: { name, maxUses, ttlSeconds, vault, tags },
      });
      const row = await readToken(transaction, organizationId, tokenId);
      const endpoint = this.config.KEYSTEAD_AGENT_ENDPOINT;
      return {
        ...showToken(row),
        token: credential.text,
        caFingerprint: fingerprint,
        agentEndpoint: endpoint,
        command: enrollCommand({
          endpoint,
          token: credential.text,
          caFingerprint: fingerprint,
          vaultName: vault,
        }),
      };
    });
  }

  async revoke(
    ctx: TenantCtx,
    input: Input<typeof revokeEnrollmentToken>,
  ): Promise<Output<typeof revokeEnrollmentToken>> {
    const { organizationId } = ctx;
    const tokenId = toUuid('enrollmentToken', input.params.id);
    return this.work.write(ctx, revokeEnrollmentToken, input, async (transaction, note) => {
      const row = await readToken(transaction, organizationId, tokenId);
      await transaction.$executeRaw`
        update registry.enrollment_token set revoked_at = clock_timestamp()
        where organization_id = ${organizationId}::uuid and id = ${tokenId}::uuid
          and revoked_at is null`;
      note({ target: { kind: 'enrollmentToken', id: input.params.id, name: row.name } });
      return null;
    });
  }
}

/** Only tokens that still open something count; a duty removes the others in time. */
async function requireRoomForToken(
  transaction: Transaction,
  organizationId: string,
): Promise<void> {
  const rows = await transaction.$queryRaw<{ active: number }[]>`
    select count(*)::int as active from registry.enrollment_token t
    where t.organization_id = ${organizationId}::uuid and ${statusColumn} = 'active'`;
  if ((rows[0]?.active ?? 0) >= limits.enrollmentTokensPerOrganization) {
    throw new ServiceError('limit_reached', {
      detail: `an organization has at most ${limits.enrollmentTokensPerOrganization} active enrolment tokens`,
    });
  }
}

function readTokens(
  transaction: Transaction,
  organizationId: string,
  page: { where: Sql; order: Sql | undefined; take: number },
): Promise<TokenRow[]> {
  return transaction.$queryRaw<TokenRow[]>`
    select t.id, t.name, t.prefix, t.vault_name, t.tags, t.max_uses, t.uses, t.created_at,
      t.expires_at, t.revoked_at, statement_timestamp() as now
    from registry.enrollment_token t
    where t.organization_id = ${organizationId}::uuid and ${page.where}
    ${page.order ? sql`order by ${page.order}` : nothing} limit ${page.take}`;
}

async function readToken(
  transaction: Transaction,
  organizationId: string,
  tokenId: string,
): Promise<TokenRow> {
  const [row] = await readTokens(transaction, organizationId, {
    where: sql`t.id = ${tokenId}::uuid`,
    order: undefined,
    take: 1,
  });
  if (!row) throw notFound();
  return row;
}

function showToken(row: TokenRow): z.input<typeof enrollmentToken> {
  return {
    id: toId('enrollmentToken', row.id),
    name: row.name,
    prefix: row.prefix,
    vault: row.vault_name,
    tags: row.tags,
    maxUses: row.max_uses,
    uses: row.uses,
    status: tokenStatusOf(
      {
        uses: row.uses,
        maxUses: row.max_uses,
        expiresAt: row.expires_at,
        revokedAt: row.revoked_at,
      },
      row.now,
    ),
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at.toISOString(),
    revokedAt: row.revoked_at?.toISOString() ?? null,
  };
}

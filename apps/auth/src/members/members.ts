/** Members of an organization and the invitations that are open. The row is what the guard reads. */
import { newCredential } from '@keystead/access/credential';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import { deleteMember, inviteMember, listMembers, updateMember } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import { mayGrant, type Role, role as roleSchema } from '@keystead/contracts/permissions';
import type { Transaction } from '@keystead/database/database';
import { enqueue } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { Refusals } from '../refusals/refusals.ts';
import { ruleOnMember } from './ownership.ts';

@Injectable()
export class Members {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Refusals) private readonly refusals: Refusals,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  async list(
    ctx: TenantCtx,
    { query }: Input<typeof listMembers>,
  ): Promise<Output<typeof listMembers>> {
    const { organizationId } = ctx;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listMembers.id, query, {
        fields: { createdAt: { read: asDate }, name: {}, email: {}, role: {} },
        where: {
          organizationId,
          ...(query.role ? { role: { in: query.role } } : {}),
          ...(query.email === undefined ? {} : { email: query.email }),
          ...(query.status === undefined
            ? {}
            : { personId: query.status === 'active' ? { not: null } : null }),
        },
        fetch: (page) => transaction.member.findMany(page),
        valueOf: (row, sort) => row[sort as 'createdAt' | 'name' | 'email' | 'role'],
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }

  async invite(
    ctx: TenantCtx,
    input: Input<typeof inviteMember>,
  ): Promise<Output<typeof inviteMember>> {
    const { organizationId } = ctx;
    const { email, name, role } = input.body;
    const wish = { email, role };
    const answer = await this.refusals.watch(ctx, inviteMember, { changes: wish }, () =>
      this.work.write(ctx, inviteMember, input, async (transaction, note) => {
        if (!mayGrant(roleOf(ctx), role)) throw notTheirs(role);
        const organization = await hold(transaction, organizationId);
        const now = new Date();
        const token = newCredential('invitation');
        const invitation = {
          name,
          role,
          invitationHash: bytes(token.hash),
          invitationExpiresAt: new Date(now.getTime() + limits.invitationTtlSeconds * 1_000),
        };
        const row = await this.#place(transaction, ctx, email, invitation, now);
        await enqueue(transaction, organizationId, 'mail.requested', {
          template: 'member.invitation',
          to: email,
          data: {
            organizationName: organization.name,
            invitedBy: ctx.actor.name,
            role,
            token: token.text,
          },
        });
        note({
          target: { kind: 'member', id: toId('member', row.id), name: email },
          changes: { role: { from: null, to: role } },
        });
        return show(row);
      }),
    );
    this.bus.nudge('notification');
    return answer;
  }

  /** A new row, or that of an invitation which ran out. */
  async #place(
    transaction: Transaction,
    ctx: TenantCtx,
    email: string,
    invitation: {
      name: string;
      role: Role;
      invitationHash: Uint8Array<ArrayBuffer>;
      invitationExpiresAt: Date;
    },
    now: Date,
  ) {
    const { organizationId } = ctx;
    const there = await transaction.member.findUnique({
      where: { organizationId_email: { organizationId, email } },
    });
    if (there?.personId) {
      throw new ServiceError('conflict', { detail: `${email} is a member already` });
    }
    if (there?.invitationExpiresAt && there.invitationExpiresAt > now) {
      throw new ServiceError('conflict', {
        detail: `${email} is invited already; take that invitation back to send another`,
      });
    }
    if (there) {
      if (!mayGrant(roleOf(ctx), roleSchema.parse(there.role))) throw notTheirs(there.role);
      return transaction.member.update({
        where: { organizationId_id: { organizationId, id: there.id } },
        data: { ...invitation, updatedAt: now, revision: { increment: 1 } },
      });
    }
    if ((await transaction.member.count({ where: { organizationId } })) >= most) {
      throw new ServiceError('limit_reached', {
        detail: `an organization has at most ${most} members and invitations`,
      });
    }
    return transaction.member.create({
      data: { ...invitation, organizationId, id: newUuid(), email, createdAt: now },
    });
  }

  async update(
    ctx: TenantCtx,
    input: Input<typeof updateMember>,
  ): Promise<Output<typeof updateMember>> {
    const { organizationId } = ctx;
    const id = toUuid('member', input.params.id);
    const { role } = input.body;
    const attempt = {
      target: { kind: 'member', id: input.params.id },
      changes: { role: { to: role } },
    };
    return this.refusals.watch(ctx, updateMember, attempt, () =>
      this.work.write(ctx, updateMember, input, async (transaction, note) => {
        await hold(transaction, organizationId);
        const before = await find(transaction, organizationId, id);
        checkMatch(input.ifMatch, before.revision, false);
        await rule(transaction, ctx, before, role);
        const row = await transaction.member.update({
          where: { organizationId_id: { organizationId, id } },
          data: { role, updatedAt: new Date(), revision: { increment: 1 } },
        });
        note({
          target: { kind: 'member', id: input.params.id, name: row.email },
          changes: { role: { from: before.role, to: role } },
        });
        return show(row);
      }),
    );
  }

  /** The sessions of the member go with the row. */
  async delete(ctx: TenantCtx, input: Input<typeof deleteMember>): Promise<null> {
    const { organizationId } = ctx;
    const id = toUuid('member', input.params.id);
    const attempt = { target: { kind: 'member', id: input.params.id } };
    return this.refusals.watch(ctx, deleteMember, attempt, () =>
      this.work.write(ctx, deleteMember, input, async (transaction, note) => {
        await hold(transaction, organizationId);
        const row = await find(transaction, organizationId, id);
        checkMatch(input.ifMatch, row.revision, false);
        await rule(transaction, ctx, row, 'removed');
        await transaction.member.delete({ where: { organizationId_id: { organizationId, id } } });
        note({
          target: { kind: 'member', id: input.params.id, name: row.email },
          changes: { role: { from: row.role, to: null } },
        });
        return null;
      }),
    );
  }
}

const most = limits.membersPerOrganization;
const roleOf = (ctx: TenantCtx) => roleSchema.parse(ctx.role);
const notTheirs = (role: string) =>
  new ServiceError('permission_denied', { detail: `this role may not hand out or take ${role}` });

/** Changes of members wait for each other: two owners cannot remove one another at once. */
async function hold(transaction: Transaction, organizationId: string): Promise<{ name: string }> {
  const [row] = await transaction.$queryRaw<{ name: string }[]>`
    select name from auth.organization
    where organization_id = ${organizationId}::uuid for no key update`;
  if (!row) throw notFound();
  return row;
}

async function find(transaction: Transaction, organizationId: string, id: string) {
  const row = await transaction.member.findUnique({
    where: { organizationId_id: { organizationId, id } },
  });
  if (!row) throw notFound();
  return row;
}

type Row = Awaited<ReturnType<typeof find>>;

async function rule(
  transaction: Transaction,
  ctx: TenantCtx,
  row: Row,
  wanted: Role | 'removed',
): Promise<void> {
  const { organizationId } = ctx;
  const otherOwners = await transaction.member.count({
    where: { organizationId, role: 'owner', personId: { not: null }, id: { not: row.id } },
  });
  const ruling = ruleOnMember({
    own: roleOf(ctx),
    current: roleSchema.parse(row.role),
    active: row.personId !== null,
    wanted,
    otherOwners,
  });
  if (ruling === 'not_theirs_to_give') throw notTheirs(wanted === 'removed' ? row.role : wanted);
  if (ruling === 'last_owner') {
    throw new ServiceError('unprocessable', { detail: 'an organization keeps at least one owner' });
  }
}

function show(row: Row) {
  return {
    id: toId('member', row.id),
    name: row.name,
    email: row.email,
    role: roleSchema.parse(row.role),
    status: row.personId === null ? ('invited' as const) : ('active' as const),
    createdAt: row.createdAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

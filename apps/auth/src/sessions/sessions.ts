/**
 * Sessions of people: a row, an access token of fifteen minutes that names it, and a refresh token
 * that works once. Showing a spent refresh token ends the session for everybody who holds a part.
 */
import { writeAudit } from '@keystead/access/audit';
import { InstallationKey } from '@keystead/access/sealing';
import { signSessionToken } from '@keystead/access/session-token';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import { createSession, deleteSession, me, refreshSession } from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import { permissionsOf, role as roleSchema } from '@keystead/contracts/permissions';
import { Database, type Transaction } from '@keystead/database/database';
import { SERVICE_KEYS } from '@keystead/messaging/bus-handlers';
import type { ServiceKeys } from '@keystead/messaging/service-token';
import { Inject, Injectable } from '@nestjs/common';
import { Passwords } from '../passwords/passwords.ts';
import { invalidCredentials, type KnownPerson, type Membership, People } from '../people/people.ts';
import { asPerson } from '../people/person-actor.ts';
import { hashRefreshToken, newRefreshToken, openRefreshToken } from './refresh-token.ts';
import { decideRefresh, sessionEnd } from './session-life.ts';

@Injectable()
export class Sessions {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(People) private readonly people: People,
    @Inject(Passwords) private readonly passwords: Passwords,
    @Inject(InstallationKey) private readonly key: InstallationKey,
    @Inject(SERVICE_KEYS) private readonly keys: Pick<ServiceKeys, 'privateKey'>,
  ) {}

  async create(
    ctx: Ctx,
    input: Input<typeof createSession>,
  ): Promise<Output<typeof createSession>> {
    return this.passwords.admit(() => this.#create(ctx, input));
  }

  async #create(ctx: Ctx, input: Input<typeof createSession>) {
    const { email, password, organizationId } = input.body;
    const proof = await this.people.prove(ctx, email, password);
    const asked = organizationId && toUuid('organization', organizationId);
    const membership = proof.person?.memberships.find(
      (candidate) => asked === undefined || candidate.organizationId === asked,
    );
    if (proof.kind === 'refused' || !membership) {
      const reason = proof.kind === 'refused' ? 'password' : 'organization';
      const where = membership?.organizationId;
      this.people.noteRefusal(ctx, proof.person, createSession.id, reason, where);
      throw invalidCredentials();
    }
    const renewed = proof.outgrown ? await this.passwords.hash(password) : undefined;
    return this.#open(ctx, proof.person, membership, renewed);
  }

  async #open(
    ctx: Ctx,
    person: KnownPerson,
    { organizationId, memberId }: Membership,
    renewed: string | undefined,
  ) {
    const sessionId = newUuid();
    const refresh = newRefreshToken(this.key, { organizationId, sessionId });
    await this.database.withTenant({ organizationId }, async (transaction) => {
      // Between the look and this commit a password may change or a member may be removed.
      if (!(await this.people.hold(transaction, person, renewed))) throw invalidCredentials();
      const [member] = await transaction.$queryRaw<{ role: string; name: string }[]>`
        select role, name from auth.member
        where organization_id = ${organizationId}::uuid and id = ${memberId}::uuid
          and person_id = ${person.id}::uuid
        for key share`;
      if (!member) throw invalidCredentials();
      await transaction.$executeRaw`
        delete from auth.session
        where organization_id = ${organizationId}::uuid and id in (
          select id from auth.session
          where organization_id = ${organizationId}::uuid and member_id = ${memberId}::uuid
          order by last_refreshed_at desc, id desc
          offset ${limits.sessionsPerMember - 1})`;
      const now = new Date();
      await transaction.session.create({
        data: {
          organizationId,
          id: sessionId,
          memberId,
          personId: person.id,
          refreshHash: bytes(refresh.hash),
          createdAt: now,
          lastRefreshedAt: now,
          expiresAt: sessionEnd(now, now),
          address: ctx.address,
          userAgent: ctx.userAgent?.slice(0, 255) ?? null,
        },
      });
      const caller = asPerson(
        ctx,
        { id: person.id, name: member.name },
        organizationId,
        roleSchema.parse(member.role),
      );
      await writeAudit(transaction, caller, organizationId, createSession.id, {
        target: { kind: 'session', id: toId('session', sessionId) },
      });
    });
    return this.#tokens({ organizationId, sessionId, personId: person.id }, refresh.text);
  }

  async refresh(
    ctx: Ctx,
    input: Input<typeof refreshSession>,
  ): Promise<Output<typeof refreshSession>> {
    const shown = input.body.refreshToken;
    const named = openRefreshToken(this.key, shown);
    if (!named) throw invalidCredentials();
    const next = newRefreshToken(this.key, named);
    // Commits in every case: the end of a session must outlive the refusal.
    const personId = await this.database.withTenant(named, (transaction) =>
      this.#rotate(transaction, ctx, named, hashRefreshToken(shown), next.hash),
    );
    if (personId === undefined) throw invalidCredentials();
    return this.#tokens({ ...named, personId }, next.text);
  }

  async #rotate(
    transaction: Transaction,
    ctx: Ctx,
    { organizationId, sessionId }: { organizationId: string; sessionId: string },
    shownHash: Buffer,
    nextHash: Buffer,
  ): Promise<string | undefined> {
    const [row] = await transaction.$queryRaw<
      {
        person_id: string;
        refresh_hash: Uint8Array;
        expires_at: Date;
        revoked_at: Date | null;
        created_at: Date;
        name: string;
        role: string;
      }[]
    >`
      select session.person_id, session.refresh_hash, session.expires_at, session.revoked_at,
        session.created_at, member.name, member.role
      from auth.session
      join auth.member on member.organization_id = session.organization_id
        and member.id = session.member_id
      where session.organization_id = ${organizationId}::uuid and session.id = ${sessionId}::uuid
      for update of session`;
    const state = row && {
      refreshHash: row.refresh_hash,
      expiresAt: row.expires_at,
      revokedAt: row.revoked_at,
      createdAt: row.created_at,
    };
    const now = new Date();
    const decision = decideRefresh(state, shownHash, now);
    if (!row || decision.kind === 'ended') return undefined;
    const where = { organizationId_id: { organizationId, id: sessionId } };
    if (decision.kind === 'rotate') {
      await transaction.session.update({
        where,
        data: {
          refreshHash: bytes(nextHash),
          expiresAt: decision.expiresAt,
          lastRefreshedAt: now,
        },
      });
      return row.person_id;
    }
    await transaction.session.update({ where, data: { revokedAt: now } });
    const person = { id: row.person_id, name: row.name };
    await writeAudit(
      transaction,
      asPerson(ctx, person, organizationId, roleSchema.parse(row.role)),
      organizationId,
      refreshSession.id,
      {
        target: { kind: 'session', id: toId('session', sessionId) },
        changes: { reason: 'a spent refresh token was shown; the session is ended' },
      },
      'refused',
    );
    return undefined;
  }

  async #tokens(
    session: { organizationId: string; sessionId: string; personId: string },
    refreshToken: string,
  ) {
    const { token, expiresAt } = await signSessionToken(this.keys.privateKey, session, new Date());
    return {
      accessToken: token,
      refreshToken,
      expiresAt: expiresAt.toISOString(),
      organizationId: toId('organization', session.organizationId),
    };
  }

  async delete(ctx: TenantCtx, input: Input<typeof deleteSession>): Promise<null> {
    const { organizationId, credentialId: id, personId } = ctx;
    if (personId === null || id === null) {
      throw new ServiceError('unprocessable', {
        detail: 'an API key has no session; revoke the key instead',
      });
    }
    return this.work.write(ctx, deleteSession, input, async (transaction, note) => {
      await transaction.session.updateMany({
        where: { organizationId, id, personId, revokedAt: null },
        data: { revokedAt: new Date() },
      });
      note({ target: { kind: 'session', id: toId('session', id) } });
      return null;
    });
  }

  async me(ctx: TenantCtx): Promise<Output<typeof me>> {
    const { organizationId, personId, actor } = ctx;
    const role = roleSchema.parse(ctx.role);
    const own = await this.work.read(ctx, async (transaction) => ({
      organization: await transaction.organization.findUnique({ where: { organizationId } }),
      person: personId
        ? await transaction.person.findUnique({ where: { id: personId } })
        : undefined,
    }));
    if (!own.organization) throw notFound();
    return {
      kind: personId === null ? 'apiKey' : 'person',
      id: actor.id,
      name: actor.name,
      email: own.person?.email ?? null,
      role,
      permissions: [...permissionsOf[role]],
      organization: { id: toId('organization', organizationId), name: own.organization.name },
      organizations: personId === null ? [] : await this.#organizationsOf(personId),
    };
  }

  async #organizationsOf(personId: string) {
    const rows = await this.database.acrossTenants('list-own-organizations', (transaction) =>
      transaction.member.findMany({
        where: { personId },
        select: { role: true, organization: { select: { organizationId: true, name: true } } },
        orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
        take: 1_000,
      }),
    );
    return rows.map(({ role, organization }) => ({
      id: toId('organization', organization.organizationId),
      name: organization.name,
      role: roleSchema.parse(role),
    }));
  }
}

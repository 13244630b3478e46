/**
 * Who calls: turns a bearer credential into a Ctx, from the rows as they are now. Nothing is
 * cached, so a revoked key or a changed role holds from the next request on.
 */
import type { KeyObject } from 'node:crypto';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { toId } from '@keystead/contracts/ids';
import { permissionsOf, type Role, role as roleSchema } from '@keystead/contracts/permissions';
import type { Database } from '@keystead/database/database';
import { credentialPrefixes, hashCredential, isCredential } from './credential.ts';
import { verifySessionToken } from './session-token.ts';

/** What the request itself says, beside the credential. */
export interface RequestFacts {
  requestId: string;
  address: string | null;
  userAgent: string | null;
  idempotencyKey: string | null;
}

/** How often `lastUsedAt` of a key is written at most. */
const lastUsedEveryMs = 30_000;

export class Authenticator {
  readonly #database: Database;
  readonly #sessionKey: KeyObject;

  /** @param sessionKey the public key of the auth service */
  constructor(database: Database, sessionKey: KeyObject) {
    this.#database = database;
    this.#sessionKey = sessionKey;
  }

  /** @returns undefined when the credential is not valid (any more) */
  async authenticate(bearer: string, facts: RequestFacts): Promise<TenantCtx | undefined> {
    return bearer.startsWith(credentialPrefixes.apiKey)
      ? this.fromApiKey(bearer, facts)
      : this.fromSession(bearer, facts);
  }

  async fromApiKey(text: string, facts: RequestFacts): Promise<TenantCtx | undefined> {
    if (!isCredential('apiKey', text)) return undefined;
    const hash = hashCredential(text);
    const key = await this.#database.acrossTenants('authenticate-api-key', async (transaction) => {
      const [row] = await transaction.$queryRaw<
        { organization_id: string; id: string; name: string; role: string; stale: boolean }[]
      >`
        select organization_id, id, name, role,
          last_used_at is null
            or last_used_at < clock_timestamp() - make_interval(secs => ${lastUsedEveryMs / 1_000}) as stale
        from auth.api_key
        where hash = ${hash} and revoked_at is null
          and (expires_at is null or expires_at > clock_timestamp())`;
      if (row?.stale) {
        await transaction.$executeRaw`
          update auth.api_key set last_used_at = clock_timestamp()
          where organization_id = ${row.organization_id}::uuid and id = ${row.id}::uuid`;
      }
      return row;
    });
    if (!key) return undefined;
    return mint(facts, key.organization_id, roleSchema.parse(key.role), {
      actor: { kind: 'apiKey', id: toId('apiKey', key.id), name: key.name },
      personId: null,
      credentialId: key.id,
    });
  }

  async fromSession(token: string, facts: RequestFacts): Promise<TenantCtx | undefined> {
    const claims = await verifySessionToken(this.#sessionKey, token);
    if (!claims) return undefined;
    const session = await this.#database.withTenant(claims, (transaction) =>
      transaction.session.findUnique({
        where: {
          organizationId_id: { organizationId: claims.organizationId, id: claims.sessionId },
        },
        select: {
          revokedAt: true,
          expiresAt: true,
          personId: true,
          member: { select: { role: true, name: true } },
        },
      }),
    );
    if (!session || session.revokedAt || session.personId !== claims.personId) return undefined;
    if (session.expiresAt.getTime() <= Date.now()) return undefined;
    return mint(facts, claims.organizationId, roleSchema.parse(session.member.role), {
      actor: { kind: 'person', id: toId('person', claims.personId), name: session.member.name },
      personId: claims.personId,
      credentialId: claims.sessionId,
    });
  }

  /** Whether an open stream may go on: the credential still stands, with the same role. */
  async stillHolds(ctx: TenantCtx): Promise<boolean> {
    const id = ctx.credentialId;
    if (id === null) return false;
    const { organizationId } = ctx;
    const where = { organizationId_id: { organizationId, id } };
    return this.#database.withTenant(ctx, async (transaction) => {
      if (ctx.actor.kind === 'apiKey') {
        const key = await transaction.apiKey.findUnique({ where });
        return (
          key !== null &&
          key.revokedAt === null &&
          key.role === ctx.role &&
          (key.expiresAt === null || key.expiresAt.getTime() > Date.now())
        );
      }
      const session = await transaction.session.findUnique({ where, include: { member: true } });
      return (
        session !== null &&
        session.revokedAt === null &&
        session.expiresAt.getTime() > Date.now() &&
        session.member.role === ctx.role
      );
    });
  }
}

function mint(
  facts: RequestFacts,
  organizationId: string,
  role: Role,
  who: Pick<Ctx, 'actor' | 'personId' | 'credentialId'>,
): TenantCtx {
  return { ...facts, ...who, organizationId, role, permissions: [...permissionsOf[role]] };
}

/** The Ctx of a request without credentials. */
export function anonymous(facts: RequestFacts): Ctx {
  return {
    ...facts,
    organizationId: null,
    actor: { kind: 'anonymous', id: 'anonymous', name: 'anonymous' },
    role: null,
    permissions: [],
    personId: null,
    credentialId: null,
  };
}

/** The Ctx of a duty that no caller started. */
export function system(duty: string, organizationId: string | null = null): Ctx {
  return {
    organizationId,
    actor: { kind: 'system', id: duty, name: duty },
    role: null,
    permissions: [],
    personId: null,
    credentialId: null,
    requestId: `system-${duty}`,
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
}

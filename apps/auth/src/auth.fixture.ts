/** The auth service in one process over real PostgreSQL and Redis; only the bus is left out. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Authenticator, anonymous, type RequestFacts } from '@keystead/access/authenticator';
import { Listing } from '@keystead/access/listing';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import { createOrganization, createSession, inviteMember } from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { NudgeName } from '@keystead/contracts/nudges';
import { inputSchema, type Operation } from '@keystead/contracts/operation';
import type { Role } from '@keystead/contracts/permissions';
import { Database } from '@keystead/database/database';
import { startInfrastructure } from '@keystead/test-control-plane/infrastructure/infrastructure';
import { createTestDatabase } from '@keystead/test-control-plane/test-database';
import type { z } from 'zod';
import { ApiKeys } from './api-keys/api-keys.ts';
import { AuditEvents } from './audit-events/audit-events.ts';
import { ExpiredRows } from './expiry/expired-rows.ts';
import { Invitations } from './members/invitations.ts';
import { Members } from './members/members.ts';
import { Organizations } from './organizations/organizations.ts';
import { Passwords } from './passwords/passwords.ts';
import { Afterwards } from './people/afterwards.ts';
import { People } from './people/people.ts';
import { Refusals } from './refusals/refusals.ts';
import { Sessions } from './sessions/sessions.ts';
import { AttemptThrottle } from './throttle/attempt-throttle.ts';
import { ThrottleRedis } from './throttle/throttle-redis.ts';

export const password = 'correct horse battery';

export interface AuthFixtureOptions {
  signUp?: 'open' | 'closed';
  /** Default 1000000: a suite signs up many from one address. */
  signUpsPerAddressPerHour?: number;
  poolSize?: number;
}

export async function startAuth(options: AuthFixtureOptions = {}) {
  const testDatabase = await createTestDatabase();
  const servers = await startInfrastructure({
    stateDir: mkdtempSync(join(tmpdir(), 'keystead-auth-')),
    purpose: 'test',
    servers: ['redis'],
  });
  const warnings: unknown[] = [];
  const log = { warn: (...line: unknown[]) => void warnings.push(line) };
  const database = new Database({
    serviceUrl: testDatabase.serviceUrl,
    acrossUrl: testDatabase.acrossUrl,
    poolSize: options.poolSize ?? 10,
  });
  const key = new InstallationKey(randomBytes(32));
  const keys = generateKeyPairSync('ed25519');
  const work = new TenantWork(database, key);
  const listing = new Listing(key);
  const redis = new ThrottleRedis(servers.redisUrl, log);
  await once(redis.connection, 'ready');
  const throttle = new AttemptThrottle(
    redis.connection,
    key,
    options.signUpsPerAddressPerHour ?? 1_000_000,
  );
  const nudged: NudgeName[] = [];
  const bus = { nudge: (name: NudgeName) => void nudged.push(name) };
  const afterwards = new Afterwards(log);
  const passwords = new Passwords();
  const people = new People(database, passwords, throttle, afterwards);
  const refusals = new Refusals(database);
  const authenticator = new Authenticator(database, keys.publicKey);
  const organizations = new Organizations(
    work,
    people,
    passwords,
    throttle,
    key,
    bus,
    options.signUp ?? 'open',
  );
  const sessions = new Sessions(database, work, people, passwords, key, keys);
  const members = new Members(work, listing, refusals, bus);

  const parts = {
    database,
    key,
    people,
    authenticator,
    organizations,
    sessions,
    members,
    invitations: new Invitations(database, people, passwords),
    apiKeys: new ApiKeys(work, listing, refusals),
    auditEvents: new AuditEvents(work, listing),
    expiredRows: new ExpiredRows(database),
  };

  /** Somebody with an organization of their own. */
  async function signUp(email = someEmail(), name = 'Acme') {
    const created = await organizations.create(
      nobody(),
      given(createOrganization, { body: { name, owner: { name: 'Ann', email, password } } }),
    );
    const tokens = await signIn(email);
    return { created, email, ...tokens, ctx: await ctxOf(tokens.accessToken) };
  }

  async function signIn(email: string, secret = password, organizationId?: string) {
    return sessions.create(
      nobody(),
      given(createSession, {
        body: { email, password: secret, ...(organizationId ? { organizationId } : {}) },
      }),
    );
  }

  async function ctxOf(bearer: string): Promise<TenantCtx> {
    const ctx = await authenticator.authenticate(bearer, facts());
    if (!ctx) throw new Error('the credential is not valid');
    return ctx;
  }

  async function invite(ctx: TenantCtx, email: string, role: Role) {
    const member = await members.invite(
      ctx,
      given(inviteMember, { body: { email, name: 'Bob', role } }),
    );
    return { member, token: await invitationToken(email) };
  }

  /** The token as the mail would carry it. */
  async function invitationToken(email: string): Promise<string> {
    const rows = await database.acrossTenants('dispatch-alerts', (transaction) =>
      transaction.outbox.findMany({ where: { topic: 'mail.requested' }, orderBy: { id: 'desc' } }),
    );
    const mail = rows
      .map((row) => row.payload as { to: string; data: { token: string } })
      .find(({ to }) => to === email);
    if (!mail) throw new Error(`no mail to ${email}`);
    return mail.data.token;
  }

  /** A member who has accepted, signed in. */
  async function joinOrganization(ctx: TenantCtx, role: Role, email = someEmail()) {
    const { member, token } = await invite(ctx, email, role);
    await parts.invitations.accept(nobody(), {
      params: {},
      query: {},
      body: { token, password },
      ifMatch: null,
    });
    const tokens = await signIn(email, password, toId('organization', ctx.organizationId));
    return { member, email, ...tokens, ctx: await ctxOf(tokens.accessToken) };
  }

  /** Rows of the audit, once what runs after answers is done. */
  async function audit(ctx: TenantCtx) {
    await afterwards.beforeApplicationShutdown();
    return database.withTenant(ctx, (transaction) =>
      transaction.auditEvent.findMany({ orderBy: { id: 'asc' } }),
    );
  }

  async function stop() {
    await afterwards.beforeApplicationShutdown();
    redis.onApplicationShutdown();
    await database.close();
    await servers.stop();
    await testDatabase.drop();
  }

  return {
    ...parts,
    redis: servers.redis,
    urls: testDatabase,
    nudged,
    warnings,
    signUp,
    signIn,
    ctxOf,
    invite,
    join: joinOrganization,
    audit,
    stop,
  };
}

export type AuthFixture = Awaited<ReturnType<typeof startAuth>>;

export const someEmail = () => `p${randomBytes(6).toString('hex')}@example.com`;

let address = 0;
/** Every request comes from an address of its own, unless a test says otherwise. */
export function facts(given: Partial<RequestFacts> = {}): RequestFacts {
  address += 1;
  return {
    requestId: newUuid(),
    address: `10.${(address >> 16) & 255}.${(address >> 8) & 255}.${address & 255}`,
    userAgent: 'test',
    idempotencyKey: null,
    ...given,
  };
}

export const nobody = (given: Partial<RequestFacts> = {}): Ctx => anonymous(facts(given));

/** The input of an operation, through its own schema. */
export function given<O extends Operation>(
  operation: O,
  input: { params?: unknown; query?: unknown; body?: unknown; ifMatch?: string | null } = {},
) {
  const schema = inputSchema(operation);
  return schema.parse({ params: {}, query: {}, body: {}, ifMatch: null, ...input }) as {
    params: z.output<O['params']>;
    query: z.output<O['query']>;
    body: z.output<O['body']>;
    ifMatch: string | null;
  };
}

/** The code of the error an answer is. */
export async function codeOf(answer: Promise<unknown>): Promise<string> {
  try {
    await answer;
    return 'no error';
  } catch (error) {
    if (error instanceof ServiceError) return error.code;
    throw error;
  }
}

/** Waits for a state that comes by itself, with a deadline. */
export async function until(holds: () => Promise<boolean>, deadlineMs = 20_000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error('it did not come to that in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

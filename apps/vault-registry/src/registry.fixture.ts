/** The registry's own parts on a database of their own, for integration tests. */
import { randomBytes } from 'node:crypto';
import { Listing } from '@keystead/access/listing';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { NudgeName } from '@keystead/contracts/nudges';
import type { Input, Operation } from '@keystead/contracts/operation';
import { permissions } from '@keystead/contracts/permissions';
import { createEnrollmentToken } from '@keystead/contracts/registry';
import { Database, type Transaction } from '@keystead/database/database';
import { createTestDatabase } from '@keystead/test-control-plane/test-database';
import { Admission } from './agent-link/admission.ts';
import { Enrollment } from './agent-link/enrollment.ts';
import { Renewal } from './agent-link/renewal.ts';
import { Agents } from './agents/agents.ts';
import { readConfig } from './config.ts';
import { EnrollmentTokens } from './enrollment/enrollment-tokens.ts';
import { AuthorityKeeper } from './issuing/authority-keeper.ts';
import { GatewayCertificates } from './issuing/gateway-certificates.ts';
import { Removal } from './removal/removal.ts';
import { Vaults } from './vaults/vaults.ts';

export const quiet = { info: () => {}, warn: () => {}, error: () => {} };

export type Registry = Awaited<ReturnType<typeof openRegistry>>;

export async function openRegistry() {
  const urls = await createTestDatabase();
  const database = new Database({ serviceUrl: urls.serviceUrl, acrossUrl: urls.acrossUrl });
  const key = new InstallationKey(randomBytes(32));
  const work = new TenantWork(database, key);
  const listing = new Listing(key);
  const config = readConfig({
    KEYSTEAD_SERVICE_DATABASE_URL: urls.serviceUrl,
    KEYSTEAD_ACROSS_DATABASE_URL: urls.acrossUrl,
    KEYSTEAD_REDIS_URL: 'redis://not-used',
    KEYSTEAD_NATS_URL: 'nats://not-used',
    KEYSTEAD_SIGNING_KEY_FILE: 'not used',
    KEYSTEAD_PUBLIC_KEYS_DIR: 'not used',
    KEYSTEAD_INSTALLATION_KEY_FILE: 'not used',
    KEYSTEAD_CA_KEY: randomBytes(32).toString('base64'),
    KEYSTEAD_AGENT_ENDPOINT: 'agents.keystead.example:8443',
    KEYSTEAD_TRUST_DOMAIN: 'keystead.test',
  });
  const authority = await AuthorityKeeper.open(
    database,
    { sealingKey: config.KEYSTEAD_CA_KEY, trustDomain: config.KEYSTEAD_TRUST_DOMAIN },
    quiet,
  );
  const nudged: NudgeName[] = [];
  const bus = { nudge: (name: NudgeName) => void nudged.push(name) };
  return {
    database,
    config,
    authority,
    nudged,
    vaults: new Vaults(work, listing, bus, config),
    agents: new Agents(work, listing, bus, config),
    tokens: new EnrollmentTokens(work, listing, authority, config),
    enrollment: new Enrollment(database, authority, bus),
    renewal: new Renewal(database, authority),
    admission: new Admission(database, config),
    gatewayCertificates: new GatewayCertificates(authority),
    removal: new Removal(database),
    /** Everything an owner may do, in a new organization. */
    async organization(name = 'Example'): Promise<TenantCtx> {
      const organizationId = newUuid();
      await database.withTenant({ organizationId }, (transaction) =>
        transaction.organization.create({ data: { organizationId, name } }),
      );
      return ownerOf(organizationId);
    },
    async close() {
      authority.onApplicationShutdown();
      await database.close();
      await urls.drop();
    },
  };
}

export function ownerOf(organizationId: string): TenantCtx {
  return {
    organizationId,
    actor: { kind: 'person', id: toId('member', organizationId), name: 'Owner' },
    role: 'owner',
    permissions: [...permissions],
    personId: newUuid(),
    credentialId: newUuid(),
    requestId: newUuid(),
    address: '192.0.2.1',
    userAgent: null,
    idempotencyKey: null,
  };
}

/** The caller that the gateway names for an agent without identity. */
export const anonymous = {
  ...ownerOf(newUuid()),
  organizationId: null,
  actor: { kind: 'anonymous' as const, id: 'agent', name: 'agent' },
  role: null,
  permissions: [],
};

export async function newRequest(): Promise<string> {
  return createCertificateRequest(await generateAgentKey()).toString('base64');
}

/** What the door makes of a request. */
export function given<O extends Operation>(
  operation: O,
  request: { params?: unknown; query?: unknown; body?: unknown; ifMatch?: string } = {},
): Input<O> {
  return {
    params: operation.params.parse(request.params ?? {}),
    query: operation.query.parse(request.query ?? {}),
    body: operation.body.parse(request.body ?? {}),
    ifMatch: request.ifMatch ?? null,
  } as Input<O>;
}

/** What monitoring would have written about an agent. */
export async function setLiveness(
  transaction: Transaction,
  agent: { organizationId: string; agentId: string; vaultId: string },
  liveness: { status: string; lastSeenAt?: Date | null; policySetVersion?: number },
): Promise<void> {
  const data = {
    status: liveness.status,
    lastSeenAt: liveness.lastSeenAt ?? null,
    policySetVersion: liveness.policySetVersion ?? null,
    offlineAfterMs: 270_000,
    intervalMs: 30_000,
  };
  const { organizationId, agentId } = agent;
  await transaction.agentLiveness.upsert({
    where: { organizationId_agentId: { organizationId, agentId } },
    create: { ...agent, ...data },
    update: data,
  });
}

/** Enrols one agent with a token of its own. */
export async function enroll(
  registry: Registry,
  ctx: TenantCtx,
  names: { vault: string; agent?: string; tags?: string[] },
) {
  const token = await newToken(registry, ctx, { vault: names.vault, tags: names.tags ?? [] });
  const answer = await askToEnroll(registry, token.token, { agentName: names.agent ?? null });
  if (answer.outcome !== 'enrolled') throw new Error(`refused: ${answer.detail}`);
  return answer;
}

export function newToken(
  registry: Registry,
  ctx: TenantCtx,
  token: {
    vault?: string | null;
    maxUses?: number;
    ttlSeconds?: number;
    tags?: string[];
    name?: string;
  } = {},
) {
  return registry.tokens.create(
    ctx,
    given(createEnrollmentToken, { body: { name: 'token', ...token } }),
  );
}

export async function askToEnroll(
  registry: Registry,
  token: string,
  asked: { vaultName?: string | null; agentName?: string | null; csr?: string } = {},
) {
  return registry.enrollment.enroll(anonymous, {
    token,
    csr: asked.csr ?? (await newRequest()),
    vaultName: asked.vaultName ?? null,
    agentName: asked.agentName ?? null,
    address: '192.0.2.7',
    requestId: 'request-1',
  });
}

/** Vaults, agents and the tokens that enrol them. */
import { z } from 'zod';
import {
  commaList,
  instant,
  listQuery,
  name,
  offlineAfterSeconds,
  page,
  tag,
  tags,
} from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';

/** An agent's state; `late` is silence that has not reached the threshold. */
export const agentStatuses = [
  'pending',
  'online',
  'late',
  'offline',
  'stopped',
  'revoked',
] as const;
export const agentStatus = z.enum(agentStatuses);
export type AgentStatus = z.infer<typeof agentStatus>;

/** A vault's state, derived from its agents. `empty`: it has none that count. */
export const vaultStatuses = [
  'empty',
  'pending',
  'online',
  'degraded',
  'offline',
  'stopped',
] as const;
export const vaultStatus = z.enum(vaultStatuses);
export type VaultStatus = z.infer<typeof vaultStatus>;

export const vault = z.object({
  id: idSchema('vault'),
  name: z.string(),
  tags: z.array(z.string()),
  status: vaultStatus,
  agents: z.object({
    total: z.number().int(),
    online: z.number().int(),
    late: z.number().int(),
    offline: z.number().int(),
    stopped: z.number().int(),
    pending: z.number().int(),
  }),
  lastHeartbeatAt: instant.nullable(),
  /** The vault's own threshold; null where a wider one holds. */
  offlineAfterSeconds: z.number().int().nullable(),
  /** The threshold in force, and where it comes from. */
  effectiveOfflineAfterSeconds: z.number().int(),
  offlineAfterSource: z.enum(['vault', 'tag', 'organization', 'installation']),
  /** Until then a stopped agent is not counted as offline. */
  maintenanceUntil: instant.nullable(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});

const vaultParams = z.strictObject({ id: idSchema('vault') });
const vaultSorts = ['name', 'createdAt', 'updatedAt'] as const;

export const listVaults = operation('vault-registry', 'vaults.list', {
  method: 'GET',
  path: '/v1/vaults',
  summary: 'List vaults with the state derived from their agents',
  tag: 'Vaults',
  permission: 'vaults.read',
  sorts: vaultSorts,
  query: listQuery(vaultSorts, {
    name: z.string().max(limits.nameMaxLength).optional(),
    tag: commaList(tag).optional(),
    status: commaList(vaultStatus).optional(),
  }),
  output: page(vault),
});

export const getVault = operation('vault-registry', 'vaults.get', {
  method: 'GET',
  path: '/v1/vaults/{id}',
  summary: 'Show a vault',
  tag: 'Vaults',
  permission: 'vaults.read',
  params: vaultParams,
  output: vault,
});

export const createVault = operation('vault-registry', 'vaults.create', {
  method: 'POST',
  path: '/v1/vaults',
  summary: 'Create a vault before its first agent enrols',
  tag: 'Vaults',
  permission: 'vaults.write',
  body: z.strictObject({
    name,
    tags: tags.default([]),
    offlineAfterSeconds: offlineAfterSeconds.nullable().default(null),
  }),
  output: vault,
});

export const updateVault = operation('vault-registry', 'vaults.update', {
  method: 'PATCH',
  path: '/v1/vaults/{id}',
  summary: 'Rename, tag, or set the threshold of a vault',
  tag: 'Vaults',
  permission: 'vaults.write',
  params: vaultParams,
  ifMatch: 'required',
  body: z
    .strictObject({
      name,
      tags,
      offlineAfterSeconds: offlineAfterSeconds.nullable(),
      maintenanceUntil: instant.nullable(),
    })
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: vault,
});

export const deleteVault = operation('vault-registry', 'vaults.delete', {
  method: 'DELETE',
  path: '/v1/vaults/{id}',
  summary: 'Delete a vault; its agents lose their access within five seconds',
  tag: 'Vaults',
  permission: 'vaults.delete',
  params: vaultParams,
  output: z.null(),
  status: 204,
});

export const agent = z.object({
  id: idSchema('agent'),
  name: z.string(),
  vault: z.object({ id: idSchema('vault'), name: z.string() }),
  status: agentStatus,
  /** Since when the status holds. */
  statusSince: instant.nullable(),
  lastHeartbeatAt: instant.nullable(),
  version: z.string().nullable(),
  host: z
    .object({
      hostname: z.string(),
      platform: z.string(),
      architecture: z.string(),
      runtime: z.string(),
    })
    .nullable(),
  health: z.enum(['healthy', 'degraded', 'failing']).nullable(),
  heartbeatIntervalMs: z.number().int(),
  certificate: z.object({
    serialNumber: z.string(),
    notBefore: instant,
    expiresAt: instant,
  }),
  policySet: z.object({
    /** The version assigned to the vault; null where none is. */
    assignedVersion: z.number().int().nullable(),
    /** The version the agent reports to hold. */
    reportedVersion: z.number().int().nullable(),
    state: z.enum(['unassigned', 'unreported', 'current', 'behind']),
  }),
  enrolledAt: instant,
  revokedAt: instant.nullable(),
});

const agentParams = z.strictObject({ id: idSchema('agent') });
const agentSorts = ['name', 'enrolledAt', 'status', 'lastHeartbeatAt', 'version'] as const;

export const listAgents = operation('vault-registry', 'agents.list', {
  method: 'GET',
  path: '/v1/agents',
  summary: 'List agents',
  tag: 'Agents',
  permission: 'agents.read',
  sorts: agentSorts,
  query: listQuery(agentSorts, {
    vaultId: idSchema('vault').optional(),
    name: z.string().max(limits.nameMaxLength).optional(),
    status: commaList(agentStatus).optional(),
    version: z.string().max(64).optional(),
    tag: commaList(tag).optional(),
  }),
  output: page(agent),
});

export const getAgent = operation('vault-registry', 'agents.get', {
  method: 'GET',
  path: '/v1/agents/{id}',
  summary: 'Show an agent',
  tag: 'Agents',
  permission: 'agents.read',
  params: agentParams,
  output: agent,
});

export const revokeAgent = operation('vault-registry', 'agents.revoke', {
  method: 'POST',
  path: '/v1/agents/{id}/revoke',
  summary: 'Revoke the certificate of an agent; it bites within five seconds',
  tag: 'Agents',
  permission: 'agents.revoke',
  params: agentParams,
  body: z.strictObject({ reason: z.string().trim().max(500).optional() }),
  output: agent,
  status: 200,
});

export const deleteAgent = operation('vault-registry', 'agents.delete', {
  method: 'DELETE',
  path: '/v1/agents/{id}',
  summary: 'Delete an agent; its certificate is revoked with it',
  tag: 'Agents',
  permission: 'agents.revoke',
  params: agentParams,
  output: z.null(),
  status: 204,
});

export const enrollmentToken = z.object({
  id: idSchema('enrollmentToken'),
  name: z.string(),
  prefix: z.string(),
  /** The vault that agents join; null where each names its own. */
  vault: z.string().nullable(),
  tags: z.array(z.string()),
  maxUses: z.number().int(),
  uses: z.number().int(),
  status: z.enum(['active', 'used_up', 'expired', 'revoked']),
  createdAt: instant,
  expiresAt: instant,
  revokedAt: instant.nullable(),
});

const tokenSorts = ['createdAt', 'name', 'expiresAt'] as const;

export const listEnrollmentTokens = operation('vault-registry', 'enrollment-tokens.list', {
  method: 'GET',
  path: '/v1/enrollment-tokens',
  summary: 'List enrolment tokens',
  tag: 'Enrolment',
  permission: 'enrollment.read',
  sorts: tokenSorts,
  query: listQuery(tokenSorts, {
    status: z.enum(['active', 'used_up', 'expired', 'revoked']).optional(),
  }),
  output: page(enrollmentToken),
});

export const createEnrollmentToken = operation('vault-registry', 'enrollment-tokens.create', {
  method: 'POST',
  path: '/v1/enrollment-tokens',
  summary: 'Create an enrolment token; the token is answered once',
  tag: 'Enrolment',
  permission: 'enrollment.write',
  body: z.strictObject({
    name,
    maxUses: z.number().int().min(1).max(limits.enrollmentTokenMaxUses).default(1),
    ttlSeconds: z.number().int().min(1).max(limits.enrollmentTokenMaxTtlSeconds).default(3_600),
    vault: name.nullable().default(null),
    tags: tags.default([]),
  }),
  output: z.object({
    ...enrollmentToken.shape,
    token: z.string(),
    /** SHA-256 of the root certificate's DER, hexadecimal. */
    caFingerprint: z.string(),
    /** HOST:PORT that an agent dials. */
    agentEndpoint: z.string(),
    /** Ready to paste on the machine of the vault. */
    command: z.string(),
  }),
});

export const revokeEnrollmentToken = operation('vault-registry', 'enrollment-tokens.revoke', {
  method: 'DELETE',
  path: '/v1/enrollment-tokens/{id}',
  summary: 'Revoke an enrolment token',
  tag: 'Enrolment',
  permission: 'enrollment.write',
  params: z.strictObject({ id: idSchema('enrollmentToken') }),
  output: z.null(),
  status: 204,
});

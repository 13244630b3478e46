/**
 * Who may do what in a vault: API keys and roles. A role is a list of permissions, each an action
 * pattern, a namespace pattern and a secret name pattern; what no permission names is denied.
 */
import { z } from 'zod';
import { agentActions } from './actions.ts';
import { apiLimits } from './api-limits.ts';
import { description, displayName, instant, listQuery, namePattern, page } from './fields.ts';
import { agentOperation } from './operation.ts';

const kinds = [...new Set(agentActions.map((action) => action.slice(0, action.indexOf('.'))))];
const actionPatterns: ReadonlySet<string> = new Set([
  '*',
  ...agentActions,
  ...kinds.map((kind) => `${kind}.*`),
]);

/** `secret.read-value`, `secret.*` or `*`. */
export const actionPattern = z
  .string()
  .max(60)
  .refine((pattern) => actionPatterns.has(pattern), 'must be an action, a kind like secret.* or *');

export const permission = z.strictObject({
  actions: z.array(actionPattern).min(1).max(60),
  /** Which namespaces; a list of all of them needs `*`. */
  namespaces: z.array(namePattern).min(1).max(50).default(['*']),
  /** Which secrets in them; what concerns a whole namespace needs `*`. */
  secrets: z.array(namePattern).min(1).max(50).default(['*']),
});
export type Permission = z.output<typeof permission>;

export const roleName = z
  .string()
  .min(1)
  .max(64)
  .regex(/^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/, 'must be lower case letters, digits and - inside');

export const role = z.object({
  name: z.string(),
  description: z.string(),
  /** Built-in roles cannot be changed. */
  builtIn: z.boolean(),
  permissions: z.array(permission),
  createdAt: z.string().nullable(),
  updatedAt: z.string().nullable(),
  etag: z.string(),
});
export type Role = z.infer<typeof role>;

export const apiKeyId = z.string().regex(/^key_[0-7][0-9a-hjkmnp-tv-z]{25}$/, 'must be a key id');

export const apiKey = z.object({
  id: z.string(),
  name: z.string(),
  /** The start of the key, to tell keys apart; no secret. */
  prefix: z.string(),
  roles: z.array(z.string()),
  /** Narrows the roles to these namespaces. */
  namespaces: z.array(z.string()),
  createdAt: z.string(),
  createdBy: z.string(),
  expiresAt: z.string().nullable(),
  /** To the minute. */
  lastUsedAt: z.string().nullable(),
  revokedAt: z.string().nullable(),
});
export type ApiKey = z.infer<typeof apiKey>;

const byKeyId = z.strictObject({ id: apiKeyId });
const byRoleName = z.strictObject({ name: roleName });
const tag = 'Access';

export const createApiKey = agentOperation('api-keys.create', {
  method: 'POST',
  path: '/v1/api-keys',
  summary: 'Make an API key; the key itself is answered this once',
  tag,
  action: 'access.manage',
  body: z.strictObject({
    name: displayName,
    roles: z.array(roleName).min(1).max(apiLimits.rolesPerIdentityMax),
    namespaces: z.array(namePattern).min(1).max(50).default(['*']),
    expiresAt: instant.optional(),
  }),
  output: apiKey.extend({ key: z.string() }),
});

export const listApiKeys = agentOperation('api-keys.list', {
  method: 'GET',
  path: '/v1/api-keys',
  summary: 'List API keys, the oldest first',
  tag,
  action: 'access.read',
  query: listQuery({ status: z.enum(['active', 'expired', 'revoked']).optional() }),
  output: page(apiKey),
});

export const readApiKey = agentOperation('api-keys.read', {
  method: 'GET',
  path: '/v1/api-keys/{id}',
  summary: 'Show an API key',
  tag,
  action: 'access.read',
  params: byKeyId,
  output: apiKey,
});

export const revokeApiKey = agentOperation('api-keys.revoke', {
  method: 'DELETE',
  path: '/v1/api-keys/{id}',
  summary: 'Revoke an API key; within a second no agent of the vault accepts it',
  tag,
  action: 'access.manage',
  params: byKeyId,
  output: apiKey,
});

export const listRoles = agentOperation('roles.list', {
  method: 'GET',
  path: '/v1/roles',
  summary: 'List the roles, the built-in ones first',
  tag,
  action: 'access.read',
  output: z.object({ items: z.array(role) }),
});

export const readRole = agentOperation('roles.read', {
  method: 'GET',
  path: '/v1/roles/{name}',
  summary: 'Show a role',
  tag,
  action: 'access.read',
  params: byRoleName,
  output: role,
});

export const putRole = agentOperation('roles.put', {
  method: 'PUT',
  path: '/v1/roles/{name}',
  summary: 'Make a role or replace what it permits; within a second it holds everywhere',
  tag,
  action: 'access.manage',
  params: byRoleName,
  body: z.strictObject({
    description: description.default(''),
    permissions: z.array(permission).min(1).max(apiLimits.permissionsPerRoleMax),
  }),
  output: role,
  ifMatch: 'optional',
});

export const deleteRole = agentOperation('roles.delete', {
  method: 'DELETE',
  path: '/v1/roles/{name}',
  summary: 'Delete a role; whoever had it has it no more',
  tag,
  action: 'access.manage',
  params: byRoleName,
  status: 204,
  ifMatch: 'optional',
});

export const readCaller = agentOperation('caller.read', {
  method: 'GET',
  path: '/v1/caller',
  summary: 'Show who calls, and what that identity may do',
  tag,
  action: 'caller.read',
  output: z.object({
    kind: z.enum(['api_key', 'jwt', 'certificate', 'system']),
    id: z.string(),
    name: z.string(),
    roles: z.array(z.string()),
    /** Patterns that narrow what the roles permit; absent where nothing does. */
    namespaces: z.array(z.string()).optional(),
    permissions: z.array(permission),
  }),
});

export const accessOperations = [
  createApiKey,
  listApiKeys,
  readApiKey,
  revokeApiKey,
  listRoles,
  readRole,
  putRole,
  deleteRole,
  readCaller,
];

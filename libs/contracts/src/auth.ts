/** Organizations, people, sessions, API keys and the audit of the control plane. */
import { z } from 'zod';
import { commaList, email, instant, listQuery, name, offlineAfterSeconds, page } from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';
import { permissions, role } from './permissions.ts';
import { wholeNumberText } from './whole-number-text.ts';

const newPassword = z
  .string()
  .min(limits.passwordMinLength, `must have at least ${limits.passwordMinLength} characters`)
  .max(limits.passwordMaxLength, `must have at most ${limits.passwordMaxLength} characters`);

/** What a filter compares with: printable ASCII without blanks. */
const word = (longest: number) =>
  z
    .string()
    .max(longest)
    .regex(/^[\x21-\x7e]+$/, 'must be printable characters without blanks');

export const organization = z.object({
  id: idSchema('organization'),
  name: z.string(),
  /** null: the installation's threshold holds. */
  offlineAfterSeconds: z.number().int().nullable(),
  /** Every policy is reviewed, and every rollout approved, by somebody else than who wrote or began it. */
  fourEyes: z.boolean(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});

export const person = z.object({
  id: idSchema('person'),
  name: z.string(),
  email: z.string(),
});

export const createOrganization = operation('auth', 'organizations.create', {
  method: 'POST',
  path: '/v1/organizations',
  summary: 'Sign up an organization with its owner',
  tag: 'Organizations',
  permission: 'public',
  body: z.strictObject({
    name,
    owner: z.strictObject({ name, email, password: newPassword }),
  }),
  output: z.object({ ...organization.shape, owner: person }),
});

export const getOrganization = operation('auth', 'organizations.get', {
  method: 'GET',
  path: '/v1/organizations/current',
  summary: 'Show the organization of the caller',
  tag: 'Organizations',
  permission: 'organization.read',
  output: organization,
});

export const updateOrganization = operation('auth', 'organizations.update', {
  method: 'PATCH',
  path: '/v1/organizations/current',
  summary: 'Rename the organization, set its offline threshold, or ask for four eyes',
  tag: 'Organizations',
  permission: 'organization.write',
  body: z
    .strictObject({
      name,
      offlineAfterSeconds: offlineAfterSeconds.nullable(),
      /** An owner alone switches it off. */
      fourEyes: z.boolean(),
    })
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: organization,
});

const tokens = z.object({
  accessToken: z.string(),
  refreshToken: z.string(),
  /** When the access token ends. */
  expiresAt: instant,
  organizationId: idSchema('organization'),
});

export const createSession = operation('auth', 'sessions.create', {
  method: 'POST',
  path: '/v1/sessions',
  summary: 'Sign in',
  tag: 'Sessions',
  permission: 'public',
  body: z.strictObject({
    email: z.string().max(254),
    password: z.string().max(limits.passwordMaxLength),
    organizationId: idSchema('organization').optional(),
  }),
  output: tokens,
});

export const refreshSession = operation('auth', 'sessions.refresh', {
  method: 'POST',
  path: '/v1/sessions/refresh',
  summary: 'Trade a refresh token for new tokens; each works once',
  tag: 'Sessions',
  permission: 'public',
  body: z.strictObject({ refreshToken: z.string().max(512) }),
  output: tokens,
  status: 200,
});

export const deleteSession = operation('auth', 'sessions.delete', {
  method: 'DELETE',
  path: '/v1/sessions/current',
  summary: 'Sign out',
  tag: 'Sessions',
  permission: 'signedIn',
  output: z.null(),
  status: 204,
});

export const me = operation('auth', 'me.get', {
  method: 'GET',
  path: '/v1/me',
  summary: 'Who am I, and what may I do',
  tag: 'Sessions',
  permission: 'signedIn',
  output: z.object({
    kind: z.enum(['person', 'apiKey']),
    id: z.string(),
    name: z.string(),
    email: z.string().nullable(),
    role,
    permissions: z.array(z.enum(permissions)),
    organization: z.object({ id: idSchema('organization'), name: z.string() }),
    /** Every organization the person belongs to; empty for an API key. */
    organizations: z.array(z.object({ id: idSchema('organization'), name: z.string(), role })),
  }),
});

export const member = z.object({
  id: idSchema('member'),
  name: z.string(),
  email: z.string(),
  role,
  /** An invited person has not accepted yet. */
  status: z.enum(['active', 'invited']),
  createdAt: instant,
  etag: z.string(),
});
const memberParams = z.strictObject({ id: idSchema('member') });

export const listMembers = operation('auth', 'members.list', {
  method: 'GET',
  path: '/v1/members',
  summary: 'List members and open invitations',
  tag: 'Members',
  permission: 'members.read',
  sorts: ['createdAt', 'name', 'email', 'role'],
  query: listQuery(['createdAt', 'name', 'email', 'role'], {
    role: commaList(role).optional(),
    status: z.enum(['active', 'invited']).optional(),
    email: word(254).toLowerCase().optional(),
  }),
  output: page(member),
});

export const inviteMember = operation('auth', 'members.invite', {
  method: 'POST',
  path: '/v1/members',
  summary: 'Invite a person by mail',
  tag: 'Members',
  permission: 'members.write',
  body: z.strictObject({ email, name, role }),
  output: member,
});

export const acceptInvitation = operation('auth', 'invitations.accept', {
  method: 'POST',
  path: '/v1/invitations/accept',
  summary: 'Accept an invitation with the token from the mail',
  tag: 'Members',
  permission: 'public',
  body: z.strictObject({
    token: z.string().max(512),
    /** The new password; a person who is known already proves the old one. */
    password: newPassword,
  }),
  output: z.object({ organizationId: idSchema('organization'), email: z.string(), role }),
  status: 200,
});

export const updateMember = operation('auth', 'members.update', {
  method: 'PATCH',
  path: '/v1/members/{id}',
  summary: 'Change the role of a member',
  tag: 'Members',
  permission: 'members.write',
  params: memberParams,
  body: z.strictObject({ role }),
  output: member,
});

export const deleteMember = operation('auth', 'members.delete', {
  method: 'DELETE',
  path: '/v1/members/{id}',
  summary: 'Remove a member or take back an invitation',
  tag: 'Members',
  permission: 'members.write',
  params: memberParams,
  output: z.null(),
  status: 204,
});

export const apiKey = z.object({
  id: idSchema('apiKey'),
  name: z.string(),
  role,
  /** The first characters, to recognize a key by. */
  prefix: z.string(),
  createdAt: instant,
  expiresAt: instant.nullable(),
  lastUsedAt: instant.nullable(),
  revokedAt: instant.nullable(),
});

export const listApiKeys = operation('auth', 'api-keys.list', {
  method: 'GET',
  path: '/v1/api-keys',
  summary: 'List API keys',
  tag: 'API keys',
  permission: 'apiKeys.read',
  sorts: ['createdAt', 'name', 'role', 'expiresAt', 'lastUsedAt', 'revokedAt'],
  query: listQuery(['createdAt', 'name', 'role', 'expiresAt', 'lastUsedAt', 'revokedAt'], {
    role: commaList(role).optional(),
    revoked: z.enum(['true', 'false']).optional(),
  }),
  output: page(apiKey),
});

export const createApiKey = operation('auth', 'api-keys.create', {
  method: 'POST',
  path: '/v1/api-keys',
  summary: 'Create an API key; the key is answered once',
  tag: 'API keys',
  permission: 'apiKeys.write',
  body: z.strictObject({
    name,
    role: role.default('viewer'),
    ttlSeconds: z
      .number()
      .int()
      .min(1)
      .max(10 * 365 * 24 * 3_600)
      .nullable()
      .default(null),
  }),
  output: z.object({ ...apiKey.shape, key: z.string() }),
});

export const revokeApiKey = operation('auth', 'api-keys.revoke', {
  method: 'DELETE',
  path: '/v1/api-keys/{id}',
  summary: 'Revoke an API key',
  tag: 'API keys',
  permission: 'apiKeys.write',
  params: z.strictObject({ id: idSchema('apiKey') }),
  output: z.null(),
  status: 204,
});

export const auditEvent = z.object({
  id: idSchema('auditEvent'),
  at: instant,
  actor: z.object({ kind: z.string(), id: z.string(), name: z.string() }),
  /** The operation's id, e.g. `vaults.update`. */
  action: z.string(),
  target: z.object({ kind: z.string(), id: z.string(), name: z.string().nullable() }).nullable(),
  result: z.enum(['succeeded', 'refused']),
  requestId: z.string(),
  address: z.string().nullable(),
  /** What changed: field names with old and new, never a secret. */
  changes: z.record(z.string(), z.unknown()).nullable(),
});

export const listAuditEvents = operation('auth', 'audit-events.list', {
  method: 'GET',
  path: '/v1/audit-events',
  summary: 'List who changed what, newest first',
  tag: 'Audit',
  permission: 'audit.read',
  sorts: ['-at', 'at'],
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    cursor: z.string().max(limits.cursorMaxLength).optional(),
    sort: z.enum(['-at', 'at']).default('-at'),
    action: commaList(word(64)).optional(),
    actorId: word(64).optional(),
    targetId: word(64).optional(),
    result: z.enum(['succeeded', 'refused']).optional(),
    since: instant.optional(),
    until: instant.optional(),
  }),
  output: page(auditEvent),
});

/**
 * Secrets and their versions. A secret's own routes show what is noted about it; the value has a route
 * of its own, and reading it counts as an access (R3.5).
 */
import { z } from 'zod';
import { wholeNumberText } from '../whole-number-text.ts';
import { apiLimits } from './api-limits.ts';
import {
  description,
  instant,
  listQuery,
  metadata,
  namespaceName,
  page,
  secretName,
  tag,
  tags,
} from './fields.ts';
import { agentOperation } from './operation.ts';
import { secretLimits } from './secret-limits.ts';

const group = 'Secrets';
const inNamespace = z.strictObject({ namespace: namespaceName });
const bySecret = z.strictObject({ namespace: namespaceName, name: secretName });
const versionNumber = z.number().int().min(1).max(2_147_483_647);
const versionInPath = wholeNumberText(1, 2_147_483_647);
const byVersion = z.strictObject({
  namespace: namespaceName,
  name: secretName,
  version: versionInPath,
});

/** How the bytes of a value are written in JSON. */
export const valueEncoding = z.enum(['text', 'base64']);
export type ValueEncoding = z.infer<typeof valueEncoding>;

/** In base64 it is a third longer; how many bytes it has is checked against the namespace's limit. */
const value = z.string().max(Math.ceil(apiLimits.valueMaxBytes / 3) * 4);
const maxVersions = z.number().int().min(1).max(secretLimits.maxVersionsMost);

/** `expired`: its value is not given out any more. `deleted`: it can come back. */
export const secretState = z.enum(['active', 'expired', 'deleted']);
export type SecretState = z.infer<typeof secretState>;
export const versionState = z.enum(['active', 'pending', 'deleted', 'destroyed']);

export const secretFacts = z.object({
  id: z.string(),
  namespace: z.string(),
  name: z.string(),
  state: secretState,
  /** The number of the current version. */
  version: z.number().int(),
  maxVersions: z.number().int(),
  description: z.string(),
  metadata: z.record(z.string(), z.string()),
  tags: z.array(z.string()),
  expiresAt: z.string().nullable(),
  createdAt: z.string(),
  createdBy: z.string(),
  updatedAt: z.string(),
  updatedBy: z.string(),
  /** Readings of its value; at most a second behind. */
  accessCount: z.number().int(),
  lastAccessedAt: z.string().nullable(),
  /** Changes with every change of the secret, not with its accesses. */
  etag: z.string(),
});
export type SecretFacts = z.infer<typeof secretFacts>;

export const secretVersion = z.object({
  version: z.number().int(),
  state: versionState,
  isCurrent: z.boolean(),
  byteLength: z.number().int(),
  encoding: valueEncoding,
  /** What made it: `written`, `rollback:3`, `rotation`, `import`, `copy`. */
  origin: z.string(),
  createdAt: z.string(),
  createdBy: z.string(),
});
export type SecretVersion = z.infer<typeof secretVersion>;

export const secretValue = z.object({
  namespace: z.string(),
  name: z.string(),
  version: z.number().int(),
  value: z.string(),
  encoding: valueEncoding,
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
  etag: z.string(),
});
export type SecretValue = z.infer<typeof secretValue>;

export const createSecret = agentOperation('secrets.create', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/secrets',
  summary: 'Store a secret under a new name',
  tag: group,
  action: 'secret.create',
  params: inNamespace,
  body: z.strictObject({
    name: secretName,
    value,
    encoding: valueEncoding.default('text'),
    description: description.default(''),
    metadata: metadata.default({}),
    tags: tags.default([]),
    expiresAt: instant.nullable().default(null),
    /** 10, where no policy set says otherwise. */
    maxVersions: maxVersions.optional(),
  }),
  output: secretFacts,
});

export const listSecrets = agentOperation('secrets.list', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/secrets',
  summary: 'List secrets by name, without their values',
  tag: group,
  action: 'secret.list',
  params: inNamespace,
  query: listQuery({
    prefix: z
      .string()
      .max(apiLimits.secretNameMaxLength)
      .regex(/^[A-Za-z0-9._/-]*$/, 'must be letters, digits and . _ - /')
      .optional(),
    tag: tag.optional(),
    /** Without it: everything that is not deleted. */
    state: z.enum(['active', 'expired', 'deleted', 'all']).optional(),
    expiresBefore: instant.optional(),
  }),
  output: page(secretFacts),
  narrows: true,
});

export const readSecret = agentOperation('secrets.read', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/secrets/{name}',
  summary: 'Show a secret without its value',
  tag: group,
  action: 'secret.read',
  params: bySecret,
  output: secretFacts,
});

export const updateSecret = agentOperation('secrets.update', {
  method: 'PATCH',
  path: '/v1/namespaces/{namespace}/secrets/{name}',
  summary: 'Change a secret; a value becomes a new version',
  tag: group,
  action: 'secret.update',
  params: bySecret,
  body: z.strictObject({
    value: value.optional(),
    encoding: valueEncoding.default('text'),
    description: description.optional(),
    metadata: metadata.optional(),
    tags: tags.optional(),
    expiresAt: instant.nullable().optional(),
    maxVersions: maxVersions.optional(),
    /** The current version, else nothing is changed. */
    expectedVersion: versionNumber.optional(),
  }),
  output: secretFacts,
  ifMatch: 'optional',
});

export const putSecretValue = agentOperation('secrets.put-value', {
  method: 'PUT',
  path: '/v1/namespaces/{namespace}/secrets/{name}/value',
  summary: 'Store a new version of the value',
  tag: group,
  action: 'secret.update',
  params: bySecret,
  body: z.strictObject({
    value,
    encoding: valueEncoding.default('text'),
    expectedVersion: versionNumber.optional(),
  }),
  output: secretFacts,
  ifMatch: 'optional',
});

export const readSecretValue = agentOperation('secrets.read-value', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/secrets/{name}/value',
  summary: 'Read the value of the current version, or of another',
  tag: group,
  action: 'secret.read-value',
  params: bySecret,
  query: z.strictObject({
    version: versionInPath.optional(),
    /** As it was written where this is not given. */
    encoding: valueEncoding.optional(),
  }),
  output: secretValue,
});

export const deleteSecret = agentOperation('secrets.delete', {
  method: 'DELETE',
  path: '/v1/namespaces/{namespace}/secrets/{name}',
  summary: 'Delete a secret so that it can come back',
  tag: group,
  action: 'secret.delete',
  params: bySecret,
  query: z.strictObject({ expectedVersion: versionInPath.optional() }),
  output: secretFacts,
  ifMatch: 'optional',
});

export const destroySecret = agentOperation('secrets.destroy', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/secrets/{name}/destroy',
  summary: 'Remove a secret with all its versions, for good',
  tag: group,
  action: 'secret.destroy',
  params: bySecret,
  body: z.strictObject({ expectedVersion: versionNumber.optional() }).prefault({}),
  status: 204,
  ifMatch: 'optional',
});

export const undeleteSecret = agentOperation('secrets.undelete', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/secrets/{name}/undelete',
  summary: 'Bring a deleted secret, or one deleted version of it, back',
  tag: group,
  action: 'secret.undelete',
  params: bySecret,
  body: z.strictObject({ version: versionNumber.optional() }).prefault({}),
  output: secretFacts,
  status: 200,
  ifMatch: 'optional',
});

export const rollbackSecret = agentOperation('secrets.rollback', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/secrets/{name}/rollback',
  summary: 'Make a new version with the value of an earlier one',
  tag: group,
  action: 'secret.rollback',
  params: bySecret,
  body: z.strictObject({
    version: versionNumber,
    expectedVersion: versionNumber.optional(),
  }),
  output: secretFacts,
  status: 200,
  ifMatch: 'optional',
});

export const listSecretVersions = agentOperation('secrets.list-versions', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/secrets/{name}/versions',
  summary: 'List the versions of a secret, the newest first',
  tag: group,
  action: 'secret.list-versions',
  params: bySecret,
  query: listQuery({}),
  output: page(secretVersion),
});

export const readSecretVersion = agentOperation('secrets.read-version', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/secrets/{name}/versions/{version}',
  summary: 'Show a version without its value',
  tag: group,
  action: 'secret.list-versions',
  params: byVersion,
  output: secretVersion,
});

export const deleteSecretVersion = agentOperation('secrets.delete-version', {
  method: 'DELETE',
  path: '/v1/namespaces/{namespace}/secrets/{name}/versions/{version}',
  summary: 'Delete a version so that it can come back',
  tag: group,
  action: 'secret.delete',
  params: byVersion,
  output: secretVersion,
  ifMatch: 'optional',
});

export const destroySecretVersion = agentOperation('secrets.destroy-version', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/secrets/{name}/versions/{version}/destroy',
  summary: 'Destroy the value of a version for good; that it was there stays known',
  tag: group,
  action: 'secret.destroy',
  params: byVersion,
  output: secretVersion,
  status: 200,
  ifMatch: 'optional',
});

export const secretOperations = [
  createSecret,
  listSecrets,
  readSecret,
  updateSecret,
  putSecretValue,
  readSecretValue,
  deleteSecret,
  destroySecret,
  undeleteSecret,
  rollbackSecret,
  listSecretVersions,
  readSecretVersion,
  deleteSecretVersion,
  destroySecretVersion,
];

/**
 * Namespaces: named, bounded groups of secrets, with counters that are kept in the same transaction as
 * what they count.
 */
import { z } from 'zod';
import { problem } from '../errors.ts';
import { wholeNumberText } from '../whole-number-text.ts';
import { apiLimits } from './api-limits.ts';
import { description, displayName, listQuery, namespaceName, page, tag, tags } from './fields.ts';
import { agentOperation } from './operation.ts';
import { secretLimits } from './secret-limits.ts';

const group = 'Namespaces';
const byName = z.strictObject({ namespace: namespaceName });
const count = z.number().int().nullable();
const owner = z.union([z.literal(''), displayName]);

/** What a namespace may hold at most. */
export const namespaceLimits = z.strictObject({
  secretsMax: z.number().int().min(1).max(secretLimits.secretsPerNamespaceMost),
  valueMaxBytes: z.number().int().min(1).max(apiLimits.valueMaxBytes),
});

export const namespaceFacts = z.object({
  id: z.string(),
  name: z.string(),
  description: z.string(),
  owner: z.string(),
  tags: z.array(z.string()),
  limits: z.object({ secretsMax: z.number().int(), valueMaxBytes: z.number().int() }),
  /**
   * Including those that are deleted but can come back. Null, like all that is counted here, where
   * policies hide some of the secrets from the caller.
   */
  secretCount: count,
  deletedCount: count,
  versionCount: count,
  /** Of all versions' values. */
  totalBytes: count,
  createdAt: z.string(),
  createdBy: z.string(),
  updatedAt: z.string(),
  /** Changes with every change in the namespace. */
  etag: z.string(),
});
export type NamespaceFacts = z.infer<typeof namespaceFacts>;

export const createNamespace = agentOperation('namespaces.create', {
  method: 'POST',
  path: '/v1/namespaces',
  summary: 'Make a namespace',
  tag: group,
  action: 'namespace.create',
  body: z.strictObject({
    name: namespaceName,
    description: description.default(''),
    owner: owner.default(''),
    tags: tags.default([]),
    limits: namespaceLimits.partial().default({}),
  }),
  output: namespaceFacts,
  narrows: 'by_policies',
});

export const listNamespaces = agentOperation('namespaces.list', {
  method: 'GET',
  path: '/v1/namespaces',
  summary: 'List namespaces by name',
  tag: group,
  action: 'namespace.list',
  query: listQuery({
    prefix: z.string().max(apiLimits.namespaceNameMaxLength).optional(),
    tag: tag.optional(),
  }),
  output: page(namespaceFacts),
  narrows: true,
});

export const readNamespace = agentOperation('namespaces.read', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}',
  summary: 'Show a namespace',
  tag: group,
  action: 'namespace.read',
  params: byName,
  output: namespaceFacts,
  narrows: 'by_policies',
});

export const updateNamespace = agentOperation('namespaces.update', {
  method: 'PATCH',
  path: '/v1/namespaces/{namespace}',
  summary: 'Change what is noted about a namespace, and its limits',
  tag: group,
  action: 'namespace.update',
  params: byName,
  body: z.strictObject({
    description: description.optional(),
    owner: owner.optional(),
    tags: tags.optional(),
    limits: namespaceLimits.partial().optional(),
  }),
  output: namespaceFacts,
  ifMatch: 'optional',
  narrows: 'by_policies',
});

export const deleteNamespace = agentOperation('namespaces.delete', {
  method: 'DELETE',
  path: '/v1/namespaces/{namespace}',
  summary: 'Delete a namespace with everything in it, for good',
  tag: group,
  action: 'namespace.delete',
  params: byName,
  query: z.strictObject({
    /** `true`: only where it holds no secrets. */
    onlyEmpty: z.enum(['true', 'false']).default('false'),
  }),
  output: z.object({ name: z.string(), deletedSecrets: z.number().int() }),
  ifMatch: 'optional',
});

export const copyNamespace = agentOperation('namespaces.copy', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/copy',
  summary: 'Copy a namespace, with all versions, to a new name; all or nothing',
  tag: group,
  action: 'namespace.copy',
  params: byName,
  body: z.strictObject({ to: namespaceName }),
  output: z.object({ namespace: namespaceFacts, copiedSecrets: z.number().int() }),
  narrows: 'by_policies',
});

export const moveNamespace = agentOperation('namespaces.move', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/move',
  summary: 'Give a namespace another name',
  tag: group,
  action: 'namespace.update',
  params: byName,
  body: z.strictObject({ to: namespaceName }),
  output: namespaceFacts,
  status: 200,
  ifMatch: 'optional',
  narrows: 'by_policies',
});

export const namespaceStatistics = z.object({
  namespace: z.string(),
  /** What is counted is null where policies hide some of the secrets from the caller. */
  secretCount: count,
  deletedCount: count,
  versionCount: count,
  totalBytes: count,
  /** Bytes of a name and of a version's value; 0 where there are none. */
  averageNameBytes: z.number().nullable(),
  averageValueBytes: z.number().nullable(),
  accessCount: count,
  accessCount24h: count,
  lastAccessedAt: z.string().nullable(),
  /** Of the thousand most read secrets those that the caller sees, the first one first. */
  topSecrets: z.array(
    z.object({ name: z.string(), accessCount: z.number().int(), lastAccessedAt: z.string() }),
  ),
});
export type NamespaceStatistics = z.infer<typeof namespaceStatistics>;

export const readNamespaceStatistics = agentOperation('namespaces.statistics', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/statistics',
  summary: 'Count what a namespace holds and how it is used',
  tag: group,
  action: 'namespace.statistics',
  params: byName,
  query: z.strictObject({
    top: wholeNumberText(0, secretLimits.topSecretsMax).default(10),
  }),
  output: namespaceStatistics,
  narrows: 'by_policies',
});

export const accessLogEntry = z.object({
  at: z.string(),
  operation: z.string(),
  secret: z.string(),
  identity: z.string(),
  durationMicroseconds: z.number().int(),
});

export const readAccessLog = agentOperation('namespaces.access-log', {
  method: 'GET',
  path: '/v1/namespaces/{namespace}/access-log',
  summary: 'Show the latest accesses, the newest first; the audit is the complete record',
  tag: group,
  action: 'namespace.statistics',
  params: byName,
  query: listQuery({}),
  output: page(accessLogEntry),
  narrows: 'by_policies',
});

/** Whom an export is sealed for. */
const recipient = z.union([
  z.strictObject({ passphrase: z.string().min(12).max(1_024) }),
  /** `keystead-recipient-…`, a public key: whoever has the identity opens it. */
  z.strictObject({ recipient: z.string().max(200) }),
]);

export const exportNamespace = agentOperation('namespaces.export', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/export',
  summary: 'Write a namespace into an encrypted archive',
  tag: group,
  action: 'namespace.export',
  params: byName,
  body: recipient,
  status: 200,
  streams: 'out',
});

export const importResult = z.object({
  namespace: z.string(),
  dryRun: z.boolean(),
  created: z.number().int(),
  replaced: z.number().int(),
  skipped: z.number().int(),
  versions: z.number().int(),
  bytes: z.number().int(),
});
export type ImportResult = z.infer<typeof importResult>;

/** How far an import is: everything is checked first, and then written. */
export const importProgress = z.object({
  phase: z.enum(['checking', 'writing']),
  created: z.number().int(),
  replaced: z.number().int(),
  skipped: z.number().int(),
  versions: z.number().int(),
  bytes: z.number().int(),
});
export type ImportProgress = z.infer<typeof importProgress>;

export const importNamespace = agentOperation('namespaces.import', {
  method: 'POST',
  path: '/v1/namespaces/{namespace}/import',
  summary:
    'Read an encrypted archive into a namespace, all or nothing; the header keystead-archive-key holds the identity, or the passphrase in base64',
  tag: group,
  action: 'namespace.import',
  params: byName,
  query: z.strictObject({
    /** What happens to a secret that is there already. */
    existing: z.enum(['fail', 'skip', 'replace']).default('fail'),
    /** `true`: a namespace that is missing is made as the archive describes it. */
    createNamespace: z.enum(['true', 'false']).default('false'),
    /** `true`: everything is checked and nothing written. */
    dryRun: z.enum(['true', 'false']).default('false'),
  }),
  output: importResult,
  lines: z.union([importProgress, z.object({ result: importResult }), z.object({ problem })]),
  status: 200,
  bodyMaxBytes: secretLimits.archiveMaxBytes,
  streams: 'in',
});

export const namespaceOperations = [
  createNamespace,
  listNamespaces,
  readNamespace,
  updateNamespace,
  deleteNamespace,
  copyNamespace,
  moveNamespace,
  readNamespaceStatistics,
  readAccessLog,
  exportNamespace,
  importNamespace,
];

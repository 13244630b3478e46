/**
 * Tokens: values behind random names, each under a password of its own that the agent does not keep.
 * Tokens and passwords travel in bodies alone: an address ends in logs and histories.
 */
import { z } from 'zod';
import { apiLimits } from './api-limits.ts';
import { instant } from './fields.ts';
import { agentOperation } from './operation.ts';
import { valueEncoding } from './secrets.ts';
import { tokenLimits as limits } from './token-limits.ts';

const group = 'Tokens';

export const token = z.string().min(1).max(limits.tokenMaxLength);
/** How long a new one has to be is said where it is set; one that is used may be older than the rule. */
const password = z.string().min(1, 'is required').max(limits.passwordMaxLength);
const value = z.string().max(Math.ceil(apiLimits.valueMaxBytes / 3) * 4);

/** What is noted beside a value, not encrypted; records are found by it. */
export const recordData = z
  .record(
    z.string().min(1).max(limits.dataNameMaxLength),
    z.string().max(limits.dataValueMaxLength),
  )
  .refine(
    (data) => Object.keys(data).length <= limits.dataEntriesMax,
    `at most ${limits.dataEntriesMax} entries`,
  );

export const recordFacts = z.object({
  id: z.string(),
  token: z.string(),
  data: z.record(z.string(), z.string()),
  createdAt: z.string(),
  updatedAt: z.string(),
  expiresAt: z.string().nullable(),
  softDeletedAt: z.string().nullable(),
});
export type RecordFacts = z.infer<typeof recordFacts>;

const tokenStatus = z.enum([
  'found',
  'missing',
  'expired',
  'invalid_password',
  'corrupt',
  'changed',
]);
const byToken = z.strictObject({ token });
const nothing = z.object({});

const newValue = {
  value,
  encoding: valueEncoding.default('text'),
  password,
};

export const createToken = agentOperation('tokens.create', {
  method: 'POST',
  path: '/v1/tokens',
  summary: 'Store a value behind a token: generated, or one that is given',
  tag: group,
  action: 'token.create',
  body: z.strictObject({
    ...newValue,
    token: token.optional(),
    data: recordData.default({}),
    /** Left out: what a policy set says, or else never. */
    expiresAt: instant.nullable().optional(),
  }),
  output: recordFacts,
});

export const readToken = agentOperation('tokens.read-value', {
  method: 'POST',
  path: '/v1/tokens/read-value',
  summary: 'Read the value behind a token',
  tag: group,
  action: 'token.read-value',
  effect: 'read',
  body: z.strictObject({
    token,
    password,
    /** Without it as text where it is text. */
    encoding: valueEncoding.optional(),
  }),
  output: z.object({ value: z.string(), encoding: valueEncoding }),
  status: 200,
});

export const readTokens = agentOperation('tokens.read-values', {
  method: 'POST',
  path: '/v1/tokens/read-values',
  summary: 'Read many tokens of one password; what cannot be read is said',
  tag: group,
  action: 'token.read-value',
  effect: 'read',
  body: z.strictObject({
    tokens: z.array(z.string().max(limits.tokenMaxLength)).max(limits.readManyMax),
    password,
  }),
  output: z.object({
    /** One for each token, in the order asked for. */
    items: z.array(
      z.object({
        token: z.string(),
        status: tokenStatus,
        value: z.string().optional(),
        encoding: valueEncoding.optional(),
      }),
    ),
  }),
  status: 200,
});

export const tokenExists = agentOperation('tokens.exists', {
  method: 'POST',
  path: '/v1/tokens/exists',
  summary: 'Tell whether a token could be read now',
  tag: group,
  action: 'token.read',
  effect: 'read',
  body: byToken,
  output: z.object({ exists: z.boolean() }),
  status: 200,
});

export const updateToken = agentOperation('tokens.update', {
  method: 'POST',
  path: '/v1/tokens/update',
  summary: 'Store another value under the same password, which must be right',
  tag: group,
  action: 'token.update',
  body: z.strictObject({ token, ...newValue }),
  output: nothing,
  status: 200,
});

export const upsertToken = agentOperation('tokens.upsert', {
  method: 'PUT',
  path: '/v1/tokens',
  summary: 'Update the token where it is there, create it where it is not',
  tag: group,
  action: 'token.update',
  body: z.strictObject({
    token,
    ...newValue,
    data: recordData.optional(),
    expiresAt: instant.nullable().optional(),
  }),
  output: z.object({ outcome: z.enum(['created', 'updated']) }),
});

export const renewToken = agentOperation('tokens.renew', {
  method: 'POST',
  path: '/v1/tokens/renew',
  summary: 'Give a token another time, or none; also an expired one',
  tag: group,
  action: 'token.update',
  body: z.strictObject({ token, expiresAt: instant.nullable() }),
  output: nothing,
  status: 200,
});

export const changeTokenPasswords = agentOperation('tokens.change-password', {
  method: 'POST',
  path: '/v1/tokens/change-password',
  summary: 'Give some tokens another password; for all of a password there is rekey',
  tag: group,
  action: 'token.update',
  body: z.strictObject({
    tokens: z.array(token).min(1).max(limits.changePasswordMax),
    oldPassword: password,
    newPassword: password,
  }),
  output: z.object({ items: z.array(z.object({ token: z.string(), status: tokenStatus })) }),
  status: 200,
});

export const softDeleteToken = agentOperation('tokens.soft-delete', {
  method: 'POST',
  path: '/v1/tokens/soft-delete',
  summary: 'Mark a token as deleted; it can come back',
  tag: group,
  action: 'token.delete',
  body: byToken,
  output: nothing,
  status: 200,
});

export const restoreToken = agentOperation('tokens.restore', {
  method: 'POST',
  path: '/v1/tokens/restore',
  summary: 'Bring a token back that was marked as deleted',
  tag: group,
  action: 'token.update',
  body: byToken,
  output: nothing,
  status: 200,
});

export const deleteToken = agentOperation('tokens.delete', {
  method: 'POST',
  path: '/v1/tokens/delete',
  summary: 'Delete a token for good',
  tag: group,
  action: 'token.delete',
  body: byToken,
  output: nothing,
  status: 200,
});

export const sweepTokens = agentOperation('tokens.sweep', {
  method: 'POST',
  path: '/v1/tokens/sweep',
  summary: 'Mark expired tokens as deleted, or delete them for good',
  tag: group,
  action: 'token.delete',
  body: z.strictObject({
    mode: z.enum(['soft', 'hard']),
    /** Only those that expired at least so long ago. */
    graceSeconds: z.number().int().min(0).max(1_000_000_000).default(0),
  }),
  output: z.object({ swept: z.number().int() }),
  status: 200,
});

/** `interrupted`: its agent ended in the middle; the next run of the same passwords goes on. */
export const rekeyRunStates = [
  'running',
  'finished',
  'aborted',
  'timed_out',
  'failed',
  'interrupted',
] as const;

export const rekeyRun = z.object({
  id: z.string(),
  kind: z.enum(['rekey', 'upgrade']),
  state: z.enum(rekeyRunStates),
  dryRun: z.boolean(),
  requestedBy: z.string(),
  startedAt: z.string(),
  endedAt: z.string().nullable(),
  /** Whether it goes on from one that was cut off; the counts are of both. Known at the end. */
  resumed: z.boolean(),
  examined: z.number().int(),
  total: z.number().int(),
  matched: z.number().int(),
  otherPassword: z.number().int(),
  /** Of an upgrade: nothing to do. */
  alreadyCurrent: z.number().int(),
  corrupt: z.number().int(),
  /** The first thousand. */
  corruptIds: z.array(z.string()),
  changedMeanwhile: z.number().int(),
  changedIds: z.array(z.string()),
  recordsPerSecond: z.number(),
  remainingSeconds: z.number().nullable(),
  /** Of a dry run: how long the real one would take. */
  estimatedSeconds: z.number().nullable(),
  problem: z.string().nullable(),
});
export type RekeyRun = z.infer<typeof rekeyRun>;

const runOptions = {
  /** Counts and estimates; writes nothing. */
  dryRun: z.boolean().default(false),
  timeoutSeconds: z.number().int().min(1).max(limits.rekeyTimeoutMaxSeconds).optional(),
};
const byRun = z.strictObject({
  id: z.string().regex(/^rky_[0-9a-z]{26}$/, 'must be rky_ and 26 characters'),
});

export const startRekey = agentOperation('tokens.rekey', {
  method: 'POST',
  path: '/v1/tokens/rekey',
  summary: 'Give every record of one password another, in the background',
  tag: group,
  action: 'token.rekey',
  body: z.strictObject({ oldPassword: password, newPassword: password, ...runOptions }),
  output: rekeyRun,
  status: 202,
});

export const startUpgrade = agentOperation('tokens.upgrade', {
  method: 'POST',
  path: '/v1/tokens/upgrade',
  summary: 'Bring every record of one password to the current parameters, in the background',
  tag: group,
  action: 'token.rekey',
  body: z.strictObject({ password, ...runOptions }),
  output: rekeyRun,
  status: 202,
});

export const listRekeys = agentOperation('tokens.list-rekeys', {
  method: 'GET',
  path: '/v1/tokens/rekey',
  summary: 'Show the runs of every agent of the store, the newest first',
  tag: group,
  action: 'token.rekey',
  output: z.object({ items: z.array(rekeyRun) }),
});

export const readRekey = agentOperation('tokens.read-rekey', {
  method: 'GET',
  path: '/v1/tokens/rekey/{id}',
  summary: 'Show how far a run is',
  tag: group,
  action: 'token.rekey',
  params: byRun,
  output: rekeyRun,
});

export const abortRekey = agentOperation('tokens.abort-rekey', {
  method: 'POST',
  path: '/v1/tokens/rekey/{id}/abort',
  summary: 'Stop a run, of whichever agent; the next one of the same passwords goes on from there',
  tag: group,
  action: 'token.rekey',
  params: byRun,
  output: rekeyRun,
  status: 200,
});

export const tokenOperations = [
  createToken,
  readToken,
  readTokens,
  tokenExists,
  updateToken,
  upsertToken,
  renewToken,
  changeTokenPasswords,
  softDeleteToken,
  restoreToken,
  deleteToken,
  sweepTokens,
  startRekey,
  startUpgrade,
  listRekeys,
  readRekey,
  abortRekey,
];

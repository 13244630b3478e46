/** Records of the token vault by their ids: what is noted beside a value, and how long it stays. */
import { z } from 'zod';
import { instant, listQuery, page } from './fields.ts';
import { agentOperation } from './operation.ts';
import { tokenLimits as limits } from './token-limits.ts';
import { createToken, recordData, recordFacts } from './tokens.ts';

const group = 'Records';

const recordId = z
  .string()
  .min(1)
  .max(limits.recordIdMaxLength)
  .regex(/^[A-Za-z0-9_-]+$/, 'must be letters, digits, _ and -');
const byId = z.strictObject({ id: recordId });

const filters = {
  createdFrom: instant.optional(),
  createdBefore: instant.optional(),
  updatedFrom: instant.optional(),
  updatedBefore: instant.optional(),
  expiresFrom: instant.optional(),
  expiresBefore: instant.optional(),
  expiry: z.enum(['expired', 'not-expired']).optional(),
  softDeleted: z.enum(['without', 'with', 'only']).default('without'),
  /** With `dataValue`: an entry of the metadata, exactly. */
  dataName: z.string().min(1).max(limits.dataNameMaxLength).optional(),
  dataValue: z.string().max(limits.dataValueMaxLength).optional(),
};

export const createRecord = agentOperation('records.create', {
  method: 'POST',
  path: '/v1/records',
  summary: 'Store a value with an id and a token, generated or given',
  tag: group,
  action: 'record.create',
  body: createToken.body.extend({ id: recordId.optional() }),
  output: recordFacts,
});

export const listRecords = agentOperation('records.list', {
  method: 'GET',
  path: '/v1/records',
  summary: 'List records, without their values',
  tag: group,
  action: 'record.list',
  query: listQuery({
    ...filters,
    sort: z.enum(['id', 'createdAt', 'updatedAt', 'expiresAt']).default('id'),
    direction: z.enum(['asc', 'desc']).default('asc'),
  }),
  output: page(recordFacts),
});

export const countRecords = agentOperation('records.count', {
  method: 'GET',
  path: '/v1/records-count',
  summary: 'Count records',
  tag: group,
  action: 'record.list',
  query: z.strictObject(filters),
  output: z.object({ count: z.number().int() }),
});

export const readRecord = agentOperation('records.read', {
  method: 'GET',
  path: '/v1/records/{id}',
  summary: 'Show a record, without its value; also an expired or soft-deleted one',
  tag: group,
  action: 'record.read',
  params: byId,
  output: recordFacts,
});

export const updateRecord = agentOperation('records.update', {
  method: 'PATCH',
  path: '/v1/records/{id}',
  summary: 'Change what is noted beside a value, and its time',
  tag: group,
  action: 'record.update',
  params: byId,
  body: z.strictObject({
    /** In the place of all there is. */
    data: recordData.optional(),
    expiresAt: instant.nullable().optional(),
  }),
  output: recordFacts,
});

export const deleteRecord = agentOperation('records.delete', {
  method: 'DELETE',
  path: '/v1/records/{id}',
  summary: 'Mark a record as deleted, or delete it for good',
  tag: group,
  action: 'record.delete',
  params: byId,
  query: z.strictObject({ mode: z.enum(['soft', 'hard']).default('soft') }),
  output: z.object({}),
});

export const restoreRecord = agentOperation('records.restore', {
  method: 'POST',
  path: '/v1/records/{id}/restore',
  summary: 'Bring a record back that was marked as deleted',
  tag: group,
  action: 'record.update',
  params: byId,
  output: recordFacts,
  status: 200,
});

export const recordOperations = [
  createRecord,
  listRecords,
  countRecords,
  readRecord,
  updateRecord,
  deleteRecord,
  restoreRecord,
];

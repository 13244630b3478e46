/** From a request to the checked input of an operation. What an operation never has is never read. */
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import { namespaceName, secretName } from '@keystead/contracts/agent-api/fields';
import type { AgentInput, AgentOperation } from '@keystead/contracts/agent-api/operation';
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { readJson, readQuery } from '@keystead/contracts/http/request-text';
import { inOurWords } from '@keystead/contracts/issue-text';
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

export type ReadInput = (request: FastifyRequest) => AgentInput<AgentOperation>;

type Parts = AgentInput<AgentOperation>;
const nothing = Object.freeze({});

/** Reads the input of one operation. @throws ServiceError `invalid_request`, from what it answers */
export function inputReader(operation: AgentOperation): ReadInput {
  const { params, query, body } = operation;
  const hasParams = operation.path.includes('{');
  const isPlain = plainCheck(params);
  const takesQuery = !isEmpty(query);
  const unasked = withoutQuery(query);
  const takesBody = operation.streams !== 'in' && !isEmpty(body);
  const takesIfMatch = operation.ifMatch !== 'none';
  const readParams = (given: unknown) =>
    isPlain?.(given as Record<string, unknown>) ? given : check(params, 'path', given);
  return (request) => {
    const input: Parts = {
      params: hasParams ? readParams(request.params) : nothing,
      query: nothing,
      body: nothing,
      ifMatch: null,
    };
    const asks = request.url.includes('?');
    if (asks) input.query = check(query, 'query', readQuery(request.url));
    else if (takesQuery) input.query = unasked ?? check(query, 'query', {});
    if (takesIfMatch) input.ifMatch = readEntityTag(request.headers['if-match']);
    if (operation.streams !== 'in' && (takesBody || request.body !== undefined)) {
      // A missing body is an empty object: the schema then names the fields it misses.
      const sent = request.body === undefined ? undefined : readJson(request.body as Buffer);
      input.body = check(body, 'body', sent === undefined ? {} : sent);
    }
    return input;
  };
}

/** What the schemas of names say, in one look; what does not pass is left to them to explain. */
const plainNames = new Map<unknown, { form: RegExp; most: number }>([
  [
    namespaceName,
    {
      form: /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/,
      most: apiLimits.namespaceNameMaxLength,
    },
  ],
  [
    secretName,
    {
      form: /^(?!\.{1,2}(?:\/|$))[A-Za-z0-9._-]+(?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._-]+)*$/,
      most: apiLimits.secretNameMaxLength,
    },
  ],
]);

/** For parameters that are names alone: whether they are as they have to be. */
export function plainCheck(
  params: z.ZodType,
): ((given: Record<string, unknown>) => boolean) | undefined {
  if (!(params instanceof z.ZodObject)) return undefined;
  const fields = Object.entries(params.shape as Record<string, unknown>);
  const checks = fields.map(([name, schema]) => ({ name, ...plainNames.get(schema) }));
  if (!checks.every(({ form }) => form !== undefined)) return undefined;
  return (given) =>
    checks.every(({ name, form, most = 0 }) => {
      const value = given[name];
      return typeof value === 'string' && value.length <= most && form?.test(value) === true;
    });
}

/** What a query is where none was sent; undefined where something of it is needed, or new each time. */
function withoutQuery(schema: z.ZodType): object | undefined {
  const parsed = schema.safeParse({});
  const isBare = parsed.success && Object.keys(parsed.data as object).length === 0;
  return isBare ? nothing : undefined;
}

function isEmpty(schema: z.ZodType): boolean {
  return schema instanceof z.ZodObject && Object.keys(schema.shape).length === 0;
}

function check(schema: z.ZodType, location: 'path' | 'query' | 'body', value: unknown): unknown {
  const parsed = schema.safeParse(value ?? {}, inOurWords);
  if (!parsed.success) throw invalidRequest(location, parsed.error.issues);
  return parsed.data;
}

const strongTag = /^"([\x21\x23-\x7e]{1,200})"$/;

/** One strong tag without its quotes, or `*`. @throws ServiceError `invalid_request` */
function readEntityTag(header: string | undefined): string | null {
  if (header === undefined) return null;
  const text = header.trim();
  if (text === '*') return text;
  const tag = strongTag.exec(text)?.[1];
  if (tag !== undefined) return tag;
  // A list, or a weak tag, holds for no change of ours: it says what the caller does not mean.
  throw invalidRequest('header', [
    { path: ['If-Match'], message: 'must be the ETag of an earlier answer, or *' },
  ]);
}

/** @throws ServiceError `invalid_request` */
export function needsHost(request: FastifyRequest): void {
  if (request.raw.httpVersion === '1.1' && request.headers.host === undefined) {
    throw new ServiceError('invalid_request', { detail: 'The Host header is missing' });
  }
}

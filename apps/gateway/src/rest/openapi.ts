/**
 * The OpenAPI 3.1 document, generated from the operations. Nothing about an operation is written
 * here: a field, a bound or a permission that changes in the contract changes in the document.
 */
import * as analytics from '@keystead/contracts/analytics';
import * as auth from '@keystead/contracts/auth';
import { type ErrorCode, errorCodes, problem } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import * as monitoring from '@keystead/contracts/monitoring';
import * as notification from '@keystead/contracts/notification';
import type { Operation } from '@keystead/contracts/operation';
import * as policy from '@keystead/contracts/policy';
import * as registry from '@keystead/contracts/registry';
import { z } from 'zod';
import { publicOperations, streamEvents } from './public-operations.ts';

export interface JsonSchema {
  [key: string]: unknown;
}
type Json = Record<string, unknown>;

const version = '1.0.0';
const models = '#/components/schemas/';

/** In an order of their own, so that the document is the same wherever it is made. */
const described = publicOperations.toSorted((one, other) =>
  `${one.path} ${one.method}` < `${other.path} ${other.method}` ? -1 : 1,
);

/** Schemas that contracts export by a name keep it, and are referred to. */
const named = [auth, registry, monitoring, policy, analytics, notification]
  .flatMap((contract) => Object.entries(contract as Record<string, unknown>))
  .filter((entry): entry is [string, z.ZodObject] => entry[1] instanceof z.ZodObject)
  .toSorted(([one], [other]) => (one < other ? -1 : 1));

export function openApiDocument(): Json {
  const answers = answerSchemas();
  const paths: Record<string, Json> = {};
  for (const operation of described) {
    paths[operation.path] ??= {};
    Object.assign(paths[operation.path] as Json, {
      [operation.method.toLowerCase()]: describe(operation, answers),
    });
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Keystead',
      version,
      description:
        'The public API of the control plane. Every error is a problem document (RFC 9457). Lists answer `{items, nextCursor}`; hand `nextCursor` back as `cursor`. Ids are prefixed and opaque, times are UTC.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(described.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      securitySchemes: {
        session: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'JWT',
          description: 'The access token that signing in answers.',
        },
        apiKey: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'ks_…',
          description: 'An API key, sent the same way.',
        },
      },
      parameters,
      headers,
      responses: Object.fromEntries(
        [...problemStatuses].map(([status, codes]) => [
          `Problem${status}`,
          problemOf(status, codes),
        ]),
      ),
      schemas: { Problem: jsonSchema(problem, 'output'), ...answers.models },
    },
  };
}

interface Answers {
  models: Record<string, JsonSchema>;
  of: Map<Operation, JsonSchema>;
}

/** Converted together, so that what they share becomes a reference. */
function answerSchemas(): Answers {
  const shared = z.registry<{ id: string }>();
  const names = new Map<z.ZodType, string>();
  const add = (schema: z.ZodType, name: string) => {
    if (names.has(schema)) return;
    names.set(schema, name);
    shared.add(schema, { id: name });
  };
  for (const [name, schema] of named) add(schema, pascalCase(name));
  const answering = described.filter(({ status }) => status !== 204);
  for (const operation of answering) {
    if (operation !== streamEvents) add(operation.output, `${pascalCase(operation.id)}Answer`);
  }
  const { schemas } = z.toJSONSchema(shared, {
    io: 'output',
    uri: (id) => `${models}${id}`,
    override: (context) => {
      tidy(context);
      // An answer may gain fields; who reads it passes over what it does not know.
      if (context.jsonSchema.additionalProperties === false) {
        delete context.jsonSchema.additionalProperties;
      }
    },
  });
  const of = new Map<Operation, JsonSchema>();
  for (const operation of answering) {
    const name = names.get(operation.output);
    if (name) of.set(operation, { $ref: `${models}${name}` });
  }
  return {
    models: Object.fromEntries(
      Object.entries(schemas).map(([name, schema]) => [name, withoutIdentity(schema)]),
    ),
    of,
  };
}

function describe(operation: Operation, answers: Answers): Json {
  const { id, permission } = operation;
  const isStream = operation === streamEvents;
  const body = jsonSchema(operation.body, 'input');
  const hasBody =
    Object.keys((body.properties as Json | undefined) ?? {}).length > 0 ||
    'anyOf' in body ||
    'oneOf' in body;
  const isWrite = operation.method !== 'GET';
  return {
    operationId: id,
    summary: operation.summary,
    tags: [operation.tag],
    ...(permission === 'public' || permission === 'signedIn'
      ? {}
      : { description: `Needs the permission \`${permission}\`.` }),
    security: permission === 'public' ? [] : [{ session: [] }, { apiKey: [] }],
    parameters: [
      ...pathParameters(operation),
      ...queryParameters(operation),
      ...(operation.ifMatch === 'required'
        ? [reference('parameters', 'IfMatchRequired')]
        : isWrite && answersEtag(operation)
          ? [reference('parameters', 'IfMatch')]
          : []),
      ...(isWrite && permission !== 'public' ? [reference('parameters', 'IdempotencyKey')] : []),
      ...(isStream ? [reference('parameters', 'LastEventId')] : []),
      reference('parameters', 'RequestId'),
    ],
    ...(hasBody
      ? {
          requestBody: {
            required: needsBody(body),
            content: { 'application/json': { schema: body } },
          },
        }
      : {}),
    responses: {
      [operation.status]: isStream ? streamAnswer() : answer(operation, answers),
      ...Object.fromEntries(
        problemsOf(operation, hasBody).map((status) => [
          status,
          reference('responses', `Problem${status}`),
        ]),
      ),
    },
  };
}

function answer(operation: Operation, answers: Answers): Json {
  const schema = answers.of.get(operation);
  return {
    description: operation.status === 204 ? 'Done' : operation.summary,
    headers: {
      'X-Request-Id': reference('headers', 'RequestId'),
      RateLimit: reference('headers', 'RateLimit'),
      'RateLimit-Policy': reference('headers', 'RateLimitPolicy'),
      ...(schema && answersEtag(operation) ? { ETag: reference('headers', 'ETag') } : {}),
      ...(operation.status === 201 && shows(`${operation.path}/{id}`)
        ? { Location: reference('headers', 'Location') }
        : {}),
    },
    ...(schema ? { content: { 'application/json': { schema } } } : {}),
  };
}

function streamAnswer(): Json {
  return {
    description:
      'A stream that stays open. Each event is one of `' +
      `${monitoring.liveEventTypes.join('`, `')}\`; its data is the JSON of a LiveEvent. An event ` +
      'named `missed` says that the position asked for is older than what is kept.',
    content: { 'text/event-stream': { schema: { type: 'string' } } },
  };
}

const shows = (path: string) =>
  publicOperations.some((other) => other.method === 'GET' && other.path === path);

function answersEtag({ output }: Operation): boolean {
  return output instanceof z.ZodObject && 'etag' in output.shape;
}

const needsBody = (body: JsonSchema) =>
  'anyOf' in body || 'oneOf' in body || ((body.required as string[] | undefined) ?? []).length > 0;

function pathParameters(operation: Operation): Json[] {
  const schema = jsonSchema(operation.params, 'input');
  return Object.entries((schema.properties as Record<string, JsonSchema> | undefined) ?? {}).map(
    ([name, parameter]) => ({ name, in: 'path', required: true, schema: parameter }),
  );
}

function queryParameters(operation: Operation): Json[] {
  // What comes out is what is meant: a number rather than its text, a list rather than its commas.
  const meant = jsonSchema(operation.query, 'output');
  const required = (jsonSchema(operation.query, 'input').required as string[] | undefined) ?? [];
  return Object.entries((meant.properties as Record<string, JsonSchema> | undefined) ?? {}).map(
    ([name, parameter]) => ({
      name,
      in: 'query',
      required: required.includes(name),
      ...(parameter.type === 'array' ? { style: 'form', explode: false } : {}),
      schema: parameter,
    }),
  );
}

function problemsOf(operation: Operation, hasBody: boolean): number[] {
  const isWrite = operation.method !== 'GET';
  return [
    400,
    ...(operation.permission === 'public' ? [401, 403] : [401]),
    ...(operation.permission === 'public' || operation.permission === 'signedIn' ? [] : [403]),
    ...(operation.path.includes('{') ? [404] : []),
    ...(isWrite ? [409, 410, 412, 422] : []),
    ...(hasBody ? [413, 415] : []),
    ...(operation.ifMatch === 'required' ? [428] : []),
    429,
    503,
  ];
}

const problemStatuses = Map.groupBy(
  Object.keys(errorCodes) as ErrorCode[],
  (code) => errorCodes[code].status,
);

function problemOf(status: number, codes: ErrorCode[]): Json {
  const [first = 'internal'] = codes;
  return {
    description: codes.map((code) => `\`${code}\`: ${errorCodes[code].title}`).join('. '),
    ...(status === 429 || status === 503
      ? { headers: { 'Retry-After': reference('headers', 'RetryAfter') } }
      : {}),
    content: {
      'application/problem+json': {
        schema: { $ref: `${models}Problem` },
        example: {
          type: `urn:keystead:problem:${first}`,
          title: errorCodes[first].title,
          status,
          code: first,
          requestId: '01a1fce8-d326-7aef-8163-e5e71c965eda',
          timestamp: '2026-11-21T07:01:19.419Z',
        },
      },
    },
  };
}

const parameters: Record<string, Json> = {
  IdempotencyKey: {
    name: 'Idempotency-Key',
    in: 'header',
    description: `A key of the caller's own. Sent again within ${limits.idempotencyKeepHours} hours it answers what the first request answered and changes nothing.`,
    schema: { type: 'string', minLength: 1, maxLength: limits.idempotencyKeyMaxLength },
  },
  IfMatch: {
    name: 'If-Match',
    in: 'header',
    description: 'The ETag that was read, or `*`. Where it is sent, the change needs it to hold.',
    schema: { type: 'string' },
    example: '"3"',
  },
  IfMatchRequired: {
    name: 'If-Match',
    in: 'header',
    required: true,
    description: 'The ETag that was read, or `*` for whatever is there.',
    schema: { type: 'string' },
    example: '"3"',
  },
  LastEventId: {
    name: 'Last-Event-ID',
    in: 'header',
    description: 'The id of the last event received: the stream goes on after it.',
    schema: { type: 'string' },
  },
  RequestId: {
    name: 'X-Request-Id',
    in: 'header',
    description: 'Answered as it was sent, and found in logs and audit. One is made where none is.',
    schema: { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' },
  },
};

const headers: Record<string, Json> = {
  ETag: {
    description: 'The revision that was answered, for If-Match',
    schema: { type: 'string' },
    example: '"3"',
  },
  Location: { description: 'Where what was created is shown', schema: { type: 'string' } },
  RateLimit: {
    description: 'What is left of the allowance (`r`), and the seconds until it is full (`t`)',
    schema: { type: 'string' },
    example: '"caller";r=1199;t=60',
  },
  RateLimitPolicy: {
    description: 'The allowance (`q`) and its window in seconds (`w`)',
    schema: { type: 'string' },
    example: '"caller";q=1200;w=60',
  },
  RequestId: { description: 'Names this request in logs and audit', schema: { type: 'string' } },
  RetryAfter: { description: 'Seconds to wait', schema: { type: 'integer' } },
};

function reference(kind: 'parameters' | 'headers' | 'responses', name: string): Json {
  return { $ref: `#/components/${kind}/${name}` };
}

function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  return withoutIdentity(z.toJSONSchema(schema, { io, override: tidy }));
}

function withoutIdentity({
  $schema: _schema,
  $id: _id,
  id: _name,
  ...schema
}: JsonSchema): JsonSchema {
  return schema;
}

const idPattern = /^\^([a-z]+)_\[0-7\]/;

/** The format says what its long pattern says; ids get an example. */
function tidy({ jsonSchema: schema }: { jsonSchema: JsonSchema }): void {
  if (schema.format === 'date-time') {
    delete schema.pattern;
    schema.examples = ['2026-11-21T07:01:19.419Z'];
  }
  // What any JSON number of a browser is bounded by is no bound of ours.
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum;
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
  const prefix = typeof schema.pattern === 'string' && idPattern.exec(schema.pattern)?.[1];
  if (prefix) schema.examples = [`${prefix}_01h455vb4pex5vsknk084sn02q`];
}

function pascalCase(text: string): string {
  return text.replaceAll(/(?:^|[^A-Za-z0-9]+)([A-Za-z0-9])/g, (_, first: string) =>
    first.toUpperCase(),
  );
}

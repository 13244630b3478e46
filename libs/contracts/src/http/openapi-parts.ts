/**
 * What the OpenAPI 3.1 documents of the control plane and of an agent are made of: schemas, parameters,
 * headers and problems, all taken from the contracts. Which operations there are, and how a caller
 * proves itself, each document says for itself.
 */
import { z } from 'zod';
import { type ErrorCode, errorCodes, problem } from '../errors.ts';

export interface JsonSchema {
  [key: string]: unknown;
}
export type Json = Record<string, unknown>;

/** What both kinds of operation have. */
export interface DescribedOperation {
  id: string;
  method: string;
  path: string;
  summary: string;
  status: number;
  params: z.ZodType;
  query: z.ZodType;
  body: z.ZodType;
  output: z.ZodType;
}

const models = '#/components/schemas/';

/** In an order of their own, so that a document is the same wherever it is made. */
export function inOrder<One extends DescribedOperation>(operations: readonly One[]): One[] {
  return operations.toSorted((one, other) =>
    `${one.path} ${one.method}` < `${other.path} ${other.method}` ? -1 : 1,
  );
}

/** `paths` of a document. */
export function pathsOf<One extends DescribedOperation>(
  operations: readonly One[],
  describe: (operation: One) => Json,
): Record<string, Json> {
  const paths: Record<string, Json> = {};
  for (const operation of operations) {
    const path = paths[operation.path] ?? {};
    paths[operation.path] = path;
    path[operation.method.toLowerCase()] = describe(operation);
  }
  return paths;
}

export interface Answers<One> {
  models: Record<string, JsonSchema>;
  of: Map<One, JsonSchema>;
}

/**
 * The schemas of answers, converted together, so that what they share becomes a reference. Those that
 * a contract exports by a name keep it; the others are named after their operation.
 */
export function answerSchemas<One extends DescribedOperation>(
  contracts: readonly object[],
  answering: readonly One[],
): Answers<One> {
  const shared = z.registry<{ id: string }>();
  const names = new Map<z.ZodType, string>();
  const taken = new Set<string>();
  const add = (schema: z.ZodType, name: string) => {
    if (names.has(schema) || taken.has(name)) return;
    names.set(schema, name);
    taken.add(name);
    shared.add(schema, { id: name });
  };
  const named = contracts
    .flatMap((contract) => Object.entries(contract))
    .filter((entry): entry is [string, z.ZodObject] => entry[1] instanceof z.ZodObject)
    .toSorted(([one], [other]) => (one < other ? -1 : 1));
  for (const [name, schema] of named) add(schema, pascalCase(name));
  for (const operation of answering) add(operation.output, `${pascalCase(operation.id)}Answer`);
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
  const of = new Map<One, JsonSchema>();
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

export function answersEtag({ output }: DescribedOperation): boolean {
  return output instanceof z.ZodObject && 'etag' in output.shape;
}

/** The request body in JSON, or undefined where an operation takes none. */
export function jsonRequestBody({ body }: DescribedOperation): Json | undefined {
  const schema = jsonSchema(body, 'input');
  const hasChoices = 'anyOf' in schema || 'oneOf' in schema;
  const fields = Object.keys((schema.properties as Json | undefined) ?? {});
  if (fields.length === 0 && !hasChoices) return undefined;
  const required = hasChoices || ((schema.required as string[] | undefined) ?? []).length > 0;
  return { required, content: { 'application/json': { schema } } };
}

export function pathParameters({ params }: DescribedOperation): Json[] {
  return propertiesOf(jsonSchema(params, 'output')).map(([name, schema]) => ({
    name,
    in: 'path',
    required: true,
    schema,
  }));
}

export function queryParameters({ query }: DescribedOperation): Json[] {
  // What comes out is what is meant: a number rather than its text, a list rather than its commas.
  const meant = propertiesOf(jsonSchema(query, 'output'));
  const required = (jsonSchema(query, 'input').required as string[] | undefined) ?? [];
  return meant.map(([name, schema]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    ...(schema.type === 'array' ? { style: 'form', explode: false } : {}),
    schema,
  }));
}

/** The answer of an operation that went well, with the headers that come with it. */
export function answerOf(
  operation: DescribedOperation,
  headers: Json,
  content: Json | undefined,
): Json {
  return {
    description: operation.status === 204 ? 'Done' : operation.summary,
    headers: { 'X-Request-Id': reference('headers', 'RequestId'), ...headers },
    ...(content ? { content } : {}),
  };
}

/** References to what may go wrong, by status. */
export function problemAnswers(statuses: readonly number[]): Json {
  return Object.fromEntries(
    statuses.map((status) => [status, reference('responses', `Problem${status}`)]),
  );
}

/** `components` of a document. */
export function componentsOf(parts: {
  securitySchemes: Json;
  parameters: Json;
  headers: Json;
  schemas: Record<string, JsonSchema>;
  /** A request id as this server makes them. */
  requestId: string;
}): Json {
  const { securitySchemes, requestId } = parts;
  const codesByStatus = Map.groupBy(
    Object.keys(errorCodes) as ErrorCode[],
    (code) => errorCodes[code].status,
  );
  return {
    securitySchemes,
    parameters: parts.parameters,
    headers: parts.headers,
    responses: Object.fromEntries(
      [...codesByStatus].map(([status, codes]) => [
        `Problem${status}`,
        problemOf(status, codes, requestId),
      ]),
    ),
    schemas: { Problem: jsonSchema(problem, 'output'), ...parts.schemas },
  };
}

function problemOf(status: number, codes: ErrorCode[], requestId: string): Json {
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
          requestId,
          timestamp: '2026-11-21T07:01:19.419Z',
        },
      },
    },
  };
}

/** Parameters that both APIs know; how long a key is kept is each one's own. */
export function sharedParameters(idempotency: { keepHours: number; keyMaxLength: number }) {
  return {
    IdempotencyKey: {
      name: 'Idempotency-Key',
      in: 'header',
      description: `A key of the caller's own. Sent again within ${idempotency.keepHours} hours it answers what the first request answered and changes nothing.`,
      schema: { type: 'string', minLength: 1, maxLength: idempotency.keyMaxLength },
    },
    IfMatch: {
      name: 'If-Match',
      in: 'header',
      description: 'The ETag that was read, or `*`. Where it is sent, the change needs it to hold.',
      schema: { type: 'string' },
      example: '"3"',
    },
    RequestId: {
      name: 'X-Request-Id',
      in: 'header',
      description:
        'Answered as it was sent, and found in logs and audit. One is made where none is.',
      schema: { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' },
    },
  };
}

export const sharedHeaders = {
  ETag: {
    description: 'The revision that was answered, for If-Match',
    schema: { type: 'string' },
    example: '"3"',
  },
  Location: { description: 'Where what was created is shown', schema: { type: 'string' } },
  RequestId: { description: 'Names this request in logs and audit', schema: { type: 'string' } },
  RetryAfter: { description: 'Seconds to wait', schema: { type: 'integer' } },
};

export function reference(kind: 'parameters' | 'headers' | 'responses', name: string): Json {
  return { $ref: `#/components/${kind}/${name}` };
}

const propertiesOf = (schema: JsonSchema) =>
  Object.entries((schema.properties as Record<string, JsonSchema> | undefined) ?? {});

export function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  return withoutIdentity(z.toJSONSchema(schema, { io, override: tidy, unrepresentable: 'any' }));
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

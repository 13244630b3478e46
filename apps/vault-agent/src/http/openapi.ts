/**
 * The OpenAPI 3.1 document of the agent, generated from its operations. Nothing about an operation is
 * written here: a field, a bound or an action that changes in the contract changes in the document.
 */
import * as access from '@keystead/contracts/agent-api/access';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import * as audit from '@keystead/contracts/agent-api/audit';
import * as keys from '@keystead/contracts/agent-api/keys';
import * as namespaces from '@keystead/contracts/agent-api/namespaces';
import type { AgentOperation } from '@keystead/contracts/agent-api/operation';
import { agentOperations } from '@keystead/contracts/agent-api/operations';
import * as policies from '@keystead/contracts/agent-api/policies';
import * as rotation from '@keystead/contracts/agent-api/rotation';
import * as secrets from '@keystead/contracts/agent-api/secrets';
import { type ErrorCode, errorCodes, problem } from '@keystead/contracts/errors';
import { z } from 'zod';

interface JsonSchema {
  [key: string]: unknown;
}
type Json = Record<string, unknown>;

const version = '1.0.0';
const models = '#/components/schemas/';
const bytes = { type: 'string', format: 'binary' };

/** In an order of their own, so that the document is the same wherever it is made. */
const described = agentOperations.toSorted((one, other) =>
  `${one.path} ${one.method}` < `${other.path} ${other.method}` ? -1 : 1,
);

/** Schemas that contracts export by a name keep it, and are referred to. */
const named = [access, audit, keys, namespaces, policies, rotation, secrets]
  .flatMap((contract) => Object.entries(contract as Record<string, unknown>))
  .filter((entry): entry is [string, z.ZodObject] => entry[1] instanceof z.ZodObject)
  .toSorted(([one], [other]) => (one < other ? -1 : 1));

export function agentOpenApiDocument(): Json {
  const answers = answerSchemas();
  const paths: Record<string, Json> = {};
  for (const operation of described) {
    const path = paths[operation.path] ?? {};
    paths[operation.path] = path;
    path[operation.method.toLowerCase()] = describe(operation, answers);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Keystead agent',
      version,
      description:
        'The API of one vault, served by its agents on the machines of its owner. Every error is a problem document (RFC 9457). Lists answer `{items, nextCursor}`; hand `nextCursor` back as `cursor`. The names of secrets may hold `/`, which is written `%2F` in a path. Values are answered by their own routes alone.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(described.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      securitySchemes: {
        apiKey: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'ksv_…',
          description: 'An API key of the vault.',
        },
        token: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'JWT',
          description: 'A token of an issuer that vault.yaml names.',
        },
        clientCertificate: {
          type: 'mutualTLS',
          description: 'A client certificate of the CA that vault.yaml names.',
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
  of: Map<AgentOperation, JsonSchema>;
}

/** Converted together, so that what they share becomes a reference. */
function answerSchemas(): Answers {
  const shared = z.registry<{ id: string }>();
  const names = new Map<z.ZodType, string>();
  const taken = new Set<string>();
  const add = (schema: z.ZodType, name: string) => {
    if (names.has(schema) || taken.has(name)) return;
    names.set(schema, name);
    taken.add(name);
    shared.add(schema, { id: name });
  };
  for (const [name, schema] of named) add(schema, pascalCase(name));
  const answering = described.filter(({ status, streams }) => status !== 204 && streams !== 'out');
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
  const of = new Map<AgentOperation, JsonSchema>();
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

function describe(operation: AgentOperation, answers: Answers): Json {
  const { action, streams } = operation;
  const body = requestBody(operation);
  const isWrite = operation.method !== 'GET';
  return {
    operationId: operation.id,
    summary: operation.summary,
    tags: [operation.tag],
    ...(action === 'public' ? {} : { description: `Needs the right to \`${action}\`.` }),
    security: action === 'public' ? [] : [{ apiKey: [] }, { token: [] }, { clientCertificate: [] }],
    parameters: [
      ...pathParameters(operation),
      ...queryParameters(operation),
      ...(operation.ifMatch === 'optional' ? [reference('parameters', 'IfMatch')] : []),
      ...(isWrite && streams === 'none' ? [reference('parameters', 'IdempotencyKey')] : []),
      reference('parameters', 'RequestId'),
    ],
    ...(body === undefined ? {} : { requestBody: body }),
    responses: {
      [operation.status]: answer(operation, answers),
      ...Object.fromEntries(
        problemsOf(operation, body !== undefined).map((status) => [
          status,
          reference('responses', `Problem${status}`),
        ]),
      ),
    },
  };
}

function requestBody(operation: AgentOperation): Json | undefined {
  if (operation.streams === 'in') {
    return { required: true, content: { 'application/octet-stream': { schema: bytes } } };
  }
  const schema = jsonSchema(operation.body, 'input');
  const hasChoices = 'anyOf' in schema || 'oneOf' in schema;
  const fields = Object.keys((schema.properties as Json | undefined) ?? {});
  if (fields.length === 0 && !hasChoices) return undefined;
  const required = hasChoices || ((schema.required as string[] | undefined) ?? []).length > 0;
  return { required, content: { 'application/json': { schema } } };
}

function answer(operation: AgentOperation, answers: Answers): Json {
  const schema = answers.of.get(operation);
  const hasEtag = operation.output instanceof z.ZodObject && 'etag' in operation.output.shape;
  return {
    description: operation.status === 204 ? 'Done' : operation.summary,
    headers: {
      'X-Request-Id': reference('headers', 'RequestId'),
      ...(schema && hasEtag ? { ETag: reference('headers', 'ETag') } : {}),
      ...(operation.status === 201 ? { Location: reference('headers', 'Location') } : {}),
    },
    ...(operation.streams === 'out'
      ? { content: { 'application/octet-stream': { schema: bytes } } }
      : schema
        ? { content: { 'application/json': { schema } } }
        : {}),
  };
}

function pathParameters(operation: AgentOperation): Json[] {
  const schema = jsonSchema(operation.params, 'input');
  const fields = (schema.properties as Record<string, JsonSchema> | undefined) ?? {};
  const meant = jsonSchema(operation.params, 'output').properties as Record<string, JsonSchema>;
  return Object.keys(fields).map((name) => ({
    name,
    in: 'path',
    required: true,
    schema: meant[name],
  }));
}

function queryParameters(operation: AgentOperation): Json[] {
  // What comes out is what is meant: a number rather than its text.
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

function problemsOf(operation: AgentOperation, hasBody: boolean): number[] {
  const isWrite = operation.method !== 'GET';
  return [
    400,
    ...(operation.action === 'public' ? [] : [401, 403]),
    ...(operation.path.includes('{') ? [404] : []),
    ...(isWrite ? [409, 422] : []),
    ...(operation.ifMatch === 'optional' ? [412] : []),
    ...(hasBody ? [413, 415] : []),
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
          requestId: 'bBI6aovoGdWA-4k',
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
    description: `A key of the caller's own. Sent again within ${apiLimits.idempotencyKeepHours} hours it answers what the first request answered and changes nothing.`,
    schema: { type: 'string', minLength: 1, maxLength: apiLimits.idempotencyKeyMaxLength },
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
    description: 'Answered as it was sent, and found in log and audit. One is made where none is.',
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
  RequestId: { description: 'Names this request in log and audit', schema: { type: 'string' } },
  RetryAfter: { description: 'Seconds to wait', schema: { type: 'integer' } },
};

function reference(kind: 'parameters' | 'headers' | 'responses', name: string): Json {
  return { $ref: `#/components/${kind}/${name}` };
}

function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
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

/** The format says what its long pattern says. */
function tidy({ jsonSchema: schema }: { jsonSchema: JsonSchema }): void {
  if (schema.format === 'date-time') {
    delete schema.pattern;
    schema.examples = ['2026-11-21T07:01:19.419Z'];
  }
  // What any JSON number of a browser is bounded by is no bound of ours.
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum;
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
}

function pascalCase(text: string): string {
  return text.replaceAll(/(?:^|[^A-Za-z0-9]+)([A-Za-z0-9])/g, (_, first: string) =>
    first.toUpperCase(),
  );
}

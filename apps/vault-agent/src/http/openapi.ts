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
import {
  type Answers,
  answerOf,
  answerSchemas,
  answersEtag,
  componentsOf,
  inOrder,
  type Json,
  jsonRequestBody,
  jsonSchema,
  pathParameters,
  pathsOf,
  problemAnswers,
  queryParameters,
  reference,
  sharedHeaders,
  sharedParameters,
} from '@keystead/contracts/http/openapi-parts';

const version = '1.0.0';
const bytes = { type: 'string', format: 'binary' };
const octets = { 'application/octet-stream': { schema: bytes } };
const described = inOrder(agentOperations);
const contracts = [access, audit, keys, namespaces, policies, rotation, secrets];

export function agentOpenApiDocument(): Json {
  const answers = answerSchemas(
    contracts,
    described.filter(({ status, streams }) => status !== 204 && streams !== 'out'),
  );
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
    paths: pathsOf(described, (operation) => describe(operation, answers)),
    components: componentsOf({
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
      parameters: sharedParameters({
        keepHours: apiLimits.idempotencyKeepHours,
        keyMaxLength: apiLimits.idempotencyKeyMaxLength,
      }),
      headers: sharedHeaders,
      schemas: answers.models,
      requestId: 'bBI6aovoGdWA-4k',
    }),
  };
}

function describe(operation: AgentOperation, answers: Answers<AgentOperation>): Json {
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
      ...problemAnswers(problemsOf(operation, body !== undefined)),
    },
  };
}

function requestBody(operation: AgentOperation): Json | undefined {
  return operation.streams === 'in'
    ? { required: true, content: octets }
    : jsonRequestBody(operation);
}

function answer(operation: AgentOperation, answers: Answers<AgentOperation>): Json {
  const schema = answers.of.get(operation);
  return answerOf(
    operation,
    {
      ...(schema && answersEtag(operation) ? { ETag: reference('headers', 'ETag') } : {}),
      ...(operation.status === 201 ? { Location: reference('headers', 'Location') } : {}),
    },
    operation.streams === 'out'
      ? octets
      : schema && { 'application/json': { schema }, ...linesOf(operation) },
  );
}

/** For who accepts it: how far it is, a line each time, and at last what came of it. */
function linesOf({ lines }: AgentOperation): Json {
  return lines === undefined
    ? {}
    : { 'application/x-ndjson': { schema: jsonSchema(lines, 'output') } };
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

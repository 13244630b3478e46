/**
 * The OpenAPI 3.1 document, generated from the operations. Nothing about an operation is written
 * here: a field, a bound or a permission that changes in the contract changes in the document.
 */
import * as analytics from '@keystead/contracts/analytics';
import * as approvals from '@keystead/contracts/approvals';
import * as auth from '@keystead/contracts/auth';
import {
  type Answers,
  answerOf,
  answerSchemas,
  answersEtag,
  componentsOf,
  inOrder,
  type Json,
  jsonRequestBody,
  pathParameters,
  pathsOf,
  problemAnswers,
  queryParameters,
  reference,
  sharedHeaders,
  sharedParameters,
} from '@keystead/contracts/http/openapi-parts';
import { limits } from '@keystead/contracts/limits';
import * as monitoring from '@keystead/contracts/monitoring';
import * as notification from '@keystead/contracts/notification';
import type { Operation } from '@keystead/contracts/operation';
import * as policy from '@keystead/contracts/policy';
import * as policyReplays from '@keystead/contracts/policy-replays';
import * as registry from '@keystead/contracts/registry';
import { publicOperations, streamEvents } from './public-operations.ts';

const version = '1.0.0';
const described = inOrder(publicOperations);
const contracts = [
  auth,
  registry,
  monitoring,
  policy,
  approvals,
  policyReplays,
  analytics,
  notification,
];

export function openApiDocument(): Json {
  const answers = answerSchemas(
    contracts,
    described.filter((operation) => operation.status !== 204 && operation !== streamEvents),
  );
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
    paths: pathsOf(described, (operation) => describe(operation, answers)),
    components: componentsOf({
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
      schemas: answers.models,
      requestId: '01a1fce8-d326-7aef-8163-e5e71c965eda',
    }),
  };
}

function describe(operation: Operation, answers: Answers<Operation>): Json {
  const { id, permission } = operation;
  const isStream = operation === streamEvents;
  const body = jsonRequestBody(operation);
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
    ...(body ? { requestBody: body } : {}),
    responses: {
      [operation.status]: isStream ? streamAnswer() : answer(operation, answers),
      ...problemAnswers(problemsOf(operation, body !== undefined)),
    },
  };
}

function answer(operation: Operation, answers: Answers<Operation>): Json {
  const schema = answers.of.get(operation);
  return answerOf(
    operation,
    {
      RateLimit: reference('headers', 'RateLimit'),
      'RateLimit-Policy': reference('headers', 'RateLimitPolicy'),
      ...(schema && answersEtag(operation) ? { ETag: reference('headers', 'ETag') } : {}),
      ...(operation.status === 201 && shows(`${operation.path}/{id}`)
        ? { Location: reference('headers', 'Location') }
        : {}),
    },
    schema && { 'application/json': { schema } },
  );
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

const parameters: Json = {
  ...sharedParameters({
    keepHours: limits.idempotencyKeepHours,
    keyMaxLength: limits.idempotencyKeyMaxLength,
  }),
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
};

const headers: Json = {
  ...sharedHeaders,
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
};

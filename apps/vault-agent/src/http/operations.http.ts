/**
 * Every operation of the agent as a route: who calls, how often, is it well-formed, may they, the audit,
 * the work, the answer. No operation has code here.
 */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import type { AgentInput, AgentOperation } from '@keystead/contracts/agent-api/operation';
import { errorCodes, ServiceError } from '@keystead/contracts/errors';
import { asServiceError } from '@keystead/contracts/http/problem-answer';
import { readIdempotencyKey } from '@keystead/contracts/http/request-text';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Allowance } from '../access/allowance.ts';
import type { Authenticator } from '../access/authenticator.ts';
import type { Caller, CallerIdentity, ResourceReference } from '../access/caller.ts';
import type { Door, Errand } from '../access/door.ts';
import type { AuditFact } from '../audit/audit-entry.ts';
import { askedFor, type CursorSeal } from './cursor-seal.ts';
import type { AgentHandler, HandlerStreams, StreamAnswer } from './handler.ts';
import { httpLimits } from './http-limits.ts';
import type { HttpServer } from './http-server.ts';
import type { Idempotency, KeptAnswer } from './idempotency.ts';
import { LineAnswer, wantsLines } from './line-answer.ts';
import { inputReader, needsHost } from './operation-input.ts';
import type { RequestMetrics } from './request-metrics.ts';

export interface OperationsParts {
  server: HttpServer;
  authenticator: Authenticator;
  door: Door;
  /** Of each identity. */
  allowance: Allowance;
  cursors: CursorSeal;
  idempotency: Idempotency;
  metrics: RequestMetrics;
}

const bytesType = 'application/octet-stream';

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | undefined;
    /** Whether the door has been asked: from then on it writes the audit. */
    isAtDoor: boolean;
  }
}

export function serveOperations(handlers: readonly AgentHandler[], parts: OperationsParts): void {
  const { app } = parts.server;
  app.decorateRequest('caller', undefined);
  app.decorateRequest('isAtDoor', false);
  // What an operation that streams in reads by itself.
  app.addContentTypeParser(bytesType, (_request, payload, done) => done(null, payload));
  const operations = handlers.map(({ operation }) => operation);
  for (const handler of handlers) serve(app, handler, operations, parts);
}

function serve(
  app: FastifyInstance,
  handler: AgentHandler,
  operations: readonly AgentOperation[],
  parts: OperationsParts,
): void {
  const { operation } = handler;
  const route = new OperationRoute(handler, operations, parts);
  const url = operation.path.replaceAll(/\{(\w+)\}/g, ':$1');
  const { bodyMaxBytes } = operation;
  const common = {
    url,
    errorHandler: route.refuse,
    ...(bodyMaxBytes === undefined ? {} : { bodyLimit: bodyMaxBytes }),
  };
  if (operation.method === 'GET') {
    app.route({ ...common, method: 'GET', exposeHeadRoute: false, handler: route.read });
    return;
  }
  app.route({
    ...common,
    method: operation.method,
    // The caller is known before the body is read.
    onRequest: route.admit,
    preHandler: route.bodyArrived,
    handler: route.write,
  });
}

class OperationRoute {
  readonly #handler: AgentHandler;
  readonly #operation: AgentOperation;
  readonly #action: AgentAction;
  readonly #parts: OperationsParts;
  readonly #readInput: ReturnType<typeof inputReader>;
  readonly #locationOf: ((output: Record<string, unknown>, path: string) => string) | undefined;
  readonly #observe: (startedMs: number) => void;
  readonly #throttledAtMs = new Map<string, number>();

  constructor(
    handler: AgentHandler,
    operations: readonly AgentOperation[],
    parts: OperationsParts,
  ) {
    this.#handler = handler;
    this.#operation = handler.operation;
    const { action, id } = handler.operation;
    if (action === 'public') throw new Error(`${id} has to name what the door is asked`);
    this.#action = action;
    this.#parts = parts;
    this.#readInput = inputReader(handler.operation);
    this.#locationOf = locationOf(handler.operation, operations);
    this.#observe = parts.metrics.route(handler.operation.method, handler.operation.path);
  }

  readonly read = async (
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply | undefined> => {
    const startedMs = performance.now();
    try {
      const admitted = this.#admit(request);
      const caller = admitted instanceof Promise ? await admitted : admitted;
      request.caller = caller;
      return this.#send(request, reply, await this.#answer(caller, request));
    } finally {
      this.#observe(startedMs);
    }
  };

  readonly admit = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    request.caller = await this.#admit(request);
    this.#checkMediaType(request);
    if (this.#operation.streams === 'in') return;
    // A body that trickles holds a connection; the caller is told, then cut off.
    const timer = setTimeout(() => {
      if (!reply.sent)
        reply.header('connection', 'close').send(new ServiceError('request_timeout'));
      setTimeout(() => request.raw.destroy(), 1_000).unref();
    }, httpLimits.bodyWithinMs);
    timer.unref();
    bodyTimers.set(request, timer);
    reply.raw.once('close', () => clearTimeout(timer));
  };

  readonly bodyArrived = async (request: FastifyRequest): Promise<void> => {
    clearTimeout(bodyTimers.get(request));
  };

  readonly write = async (
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply | undefined> => {
    const startedMs = performance.now();
    try {
      const caller = request.caller as Caller;
      if (this.#operation.lines !== undefined && wantsLines(request)) {
        return await this.#answerInLines(caller, request, reply);
      }
      const key = readIdempotencyKey(request.headers['idempotency-key']);
      // A reading changes nothing that a repetition could do twice, and its values are not kept.
      const isKept =
        key !== null && this.#operation.streams === 'none' && this.#operation.effect === 'write';
      if (!isKept) {
        return this.#send(request, reply, await this.#answer(caller, request));
      }
      const { isRepeated, ...answer } = await this.#parts.idempotency.once(
        caller.identity,
        key,
        requestBytes(this.#operation, request),
        async (begins) => (await this.#answer(caller, request, begins)) as KeptAnswer,
      );
      if (isRepeated) {
        // Who may not do it any more is not told either what it answered.
        const errand = this.#errand(this.#readInput(request));
        request.isAtDoor = true;
        await this.#parts.door.perform(
          caller,
          { ...errand, effect: 'read', isRepeated: true },
          () => undefined,
        );
        answer.headers['idempotency-replayed'] = 'true';
      }
      return this.#send(request, reply, answer);
    } finally {
      this.#observe(startedMs);
    }
  };

  /**
   * Whatever is refused to a known caller before the door is asked: what is not well-formed, a body that
   * is too large or too late, an idempotency key of another request. In the audit first, then answered.
   */
  readonly refuse = async (error: unknown, request: FastifyRequest): Promise<never> => {
    const { caller } = request;
    const known = asServiceError(error);
    if (caller !== undefined && !request.isAtDoor && errorCodes[known.code].status < 500) {
      await this.#parts.door.recordRefusal({
        requestId: caller.requestId,
        identity: caller.identity,
        address: caller.address,
        action: this.#action,
        operation: this.#operation.id,
        resource: this.#resourceOf(request),
        phase: 'outcome',
        result: known.code === 'rate_limited' ? 'throttled' : 'refused',
        code: known.code,
        context: placesOf(this.#operation, known),
      });
    }
    throw error;
  };

  /** As far as it is known of a request that may not be well-formed. */
  #resourceOf(request: FastifyRequest): ResourceReference {
    try {
      return this.#handler.resource(this.#readInput(request));
    } catch {
      const params = this.#operation.params.safeParse(request.params ?? {});
      if (!params.success) return {};
      try {
        const known = { params: params.data, query: {}, body: {}, ifMatch: null };
        return this.#handler.resource(known as AgentInput<AgentOperation>);
      } catch {
        return {};
      }
    }
  }

  #admit(request: FastifyRequest): Caller | Promise<Caller> {
    needsHost(request);
    const caller = this.#parts.authenticator.authenticate({
      headers: request.headers,
      socket: request.raw.socket,
      requestId: request.id,
    });
    return caller instanceof Promise
      ? caller.then((known) => this.#allow(known))
      : this.#allow(caller);
  }

  #allow(caller: Caller): Caller | Promise<Caller> {
    try {
      this.#parts.allowance.take(caller.identity.id);
      return caller;
    } catch (error) {
      return this.#throttle(caller, error);
    }
  }

  async #throttle(caller: Caller, error: unknown): Promise<never> {
    const nowMs = performance.now();
    const { identity } = caller;
    const lastMs = this.#throttledAtMs.get(identity.id) ?? Number.NEGATIVE_INFINITY;
    if (nowMs - lastMs >= httpLimits.throttledEveryMs) {
      if (this.#throttledAtMs.size >= httpLimits.identitiesCounted) this.#throttledAtMs.clear();
      this.#throttledAtMs.set(identity.id, nowMs);
      await this.#parts.door.recordRefusal({
        requestId: caller.requestId,
        identity,
        address: caller.address,
        action: this.#action,
        operation: this.#operation.id,
        resource: {},
        phase: 'outcome',
        result: 'throttled',
        code: 'rate_limited',
      });
    }
    throw error;
  }

  #errand(input: AgentInput<AgentOperation>): Errand {
    return {
      action: this.#action,
      operation: this.#operation.id,
      resource: this.#handler.resource(input),
      effect: this.#operation.effect,
      narrows: this.#operation.narrows,
      also: this.#handler.also?.(input),
      context: this.#handler.context?.(input),
    };
  }

  async #answerInLines(
    caller: Caller,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<undefined> {
    const lines = new LineAnswer(request, reply, this.#parts.server);
    try {
      const input = this.#readInput(request);
      request.isAtDoor = true;
      lines.end(
        await this.#parts.door.perform(caller, this.#errand(input), () =>
          this.#handler.run(caller, input, streamsOf(this.#operation, request, lines.tell)),
        ),
      );
    } catch (error) {
      if (!lines.isBegun) throw error;
      lines.fail(error);
    }
  }

  #answer(
    caller: Caller,
    request: FastifyRequest,
    begins?: () => void,
  ): Promise<KeptAnswer | StreamAnswer> {
    const input = this.#readInput(request);
    const asked = this.#openCursor(caller.identity, input);
    const operation = this.#operation;
    request.isAtDoor = true;
    return this.#parts.door
      .perform(caller, this.#errand(input), () => {
        begins?.();
        return this.#handler.run(caller, input, streamsOf(operation, request));
      })
      .then((output) => {
        if (operation.streams === 'out') return output as StreamAnswer;
        if (asked !== undefined) this.#sealCursor(caller.identity, output, asked);
        return this.#keep(request, output as Record<string, unknown>);
      });
  }

  #openCursor(identity: CallerIdentity, input: AgentInput<AgentOperation>): string | undefined {
    const query = input.query as { limit?: number; cursor?: string };
    if (query.limit === undefined) return undefined;
    const asked = askedFor(this.#operation.id, input);
    if (query.cursor !== undefined) {
      query.cursor = this.#parts.cursors.open(query.cursor, identity, asked);
    }
    return asked;
  }

  #sealCursor(identity: CallerIdentity, output: unknown, asked: string): void {
    const page = output as { nextCursor?: string | null };
    if (typeof page.nextCursor !== 'string') return;
    page.nextCursor = this.#parts.cursors.seal(page.nextCursor, identity, asked);
  }

  #keep(request: FastifyRequest, output: Record<string, unknown>): KeptAnswer {
    const { status } = this.#operation;
    const headers: Record<string, string> = {};
    if (typeof output?.etag === 'string') headers.etag = `"${output.etag}"`;
    if (this.#locationOf) headers.location = this.#locationOf(output, request.url);
    return { status, headers, body: status === 204 ? '' : JSON.stringify(output) };
  }

  #checkMediaType({ headers }: FastifyRequest): void {
    const type = (headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase();
    const isBytes = type === bytesType;
    if (this.#operation.streams === 'in' ? isBytes : !isBytes) return;
    throw new ServiceError('unsupported_media_type', {
      detail: this.#operation.streams === 'in' ? `Send ${bytesType}` : 'Send application/json',
    });
  }

  /** @returns the reply where it is still flowing: without it Fastify would end it */
  #send(
    request: FastifyRequest,
    reply: FastifyReply,
    answer: KeptAnswer | StreamAnswer,
  ): FastifyReply | undefined {
    if ('content' in answer) {
      return reply
        .code(this.#operation.status)
        .headers({
          'x-request-id': request.id,
          'x-content-type-options': 'nosniff',
          'cache-control': 'no-store',
          'content-type': answer.contentType,
          'content-disposition': `attachment; filename="${answer.fileName.replaceAll(/[^A-Za-z0-9._-]/g, '_')}"`,
        })
        .send(answer.content);
    }
    // Everything is known: it is written as it is, without what Fastify does for answers of any kind.
    reply.hijack();
    const { status, headers, body } = answer;
    const head = [
      'x-request-id',
      request.id,
      'x-content-type-options',
      'nosniff',
      'cache-control',
      'no-store',
    ];
    for (const name in headers) head.push(name, headers[name] as string);
    if (status !== 204) {
      head.push('content-type', 'application/json; charset=utf-8');
      head.push('content-length', String(Buffer.byteLength(body)));
    }
    reply.raw.writeHead(status, head).end(body);
    return undefined;
  }
}

const bodyTimers = new WeakMap<FastifyRequest, NodeJS.Timeout>();

function requestBytes(operation: AgentOperation, request: FastifyRequest): Buffer {
  const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
  const { 'if-match': ifMatch = '' } = request.headers;
  return Buffer.concat([Buffer.from(JSON.stringify([operation.id, request.url, ifMatch])), body]);
}

/**
 * Where mistakes are: a part of the request and a field of ours in it. What else a path holds was sent,
 * and a secret may stand in the place of a name.
 */
function placesOf(operation: AgentOperation, { errors }: ServiceError): AuditFact['context'] {
  const schemas = { path: operation.params, query: operation.query, body: operation.body };
  const places = (errors ?? []).map(({ in: part, path }) => {
    const field = path.split('/', 2)[1] ?? '';
    const schema = part === 'header' ? undefined : schemas[part];
    const isOurs =
      part === 'header' || (schema instanceof z.ZodObject && Object.hasOwn(schema.shape, field));
    return isOurs && field !== '' ? `${part} ${field}` : part;
  });
  return places.length === 0 ? undefined : { places: [...new Set(places)].join(', ') };
}

const unreadable = ['authorization', 'cookie', 'proxy-authorization'];

function streamsOf(
  operation: AgentOperation,
  request: FastifyRequest,
  progress?: HandlerStreams['progress'],
): HandlerStreams {
  if (operation.streams === 'none') return noStreams;
  return {
    progress,
    body: request.raw,
    headers: Object.fromEntries(
      Object.entries(request.headers).filter(
        (entry): entry is [string, string] =>
          typeof entry[1] === 'string' && !unreadable.includes(entry[0]),
      ),
    ),
  };
}

const noStreams = Object.freeze({}) as HandlerStreams;

/** Where what was created is shown, if it is: the operation that reads it has one parameter more. */
function locationOf(
  operation: AgentOperation,
  operations: readonly AgentOperation[],
): ((output: Record<string, unknown>, path: string) => string) | undefined {
  if (operation.status !== 201) return undefined;
  const start = `${operation.path}/{`;
  const shows = operations.find(
    ({ method, path }) =>
      method === 'GET' && path.startsWith(start) && path.indexOf('/', start.length) === -1,
  );
  if (shows === undefined) return undefined;
  const parameter = shows.path.slice(start.length, -1);
  return (output, url) => {
    const value =
      output[parameter] !== undefined && parameter !== 'namespace'
        ? output[parameter]
        : (output.name ?? output.id);
    return `${url.split('?', 1)[0]}/${encodeURIComponent(String(value))}`;
  };
}

/**
 * The HTTP server under Nest: Fastify with every limit named, bodies left as bytes until the
 * caller is known, and an answer of ours for what is refused before any route is found.
 */
import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import helmet from '@fastify/helmet';
import { ServiceError } from '@keystead/contracts/errors';
import {
  asServiceError,
  headersOfEarlyAnswers,
  problemAnswer,
} from '@keystead/contracts/http/problem-answer';
import { readRequestId } from '@keystead/contracts/http/request-text';
import type { RouteTable } from '@keystead/contracts/http/route-table';
import { refuseUnreadable } from '@keystead/contracts/http/unreadable-request';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { RequestMetrics } from './request-metrics.ts';

export interface HttpServerOptions {
  trustedProxies: readonly string[];
  corsOrigins: readonly string[];
  /** Whether the public address is https. */
  https: boolean;
  routes: RouteTable;
  metrics: RequestMetrics;
}

const headersMaxBytes = 16 * 1024;
/** How often connections are looked at for a request that does not get on. */
const slowCheckMs = 2_000;
const pathParameterMaxLength = 1_024;

export interface HttpServer {
  adapter: FastifyAdapter;
  /** Waits for the answers that are under way, at most so long, then cuts every connection. */
  finish: (withinMs: number) => Promise<void>;
}

export function createHttpServer(options: HttpServerOptions): HttpServer {
  const adapter = new FastifyAdapter({
    skipMiddie: true,
    // What still arrives while we close is answered, with `Connection: close`.
    return503OnClosing: false,
    bodyLimit: limits.bodyMaxBytes,
    requestTimeout: limits.requestTimeoutMs,
    connectionTimeout: 2 * limits.requestTimeoutMs,
    keepAliveTimeout: 72_000,
    http: {
      maxHeaderSize: headersMaxBytes,
      headersTimeout: limits.requestHeadersTimeoutMs,
      connectionsCheckingInterval: slowCheckMs,
      requireHostHeader: false,
    },
    trustProxy: options.trustedProxies.length > 0 ? [...options.trustedProxies] : false,
    genReqId: (request: IncomingMessage) =>
      readRequestId(request.headers['x-request-id']) ?? newUuid(),
    requestIdHeader: false,
    routerOptions: {
      maxParamLength: pathParameterMaxLength,
      // Queries are read by the operation, which says what is wrong with them and where.
      querystringParser: () => ({}),
    },
    // Refused before any hook runs, so the headers that hooks set are set here.
    frameworkErrors: (error: Error, request: FastifyRequest, reply: FastifyReply) => {
      const { status, headers, body } = problemAnswer(
        asServiceError(error),
        request.id,
        new Date(),
      );
      reply
        .code(status)
        .headers({ ...headers, ...headersOfEarlyAnswers(request.id) })
        .send(JSON.stringify(body));
    },
    clientErrorHandler: (error, socket) => refuseUnreadable(error, socket, newUuid),
  });
  const server = adapter.getInstance<FastifyInstance>();
  server.server.maxConnections = limits.httpConnectionsMax;
  server.decorateRequest('facts', null as never);
  server.decorateRequest('user', null as never);
  readBodiesAsBytes(server);
  server.addHook('onRoute', ({ method, url }) => {
    // The preflight of browsers is answered everywhere, and offers nothing.
    if (url === '*') return;
    options.routes.add(Array.isArray(method) ? method : [method], url);
  });
  let underWay = 0;
  server.addHook('onRequest', async (request, reply) => {
    underWay += 1;
    reply.raw.once('close', () => {
      underWay -= 1;
    });
    reply.header('x-request-id', request.id);
    if (request.raw.httpVersion === '1.1' && request.headers.host === undefined) {
      throw new ServiceError('invalid_request', { detail: 'The Host header is missing' });
    }
  });
  server.addHook('onResponse', async (request, reply) => {
    options.metrics.observe(
      request.method,
      request.routeOptions.url,
      reply.statusCode,
      reply.elapsedTime,
    );
  });
  void server.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    },
    strictTransportSecurity: options.https ? { maxAge: 365 * 24 * 3_600 } : false,
    crossOriginResourcePolicy: options.corsOrigins.length > 0 ? { policy: 'cross-origin' } : true,
  });
  if (options.corsOrigins.length > 0) {
    adapter.enableCors({
      origin: [...options.corsOrigins],
      methods: ['GET', 'HEAD', 'POST', 'PATCH', 'PUT', 'DELETE'],
      allowedHeaders: [
        'Authorization',
        'Content-Type',
        'Idempotency-Key',
        'If-Match',
        'Last-Event-ID',
        'Traceparent',
        'X-Request-Id',
      ],
      exposedHeaders: [
        'ETag',
        'Location',
        'RateLimit',
        'RateLimit-Limit',
        'RateLimit-Policy',
        'RateLimit-Remaining',
        'RateLimit-Reset',
        'Retry-After',
        'X-Request-Id',
      ],
      maxAge: 600,
      strictPreflight: false,
    });
  }
  return {
    adapter,
    finish: async (withinMs) => {
      const deadlineMs = performance.now() + withinMs;
      while (underWay > 0 && performance.now() < deadlineMs) await delay(20);
      server.server.closeAllConnections();
    },
  };
}

// JSON is parsed after the caller is known, so that nobody else can make us parse it.
function readBodiesAsBytes(server: FastifyInstance): void {
  server.removeAllContentTypeParsers();
  server.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    const { 'content-encoding': encoding, 'content-type': type = '' } = request.headers;
    const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(type)?.[1]?.toLowerCase();
    if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
      done(
        new ServiceError('unsupported_media_type', { detail: 'Send the body without encoding' }),
      );
    } else if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8') {
      done(
        new ServiceError('unsupported_media_type', { detail: 'Send application/json in UTF-8' }),
      );
    } else done(null, body);
  });
}

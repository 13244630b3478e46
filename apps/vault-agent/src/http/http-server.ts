/**
 * Fastify with every limit named: bodies stay bytes until the caller is known, and whatever is refused
 * before a route is found is answered as everything else.
 */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { SecureVersion, TLSSocket } from 'node:tls';
import { ServiceError } from '@keystead/contracts/errors';
import {
  asServiceError,
  headersOfEarlyAnswers,
  problemAnswer,
} from '@keystead/contracts/http/problem-answer';
import { readRequestId } from '@keystead/contracts/http/request-text';
import { RouteTable } from '@keystead/contracts/http/route-table';
import { refuseUnreadable } from '@keystead/contracts/http/unreadable-request';
import { KeyProviderError } from '@keystead/envelope/key-provider';
import { TooManyDerivations } from '@keystead/envelope/password';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { providerAway } from '../keys/provider-breaker.ts';
import { httpLimits } from './http-limits.ts';

export interface TlsFiles {
  certificate: Buffer;
  key: Buffer;
  /** CA of client certificates; without it none is asked for. */
  clientCa: Buffer | undefined;
  /** Each in PEM. */
  clientCrl: readonly string[] | undefined;
  minVersion: SecureVersion;
}

export interface HttpServerOptions {
  tls: TlsFiles | undefined;
  /** Largest body of JSON, in bytes. */
  bodyMaxBytes: number;
  log: Logger;
}

export class PortTaken extends Error {
  constructor(host: string, port: number) {
    super(`port ${port} on ${host} is taken: set another server.port in vault.yaml`);
    this.name = 'PortTaken';
  }
}

const instance = randomBytes(9)
  .toString('base64url')
  .replaceAll(/[^A-Za-z0-9]/g, '0');
let requests = 0;

/** Names a request in answers, log and audit: this run, and a count. */
export function newRequestId(): string {
  requests += 1;
  return `${instance}-${requests.toString(36)}`;
}

export class HttpServer {
  readonly app: FastifyInstance;
  readonly routes = new RouteTable();
  readonly #log: Logger;
  /** Open connections that showed a certificate. */
  readonly #certified = new Set<TLSSocket>();
  #trust: string;

  constructor({ tls, bodyMaxBytes, log }: HttpServerOptions) {
    this.#log = log;
    this.#trust = tls === undefined ? '' : trustOf(tls);
    const options = {
      logger: false as const,
      // What still arrives while we close is answered, with `Connection: close`.
      return503OnClosing: false,
      bodyLimit: bodyMaxBytes,
      requestTimeout: httpLimits.streamWithinMs,
      keepAliveTimeout: httpLimits.keepAliveMs,
      genReqId: (request: IncomingMessage) =>
        readRequestId(request.headers['x-request-id']) ?? newRequestId(),
      requestIdHeader: false as const,
      routerOptions: {
        maxParamLength: httpLimits.pathParameterMaxLength,
        // Queries are read by the operation, which says what is wrong with them and where.
        querystringParser: () => ({}),
      },
      frameworkErrors: (error: Error, request: FastifyRequest, reply: FastifyReply) =>
        sendProblem(error, request, reply),
      clientErrorHandler: (error: Error, socket: Socket) =>
        refuseUnreadable(error, socket, newRequestId),
    };
    const http = {
      maxHeaderSize: httpLimits.headersMaxBytes,
      headersTimeout: httpLimits.headersWithinMs,
      connectionsCheckingInterval: httpLimits.slowCheckMs,
      requireHostHeader: false,
    };
    this.app =
      tls === undefined
        ? Fastify({ ...options, http })
        : (Fastify({
            ...options,
            https: {
              ...http,
              ...secureContextOf(tls),
              handshakeTimeout: httpLimits.handshakeWithinMs,
            },
          }) as unknown as FastifyInstance);
    this.app.server.maxConnections = httpLimits.connectionsMax;
    this.app.server.on('secureConnection', (socket: TLSSocket) => {
      if (!socket.authorized) return;
      this.#certified.add(socket);
      socket.once('close', () => this.#certified.delete(socket));
    });
    this.#readBodiesAsBytes();
    this.#answerFaults();
    this.app.addHook('onRoute', ({ method, url }) => {
      this.routes.add(Array.isArray(method) ? method : [method], url);
    });
  }

  /**
   * Certificates that were renewed on the disk, for connections from now on. Where the CA or its list of
   * revoked ones is another, those that came by a certificate come again, to be asked anew.
   */
  renewTls(tls: TlsFiles): void {
    const trust = trustOf(tls);
    const isOther = trust !== this.#trust;
    this.#trust = trust;
    if ('setSecureContext' in this.app.server) {
      (this.app.server as unknown as { setSecureContext(options: object): void }).setSecureContext(
        secureContextOf(tls),
      );
    }
    if (!isOther) return;
    for (const socket of this.#certified) socket.destroy();
  }

  /** Answers the port in use. @throws PortTaken */
  async listen(host: string, port: number): Promise<number> {
    try {
      await this.app.listen({ host, port });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') throw new PortTaken(host, port);
      throw error;
    }
    const address = this.app.server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  }

  /** Takes no more, gives the answers that are under way a moment, then cuts every connection. */
  async close(withinMs: number = httpLimits.finishWithinMs): Promise<void> {
    const closing = this.app.close();
    const cut = setTimeout(() => this.app.server.closeAllConnections(), withinMs);
    await closing;
    clearTimeout(cut);
  }

  /** What a caller is told of an error; the log holds what is no fault of the caller's. */
  explain(error: unknown, request: FastifyRequest): ServiceError {
    const known = asServiceError(explained(error), request.routeOptions.bodyLimit);
    if (known.code === 'internal') {
      this.#log.error({ err: error, requestId: request.id }, 'a request failed');
    } else if (known.code === 'unavailable') {
      this.#log.warn({ reason: known.message, requestId: request.id }, 'not available');
    }
    return known;
  }

  // JSON is parsed after the caller is known, so that nobody else can make us parse it.
  #readBodiesAsBytes(): void {
    this.app.removeAllContentTypeParsers();
    this.app.addContentTypeParser(
      'application/json',
      { parseAs: 'buffer' },
      (request, body, done) => {
        const { 'content-encoding': encoding, 'content-type': type = '' } = request.headers;
        const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(type)?.[1]?.toLowerCase();
        if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
          done(
            new ServiceError('unsupported_media_type', {
              detail: 'Send the body without encoding',
            }),
          );
        } else if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8') {
          done(
            new ServiceError('unsupported_media_type', {
              detail: 'Send application/json in UTF-8',
            }),
          );
        } else done(null, body);
      },
    );
  }

  #answerFaults(): void {
    this.app.setErrorHandler((error, request, reply) => {
      sendProblem(this.explain(error, request), request, reply);
    });
    this.app.setNotFoundHandler((request, reply) => {
      const offered = this.routes.methodsOf(request.url);
      // Offered and still not found: a part of the path is not one of ours.
      const allowed = offered.includes(request.method) ? [] : offered;
      if (allowed.length > 0) reply.header('allow', allowed.join(', '));
      if (allowed.length > 0 && request.method === 'OPTIONS') {
        return reply.headers(headersOfEarlyAnswers(request.id)).code(204).send();
      }
      sendProblem(
        new ServiceError(allowed.length > 0 ? 'method_not_allowed' : 'not_found'),
        request,
        reply,
      );
    });
  }
}

function secureContextOf(tls: TlsFiles) {
  return {
    cert: tls.certificate,
    key: tls.key,
    minVersion: tls.minVersion,
    // Who comes without a certificate may have a key; who it is decides the authentication.
    ...(tls.clientCa === undefined
      ? {}
      : { ca: tls.clientCa, requestCert: true, rejectUnauthorized: false }),
    ...(tls.clientCrl === undefined ? {} : { crl: [...tls.clientCrl] }),
  };
}

export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  if (reply.sent || reply.raw.headersSent) {
    reply.raw.destroy();
    return;
  }
  const { status, headers, body } = problemAnswer(asServiceError(error), request.id, new Date());
  reply
    .code(status)
    .headers({ ...headersOfEarlyAnswers(request.id), ...headers })
    .send(JSON.stringify(body));
}

/** By whom certificates of clients are judged. */
function trustOf({ clientCa, clientCrl }: TlsFiles): string {
  return [clientCa?.toString('base64') ?? '', ...(clientCrl ?? ['none'])].join(' ');
}

/** What of the envelope is no fault of ours and none of the request's. */
function explained(error: unknown): unknown {
  if (error instanceof KeyProviderError) return providerAway(error);
  if (!(error instanceof TooManyDerivations)) return error;
  return new ServiceError('unavailable', {
    detail: 'Too many passphrases are being worked on at the moment',
    retryAfterSeconds: 10,
    internal: error.message,
    cause: error,
  });
}

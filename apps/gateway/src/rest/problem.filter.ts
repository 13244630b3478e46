import { ServiceError } from '@keystead/contracts/errors';
import {
  asServiceError,
  headersOfEarlyAnswers,
  problemAnswer,
} from '@keystead/contracts/http/problem-answer';
import type { RouteTable } from '@keystead/contracts/http/route-table';
import { limits } from '@keystead/contracts/limits';
import type { Logger } from '@keystead/service-runtime/log';
import { type ArgumentsHost, Catch, type ExceptionFilter, NotFoundException } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';

/** Answers everything that was thrown on the way of a request. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  readonly #log: Logger;
  readonly #routes: RouteTable;

  constructor(log: Logger, routes: RouteTable) {
    this.#log = log;
    this.#routes = routes;
  }

  catch(thrown: unknown, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    // A target that is no path is refused before any hook runs.
    if (!reply.hasHeader('x-request-id')) reply.headers(headersOfEarlyAnswers(request.id));
    const unrouted = thrown instanceof NotFoundException;
    const offered = unrouted ? this.#routes.methodsOf(request.url) : [];
    // Offered and still not found: it is the thing behind the path that is not there.
    const allowed = offered.includes(request.method) ? [] : offered;
    if (allowed.length > 0) reply.header('allow', allowed.join(', '));
    if (allowed.length > 0 && request.method === 'OPTIONS') {
      reply.code(204).send();
      return;
    }
    const error =
      allowed.length > 0
        ? new ServiceError('method_not_allowed')
        : asServiceError(thrown, limits.bodyMaxBytes);
    if (error.code === 'internal' || error.code === 'unavailable') {
      this.#log.error({ err: thrown, requestId: request.id }, 'a request failed');
    }
    if (reply.sent || reply.raw.headersSent) return;
    const { status, headers, body } = problemAnswer(error, request.id, new Date());
    reply.code(status).headers(headers).send(JSON.stringify(body));
  }
}

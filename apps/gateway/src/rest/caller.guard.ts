/** Who calls, how often they may, and whether they may do this: in that order, before all else. */
import { anonymous, type RequestFacts } from '@keystead/access/authenticator';
import { BearerGuard } from '@keystead/access/passport';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { readIdempotencyKey } from '@keystead/contracts/http/request-text';
import type { Operation } from '@keystead/contracts/operation';
import { authorize } from '@keystead/messaging/bus-handlers';
import { type CanActivate, type ExecutionContext, Inject, SetMetadata } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RequestAllowance } from './request-allowance.ts';

declare module 'fastify' {
  interface FastifyRequest {
    facts: RequestFacts;
    user: Ctx;
  }
}

const guardedBy = 'keystead:guarded-by';
const userAgentMaxLength = 256;

/** Names the permission that a handler behind {@link CallerGuard} asks for. */
export const GuardedBy = (permission: Operation['permission']) =>
  SetMetadata(guardedBy, permission);

export function factsOf(request: FastifyRequest): RequestFacts {
  return {
    requestId: request.id,
    address: request.ip,
    userAgent: request.headers['user-agent']?.slice(0, userAgentMaxLength) ?? null,
    idempotencyKey:
      request.method === 'GET' || request.method === 'HEAD'
        ? null
        : readIdempotencyKey(request.headers['idempotency-key']),
  };
}

export class CallerGuard implements CanActivate {
  readonly #reflector: Reflector;
  readonly #allowance: RequestAllowance;
  readonly #bearer = new BearerGuard();

  constructor(
    @Inject(Reflector) reflector: Reflector,
    @Inject(RequestAllowance) allowance: RequestAllowance,
  ) {
    this.#reflector = reflector;
    this.#allowance = allowance;
  }

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const reply = context.switchToHttp().getResponse<FastifyReply>();
    const permission = this.#reflector.get<Operation['permission']>(
      guardedBy,
      context.getHandler(),
    );
    request.facts = factsOf(request);
    if (permission === 'public') request.user = anonymous(request.facts);
    else await this.#authenticate(context, request, reply);
    await this.#allowance.take(request.user, reply);
    authorize(request.user, permission);
    return true;
  }

  // A guess at a credential counts against the address it comes from.
  async #authenticate(
    context: ExecutionContext,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<void> {
    try {
      await this.#bearer.canActivate(context);
    } catch (error) {
      if (error instanceof ServiceError && error.code === 'unauthenticated') {
        await this.#allowance.take(anonymous(request.facts), reply);
      }
      throw error;
    }
  }
}

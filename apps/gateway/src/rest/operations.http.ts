/** Every operation of the contract as a handler of one controller: no operation has code here. */
import type { Operation } from '@keystead/contracts/operation';
import {
  Controller,
  HttpCode,
  Inject,
  Req,
  RequestMapping,
  RequestMethod,
  Res,
  type Type,
  UseGuards,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CallerGuard, GuardedBy } from './caller.guard.ts';
import { OperationDoor } from './operation-door.ts';
import { routePattern } from './public-operations.ts';

export function operationsController(operations: readonly Operation[]): Type {
  class OperationsHttp {
    constructor(readonly door: OperationDoor) {}
  }
  const handlers = OperationsHttp.prototype as unknown as Record<string, unknown>;
  for (const operation of operations) {
    const handler = function (this: OperationsHttp, request: FastifyRequest, reply: FastifyReply) {
      return this.door.perform(operation, request, reply);
    };
    handlers[operation.id] = handler;
    Req()(OperationsHttp.prototype, operation.id, 0);
    Res({ passthrough: true })(OperationsHttp.prototype, operation.id, 1);
    const described = Object.getOwnPropertyDescriptor(OperationsHttp.prototype, operation.id);
    if (!described) throw new Error(`${operation.id} has no handler`);
    for (const decorate of [
      RequestMapping({
        method: RequestMethod[operation.method],
        path: routePattern(operation.path),
      }),
      HttpCode(operation.status),
      UseGuards(CallerGuard),
      GuardedBy(operation.permission),
    ]) {
      decorate(OperationsHttp.prototype, operation.id, described);
    }
  }
  Inject(OperationDoor)(OperationsHttp, undefined, 0);
  Controller()(OperationsHttp);
  return OperationsHttp;
}

/** What happens to a request whose caller is known: check, ask the service, answer. */
import type { Ctx } from '@keystead/contracts/context';
import { readTraceparent } from '@keystead/contracts/http/request-text';
import type { Operation } from '@keystead/contracts/operation';
import { operations } from '@keystead/contracts/operations';
import { type Bus, tracing } from '@keystead/messaging/bus';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { readInput } from './operation-input.ts';

export class OperationDoor {
  readonly #bus: Pick<Bus, 'perform'>;

  constructor(bus: Pick<Bus, 'perform'>) {
    this.#bus = bus;
  }

  /** @returns the body of the answer; status and headers are set on the reply */
  async perform(
    operation: Operation,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<unknown> {
    const input = readInput(operation, {
      params: request.params,
      target: request.raw.url ?? '',
      headers: request.headers,
      body: request.body as Buffer | undefined,
    });
    const traceparent = readTraceparent(request.headers.traceparent);
    const answer = await tracing.run({ traceparent }, () =>
      this.#bus.perform(operation, request.user as Ctx, input),
    );
    reply.header('cache-control', 'no-store');
    if (operation.status === 204) return undefined;
    const { etag, id } = (answer ?? {}) as { etag?: unknown; id?: unknown };
    if (typeof etag === 'string') reply.header('etag', etag);
    if (operation.status === 201 && typeof id === 'string') {
      const location = shownAt.get(operation.path);
      if (location) reply.header('location', location.replace('{id}', id));
    }
    return answer;
  }
}

/** For a path that creates, the path that shows what was created. */
const shownAt = new Map(
  operations
    .filter(({ method, path }) => method === 'GET' && path.endsWith('/{id}'))
    .map(({ path }) => [path.slice(0, -'/{id}'.length), path]),
);

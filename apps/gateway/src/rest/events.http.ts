/** `GET /v1/events`: what changes in the organization of the caller, as it changes. */
import { Authenticator } from '@keystead/access/authenticator';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest } from '@keystead/contracts/errors';
import { Controller, Get, Inject, Req, Res, UseGuards } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Gauge, type Registry } from 'prom-client';
import { CallerGuard, GuardedBy } from './caller.guard.ts';
import { EventStream } from './event-stream.ts';
import { LiveFeeds } from './live-feeds.ts';
import { readInput } from './operation-input.ts';
import { streamEvents } from './public-operations.ts';

const positionForm = /^\d{1,18}-\d{1,18}$/;

/** Every open stream of this process, so that a stop can end them with a word. */
export class OpenStreams {
  readonly streams = new Set<EventStream>();

  constructor(metrics: Registry) {
    const { streams } = this;
    new Gauge({
      name: 'keystead_event_streams',
      help: 'Streams of live events that are open now',
      registers: [metrics],
      collect() {
        this.set(streams.size);
      },
    });
  }

  endAll(reason: string): void {
    for (const stream of this.streams) stream.end(reason);
  }
}

@Controller()
export class EventsHttp {
  constructor(
    @Inject(LiveFeeds) private readonly feeds: LiveFeeds,
    @Inject(Authenticator) private readonly authenticator: Authenticator,
    @Inject(OpenStreams) private readonly open: OpenStreams,
  ) {}

  @Get(streamEvents.path)
  @UseGuards(CallerGuard)
  @GuardedBy(streamEvents.permission)
  async stream(@Req() request: FastifyRequest, @Res() reply: FastifyReply): Promise<void> {
    readInput(streamEvents, {
      params: request.params,
      target: request.raw.url ?? '',
      headers: request.headers,
      body: undefined,
    });
    const after = lastEventId(request.headers['last-event-id']);
    reply.headers({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      // A buffering proxy would hold events back.
      'x-accel-buffering': 'no',
    });
    if (request.method === 'HEAD') {
      reply.code(200).send('');
      return;
    }
    const ctx = request.user as TenantCtx;
    const stream = new EventStream({
      response: reply.raw,
      stillHolds: () => this.authenticator.stillHolds(ctx),
    });
    const { position, stop } = await this.feeds.listen(ctx, after, stream);
    if (reply.raw.destroyed) {
      stop();
      return;
    }
    this.open.streams.add(stream);
    reply.hijack();
    reply.raw.writeHead(200, reply.getHeaders() as Record<string, string>);
    stream.begin(position, () => {
      stop();
      this.open.streams.delete(stream);
    });
  }
}

function lastEventId(header: string | string[] | undefined): string | null {
  if (header === undefined || header === '') return null;
  if (typeof header === 'string' && positionForm.test(header)) return header;
  throw invalidRequest('header', [
    { path: ['Last-Event-ID'], message: 'must be the id of an event of this stream' },
  ]);
}

/** Calls to other services over NATS request/reply, typed by the operation that is called. */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError, type WireError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import { type NudgeName, nudges } from '@keystead/contracts/nudges';
import type { Input, InternalCall, Operation } from '@keystead/contracts/operation';
import { headers, type NatsConnection } from '@nats-io/transport-node';
import { ClientNats, NatsRecordBuilder } from '@nestjs/microservices';
import { firstValueFrom, timeout } from 'rxjs';
import type { z } from 'zod';
import { type BusOptions, natsConnection } from './bus-options.ts';
import { signCall } from './service-token.ts';

/** The trace a unit of work belongs to, carried through the bus in the W3C `traceparent` header. */
export const tracing = new AsyncLocalStorage<{ traceparent: string }>();

export type Answer = { result: unknown } | { error: WireError };

export class Bus {
  readonly #client: ClientNats;
  readonly #options: BusOptions;

  constructor(options: BusOptions) {
    this.#options = options;
    this.#client = new ClientNats(natsConnection(options));
  }

  async connect(): Promise<void> {
    await this.#client.connect();
  }

  /** Waits for an answer of the NATS server itself; never, while it is away. */
  async ping(): Promise<void> {
    await this.#client.connect();
    await this.#client.unwrap<NatsConnection>().flush();
  }

  async close(): Promise<void> {
    await this.#client.close();
  }

  /** Asks the service of an operation. @throws ServiceError what it answered, or `unavailable` */
  async perform<O extends Operation>(
    operation: O,
    ctx: Ctx,
    input: Input<O>,
  ): Promise<z.output<O['output']>> {
    return (await this.#ask(operation.service, operation.subject, ctx, input)) as z.output<
      O['output']
    >;
  }

  /** Asks another service something that has no HTTP face. */
  async call<C extends InternalCall>(
    declared: C,
    ctx: Ctx,
    input: z.input<C['input']>,
    timeoutMs?: number,
  ): Promise<z.output<C['output']>> {
    return (await this.#ask(declared.service, declared.subject, ctx, input, timeoutMs)) as z.output<
      C['output']
    >;
  }

  /** Says "look now". Best effort by design. */
  nudge(name: NudgeName, payload = ''): void {
    this.#client.emit(nudges[name].subject, payload).subscribe({ error: () => {} });
  }

  async #ask(
    audience: Operation['service'],
    subject: string,
    ctx: Ctx,
    input: unknown,
    timeoutMs: number = limits.busRequestTimeoutMs,
  ): Promise<unknown> {
    const payload = JSON.stringify(input);
    const bytes = Buffer.byteLength(payload);
    if (bytes > limits.busPayloadMaxBytes) {
      throw new ServiceError('payload_too_large', { internal: `${subject}: ${bytes}` });
    }
    const token = await signCall(this.#options.keys, { audience, subject, payload, ctx });
    const head = headers();
    head.set('keystead-token', token);
    const trace = tracing.getStore();
    if (trace) head.set('traceparent', trace.traceparent);
    const record = new NatsRecordBuilder(payload).setHeaders(head).build();
    let answer: Answer;
    try {
      answer = await firstValueFrom(
        this.#client.send<Answer>(subject, record).pipe(timeout(timeoutMs)),
      );
    } catch (cause) {
      throw new ServiceError('unavailable', { internal: `no answer on ${subject}`, cause });
    }
    if ('error' in answer) {
      const { code, ...rest } = answer.error;
      throw new ServiceError(code, { ...rest, internal: `${subject} answered ${code}` });
    }
    return answer.result;
  }
}

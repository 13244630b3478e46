/**
 * What a service hears and answers with. Whoever stops hears nothing new, and answers first what it has
 * heard: a caller whose request is dropped waits in vain until its time is over, and another replica, or the
 * news that there is none, would have been there at once.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import { type NatsContext, ServerNats } from '@nestjs/microservices';

/** Most answers take milliseconds; a caller waits for seconds. */
const answerWithinMs = 1_000;
const pollMs = 5;

type Response = { err?: unknown; isDisposed?: boolean };

export class BusServer extends ServerNats {
  readonly #subscriptions: Subscription[] = [];
  /** Heard, and not answered yet. */
  readonly #heard = new Set<Msg>();
  #client: NatsConnection | undefined;

  override bindEvents(client: NatsConnection): void {
    this.#client = client;
    const subscribe: NatsConnection['subscribe'] = (subject, options) => {
      const subscription = client.subscribe(subject, options);
      this.#subscriptions.push(subscription);
      return subscription;
    };
    super.bindEvents({ subscribe });
  }

  override async handleMessage(channel: string, message: Msg): Promise<unknown> {
    this.#heard.add(message);
    try {
      const handled = await super.handleMessage(channel, message);
      // Nobody waits for an answer.
      if (!message.reply) this.#heard.delete(message);
      return handled;
    } catch (error) {
      this.#heard.delete(message);
      throw error;
    }
  }

  override getPublisher(message: Msg, id: string, context: NatsContext) {
    const publish = super.getPublisher(message, id, context);
    return (response: Response) => {
      const isLast = response.isDisposed === true || response.err !== undefined;
      try {
        return publish(response);
      } finally {
        if (isLast) this.#heard.delete(message);
      }
    };
  }

  override async close(): Promise<void> {
    const over = new AbortController();
    const late = delay(answerWithinMs, undefined, { signal: over.signal }).catch(() => undefined);
    await Promise.race([this.#finish(over.signal), late]);
    over.abort();
    await super.close();
  }

  /** A bus that is away drains nothing. */
  async #finish(over: AbortSignal): Promise<void> {
    try {
      await Promise.all(this.#subscriptions.map((subscription) => subscription.drain()));
      while (this.#heard.size > 0 && !over.aborted) await delay(pollMs);
      await this.#client?.flush();
    } catch {
      // Closed already.
    }
  }
}

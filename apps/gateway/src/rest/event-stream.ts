/**
 * One open stream of live events (the EventSource format of the HTML standard). It is given up
 * when its reader is too slow, and ends when the credential it was opened with no longer stands,
 * or when that could not be confirmed in time.
 */
import type { ServerResponse } from 'node:http';
import { limits } from '@keystead/contracts/limits';
import type { Listener, Reading } from './live-feeds.ts';

export interface EventStreamOptions {
  response: Pick<
    ServerResponse,
    'write' | 'end' | 'on' | 'writableLength' | 'destroyed' | 'destroy' | 'writableEnded'
  >;
  /** Whether the caller may go on listening. */
  stillHolds: () => Promise<boolean>;
}

const heartbeatMs = 15_000;
/** What a reader may leave unread. */
const unreadMaxBytes = 512 * 1024;
const unconfirmedMaxMs = 4_500;
const lingerMs = 1_000;
/** What a browser waits before it comes back. */
const retryMs = 2_000;

export class EventStream implements Listener {
  readonly #options: EventStreamOptions;
  #confirmedAtMs = performance.now();
  #heartbeat: NodeJS.Timeout | undefined;
  #recheck: NodeJS.Timeout | undefined;
  #checking = false;
  #ended = false;
  #onEnd = () => {};

  constructor(options: EventStreamOptions) {
    this.#options = options;
  }

  /**
   * Writes the position alone, which sets Last-Event-ID without an event: a reader may resume from
   * the moment it began. The head of the answer is already written.
   */
  begin(position: string, onEnd: () => void): void {
    const { response } = this.#options;
    this.#onEnd = onEnd;
    this.#heartbeat = setInterval(() => this.#write(': still here\n\n'), heartbeatMs);
    this.#recheck = setInterval(() => void this.#confirm(), limits.eventStreamRecheckMs);
    response.on('close', () => this.#finish());
    response.on('error', () => this.#finish());
    this.#write(`retry: ${retryMs}\nid: ${position}\n\n`);
  }

  hear({ events, missed }: Reading): void {
    if (missed) this.#write('event: missed\ndata: {}\n\n');
    for (const event of events) {
      this.#write(`id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
    }
  }

  /** Says why in a comment and closes. */
  end(reason: string): void {
    if (this.#ended) return;
    const { response } = this.#options;
    this.#finish();
    response.end(`: ${reason}\n\n`);
    setTimeout(() => response.destroy(), lingerMs).unref();
  }

  #write(text: string): void {
    if (this.#ended) return;
    const { response } = this.#options;
    response.write(text);
    if (response.writableLength > unreadMaxBytes) this.end('too slow a reader');
  }

  async #confirm(): Promise<void> {
    if (performance.now() - this.#confirmedAtMs > unconfirmedMaxMs) {
      this.end('the credentials could not be confirmed');
      return;
    }
    if (this.#checking) return;
    this.#checking = true;
    const startedAtMs = performance.now();
    try {
      if (await this.#options.stillHolds()) this.#confirmedAtMs = startedAtMs;
      else this.end('the credentials have ended');
    } catch {
      // Not confirmed: the next look decides by how long that has lasted.
    } finally {
      this.#checking = false;
    }
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#heartbeat);
    clearInterval(this.#recheck);
    this.#onEnd();
  }
}

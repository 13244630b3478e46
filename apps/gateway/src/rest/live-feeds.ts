/**
 * The live events of organizations somebody listens to. Each such organization has one loop that
 * reads when it is nudged and at least once a second; listeners at the same position share a
 * reading, so a hundred tabs cost what one does.
 */
import { readLiveEvents } from '@keystead/contracts/agent-link';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import type { Bus } from '@keystead/messaging/bus';
import type { z } from 'zod';

export type Reading = z.output<(typeof readLiveEvents)['output']>;

export interface Listener {
  /** What came after the position of the listener; `missed` where the gap can not be filled. */
  hear(reading: Reading): void;
}

interface Listening {
  ctx: TenantCtx;
  listener: Listener;
  position: string;
}

interface Feed {
  listening: Set<Listening>;
  /** Places that are taken, also by those whose position is still being asked for. */
  places: number;
  wake: (() => void) | undefined;
  woken: boolean;
  running: boolean;
}

const readingMax = 200;
const retryAfterSeconds = 30;

export class LiveFeeds {
  readonly #bus: Pick<Bus, 'call'>;
  readonly #feeds = new Map<string, Feed>();
  readonly #onError: (error: unknown) => void;
  #failing = false;

  constructor(bus: Pick<Bus, 'call'>, onError: (error: unknown) => void) {
    this.#bus = bus;
    this.#onError = onError;
  }

  /** Streams that are open now. */
  get open(): number {
    return [...this.#feeds.values()].reduce((sum, feed) => sum + feed.places, 0);
  }

  /**
   * @param after position to go on from; null begins now
   * @returns where the listener begins, and how it stops
   * @throws ServiceError `rate_limited`, `unavailable`
   */
  async listen(
    ctx: TenantCtx,
    after: string | null,
    listener: Listener,
  ): Promise<{ position: string; stop: () => void }> {
    const { organizationId } = ctx;
    const feed = this.#feedOf(organizationId);
    if (feed.places >= limits.eventStreamsPerOrganization) {
      throw new ServiceError('rate_limited', {
        detail: `at most ${limits.eventStreamsPerOrganization} event streams at once`,
        retryAfterSeconds,
      });
    }
    feed.places += 1;
    let listening: Listening;
    try {
      const position = after ?? (await this.#read(ctx, null)).position;
      listening = { ctx, listener, position };
    } catch (error) {
      this.#leave(organizationId, feed);
      throw error;
    }
    feed.listening.add(listening);
    this.#wakeFeed(feed);
    if (!feed.running) void this.#run(feed);
    let stopped = false;
    return {
      position: listening.position,
      stop: () => {
        if (stopped) return;
        stopped = true;
        feed.listening.delete(listening);
        this.#leave(organizationId, feed);
        this.#wakeFeed(feed);
      },
    };
  }

  /** Something was written for an organization: look now. */
  wake(organizationId: string): void {
    const feed = this.#feeds.get(organizationId);
    if (feed) this.#wakeFeed(feed);
  }

  #feedOf(organizationId: string): Feed {
    const there = this.#feeds.get(organizationId);
    if (there) return there;
    const feed: Feed = {
      listening: new Set(),
      places: 0,
      wake: undefined,
      woken: false,
      running: false,
    };
    this.#feeds.set(organizationId, feed);
    return feed;
  }

  #leave(organizationId: string, feed: Feed): void {
    feed.places -= 1;
    if (feed.places === 0) this.#feeds.delete(organizationId);
  }

  #wakeFeed(feed: Feed): void {
    feed.woken = true;
    feed.wake?.();
  }

  async #run(feed: Feed): Promise<void> {
    feed.running = true;
    while (feed.listening.size > 0) {
      feed.woken = false;
      let more = false;
      try {
        more = await this.#tell(feed);
        this.#failing = false;
      } catch (error) {
        // Said once for each spell: every feed comes here each second while monitoring is away.
        if (!this.#failing) this.#onError(error);
        this.#failing = true;
      }
      if (!more && !feed.woken) await this.#pause(feed);
    }
    feed.running = false;
  }

  async #pause(feed: Feed): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, limits.reconcilePeriodMs);
      feed.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    feed.wake = undefined;
  }

  /** @returns whether a full reading says that there is more */
  async #tell(feed: Feed): Promise<boolean> {
    let more = false;
    const positions = Map.groupBy(feed.listening, ({ position }) => position);
    for (const [position, group] of positions) {
      // Whoever listens may ask; what is answered is the same for all of the organization.
      const [first] = group;
      if (!first) continue;
      const reading = await this.#read(first.ctx, position);
      more ||= reading.events.length === readingMax;
      for (const listening of group) {
        if (!feed.listening.has(listening)) continue;
        listening.position = reading.position;
        if (reading.events.length > 0 || reading.missed) listening.listener.hear(reading);
      }
    }
    return more;
  }

  #read(ctx: TenantCtx, after: string | null): Promise<Reading> {
    const { organizationId } = ctx;
    return this.#bus.call(readLiveEvents, ctx, { organizationId, after, limit: readingMax });
  }
}

/**
 * Keeps receivers from delaying each other. Each channel has a lane with a few places, an
 * organization has a share of all places, and channels whose last attempt was slow or failed have
 * one place each, few places in their organization and not all places together, so that however
 * many receivers of an organization hang, those that answer find a free place. Waiting lanes are
 * served in turn.
 *
 * A lane keeps nothing that matters: rows own the deliveries. What is not taken in (`full`) is
 * offered again by the reconcile job.
 */
export interface ChannelLanesOptions {
  perChannel: number;
  perOrganization: number;
  overall: number;
  /** How many of the places suspect channels may hold together. */
  suspect: number;
  suspectPerOrganization: number;
  /** Waiting pieces of work per channel, and altogether. */
  waitingPerChannel: number;
  waiting: number;
  /** An attempt that takes longer makes its channel suspect, already while it runs. */
  slowAfterMs: number;
  onError(error: unknown): void;
}

export interface LaneWork {
  /** Deduplicates: work that waits or runs is not taken twice. */
  id: string;
  channelId: string;
  organizationId: string;
  /** Answers whether the receiver took it well. */
  run(): Promise<boolean>;
}

interface Lane {
  channelId: string;
  organizationId: string;
  waiting: LaneWork[];
  running: number;
  suspect: boolean;
}

export class ChannelLanes {
  readonly #options: ChannelLanesOptions;
  /** In the order in which they are served next. */
  readonly #lanes = new Map<string, Lane>();
  readonly #known = new Set<string>();
  readonly #perOrganization = new Map<string, number>();
  readonly #suspectPerOrganization = new Map<string, number>();
  /** Remembered beyond the life of a lane, the oldest forgotten first. */
  readonly #suspects = new Set<string>();
  #running = 0;
  #runningSuspect = 0;
  #waiting = 0;
  #closed = false;
  #idle: (() => void)[] = [];

  constructor(options: ChannelLanesOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting;
  }

  offer(work: LaneWork): 'taken' | 'known' | 'full' {
    if (this.#known.has(work.id)) return 'known';
    const lane = this.#lanes.get(work.channelId) ?? this.#newLane(work);
    if (
      this.#closed ||
      this.#waiting >= this.#options.waiting ||
      lane.waiting.length >= this.#options.waitingPerChannel
    ) {
      return 'full';
    }
    this.#lanes.set(work.channelId, lane);
    lane.waiting.push(work);
    this.#known.add(work.id);
    this.#waiting += 1;
    this.#serve();
    return 'taken';
  }

  /** Forgets what waits, takes nothing more, and resolves when what runs has ended. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const lane of this.#lanes.values()) {
      this.#waiting -= lane.waiting.length;
      for (const { id } of lane.waiting) this.#known.delete(id);
      lane.waiting = [];
    }
    await this.idle();
  }

  /** Resolves when nothing waits or runs. */
  async idle(): Promise<void> {
    if (this.#running === 0 && this.#waiting === 0) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  #newLane({ channelId, organizationId }: LaneWork): Lane {
    const suspect = this.#suspects.has(channelId);
    return { channelId, organizationId, waiting: [], running: 0, suspect };
  }

  #serve(): void {
    for (let found = true; found && this.#running < this.#options.overall; ) {
      found = false;
      for (const lane of [...this.#lanes.values()]) {
        if (!this.#hasPlace(lane)) continue;
        const work = lane.waiting.shift();
        if (!work) continue;
        found = true;
        // To the end of the row: the others are served before this one's next.
        this.#lanes.delete(lane.channelId);
        this.#lanes.set(lane.channelId, lane);
        this.#waiting -= 1;
        void this.#run(lane, work);
        if (this.#running >= this.#options.overall) break;
      }
    }
  }

  #hasPlace(lane: Lane): boolean {
    const { perChannel, perOrganization, suspect, suspectPerOrganization } = this.#options;
    const { organizationId } = lane;
    return (
      lane.waiting.length > 0 &&
      lane.running < (lane.suspect ? 1 : perChannel) &&
      (this.#perOrganization.get(organizationId) ?? 0) < perOrganization &&
      (!lane.suspect ||
        (this.#runningSuspect < suspect &&
          (this.#suspectPerOrganization.get(organizationId) ?? 0) < suspectPerOrganization))
    );
  }

  async #run(lane: Lane, work: LaneWork): Promise<void> {
    const { organizationId } = lane;
    let countedSuspect = false;
    let tookLong = false;
    const countSuspect = () => {
      if (countedSuspect) return;
      countedSuspect = true;
      this.#runningSuspect += 1;
      add(this.#suspectPerOrganization, organizationId, 1);
    };
    this.#running += 1;
    lane.running += 1;
    add(this.#perOrganization, organizationId, 1);
    if (lane.suspect) countSuspect();
    const slow = setTimeout(() => {
      tookLong = true;
      countSuspect();
      this.#setSuspect(lane, true);
    }, this.#options.slowAfterMs);
    let good = false;
    try {
      good = await work.run();
    } catch (error) {
      this.#options.onError(error);
    } finally {
      clearTimeout(slow);
      this.#setSuspect(lane, !good || tookLong);
      if (countedSuspect) {
        this.#runningSuspect -= 1;
        add(this.#suspectPerOrganization, organizationId, -1);
      }
      this.#running -= 1;
      lane.running -= 1;
      add(this.#perOrganization, organizationId, -1);
      this.#known.delete(work.id);
      if (lane.running === 0 && lane.waiting.length === 0) this.#lanes.delete(lane.channelId);
      this.#serve();
      if (this.#running === 0 && this.#waiting === 0) {
        for (const resolve of this.#idle.splice(0)) resolve();
      }
    }
  }

  #setSuspect(lane: Lane, suspect: boolean): void {
    lane.suspect = suspect;
    this.#suspects.delete(lane.channelId);
    if (!suspect) return;
    this.#suspects.add(lane.channelId);
    for (const oldest of this.#suspects) {
      if (this.#suspects.size <= 10_000) break;
      this.#suspects.delete(oldest);
    }
  }
}

function add(counts: Map<string, number>, key: string, change: number): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

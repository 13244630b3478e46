/**
 * BullMQ carries and paces; rows own. A job is a reminder to look at rows, so a lost or repeated
 * one changes nothing, and a duty that BullMQ stops pacing is paced by the process itself.
 */
import { type Job, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';

export interface JobsOptions {
  redisUrl: string;
  onError: (error: unknown, what: string) => void;
}

export interface Duty {
  name: string;
  periodMs: number;
  /** Takes no input: it finds by itself what is to be done. Never runs twice at once in a process. */
  work: () => Promise<void>;
}

/** Duties and reminders take some milliseconds; one that takes longer is done by the next process. */
const finishWithinMs = 500;

const removeAlways = { removeOnComplete: true, removeOnFail: true } as const;

export class Jobs {
  readonly #options: JobsOptions;
  readonly #connections: Redis[] = [];
  readonly #closing: (() => Promise<unknown>)[] = [];
  readonly #underWay = new Set<Promise<unknown>>();
  #closed = false;

  constructor(options: JobsOptions) {
    this.#options = options;
  }

  #connect(forWorker: boolean): Redis {
    const connection = new Redis(this.#options.redisUrl, {
      maxRetriesPerRequest: forWorker ? null : 1,
      enableOfflineQueue: forWorker,
      retryStrategy: (tries) => Math.min(100 * tries, 1_000),
    });
    connection.on('error', (error) => this.#options.onError(error, 'redis'));
    this.#connections.push(connection);
    return connection;
  }

  /**
   * Runs a duty at its period, once over all replicas while Redis paces it. When Redis has not
   * called for three periods (it is down, or was wiped) each process calls by itself: a duty is
   * safe to run twice.
   */
  every(duty: Duty): { runNow: () => void } {
    let running = false;
    let again = false;
    let lastRun = performance.now();
    const runOnce = async () => {
      if (running || this.#closed) {
        again = true;
        return;
      }
      running = true;
      try {
        do {
          again = false;
          lastRun = performance.now();
          await duty.work();
        } while (again && !this.#closed);
      } catch (error) {
        this.#options.onError(error, duty.name);
      } finally {
        running = false;
        lastRun = performance.now();
      }
    };
    const run = () => this.#follow(runOnce());

    const name = `duty-${duty.name}`;
    const queue = new Queue(name, { connection: this.#connect(false) });
    const worker = new Worker(name, run, { connection: this.#connect(true), concurrency: 1 });
    queue.on('error', (error) => this.#options.onError(error, duty.name));
    worker.on('error', (error) => this.#options.onError(error, duty.name));
    const schedule = () =>
      queue
        .upsertJobScheduler(
          duty.name,
          { every: duty.periodMs },
          { name: duty.name, opts: removeAlways },
        )
        .catch((error: unknown) => this.#options.onError(error, duty.name));
    void schedule();
    const watch = setInterval(
      () => {
        if (performance.now() - lastRun < Math.max(3 * duty.periodMs, 750)) return;
        void schedule();
        void run();
      },
      Math.max(duty.periodMs, 250),
    );
    this.#closing.push(async () => {
      clearInterval(watch);
      await worker.close(true);
      await queue.close();
    });
    return { runNow: () => void run() };
  }

  /** A queue whose jobs are keyed by the id of the row they remind of. */
  reminders(
    name: string,
    concurrency: number,
    work: (id: string, organizationId: string) => Promise<void>,
  ): { remind: (rows: { key: string; id: string; organizationId: string }[]) => Promise<void> } {
    const queue = new Queue(name, { connection: this.#connect(false) });
    const worker = new Worker(
      name,
      (job: Job<{ id: string; organizationId: string }>) =>
        this.#follow(work(job.data.id, job.data.organizationId)),
      { connection: this.#connect(true), concurrency },
    );
    queue.on('error', (error) => this.#options.onError(error, name));
    worker.on('error', (error) => this.#options.onError(error, name));
    this.#closing.push(async () => {
      await worker.close(true);
      await queue.close();
    });
    return {
      remind: async (rows) => {
        if (rows.length === 0) return;
        await queue.addBulk(
          rows.map(({ key, id, organizationId }) => ({
            name,
            data: { id, organizationId },
            // A colon separates parts of BullMQ's own keys.
            opts: { jobId: key.replaceAll(':', '-'), ...removeAlways },
          })),
        );
      },
    };
  }

  /** Whether Redis answers. */
  async ping(): Promise<void> {
    await this.#connections[0]?.ping();
  }

  #follow<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    return work.finally(() => this.#underWay.delete(work));
  }

  /** What is under way may end, within a time: the database is there until then. */
  async close(): Promise<void> {
    this.#closed = true;
    const late = new Promise<void>((resolve) => setTimeout(resolve, finishWithinMs).unref());
    await Promise.race([Promise.allSettled(this.#underWay), late]);
    await Promise.allSettled(this.#closing.map((close) => close()));
    for (const connection of this.#connections) connection.disconnect();
  }
}

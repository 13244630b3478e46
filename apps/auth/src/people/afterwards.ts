/** Work that an answer does not wait for. It is bounded, and an orderly stop waits for it. */
import type { Logger } from '@keystead/service-runtime/log';
import { LOG } from '@keystead/service-runtime/messaging.module';
import { type BeforeApplicationShutdown, Inject, Injectable } from '@nestjs/common';

const mostAtOnce = 200;

@Injectable()
export class Afterwards implements BeforeApplicationShutdown {
  readonly #running = new Set<Promise<void>>();

  constructor(@Inject(LOG) private readonly log: Pick<Logger, 'warn'>) {}

  run(work: () => Promise<void>): void {
    if (this.#running.size >= mostAtOnce) {
      this.log.warn({ waiting: this.#running.size }, 'a refused attempt was not written down');
      return;
    }
    const running = work()
      .catch((error: unknown) => this.log.warn({ err: error }, 'work after an answer failed'))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async beforeApplicationShutdown(): Promise<void> {
    await Promise.all(this.#running);
  }
}

/**
 * Making and checking password hashes, a few at a time: each takes 19 MiB and a thread. A flood of
 * sign-ins is turned away at the door, before it takes connections to the database, and what waits
 * too long for its turn is given up, because whoever asked has given up as well.
 */
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import { Injectable } from '@nestjs/common';
import { hashPassword, isOutgrown, matchesHash, parseHash } from './password-hash.ts';

export interface PasswordVerdict {
  right: boolean;
  /** The password is right and its hash is weaker than what we make today. */
  outgrown: boolean;
}

export interface PasswordsOptions {
  atOnce?: number;
  underWay?: number;
  waitMs?: number;
}

interface Waiting {
  since: number;
  begin: () => void;
  giveUp: () => void;
}

@Injectable()
export class Passwords {
  readonly #options: Required<PasswordsOptions>;
  readonly #waiting: Waiting[] = [];
  #running = 0;
  #underWay = 0;
  #decoy: Promise<string> | undefined;

  constructor(options: PasswordsOptions = {}) {
    this.#options = {
      atOnce: limits.passwordHashesAtOnce,
      underWay: limits.signInsUnderWay,
      waitMs: limits.passwordHashWaitMs,
      ...options,
    };
  }

  /**
   * Lets a sign-in or sign-up in, look-ups and all.
   * @throws ServiceError `unavailable` when too many are under way
   */
  async admit<T>(work: () => Promise<T>): Promise<T> {
    if (this.#underWay >= this.#options.underWay) throw crowded();
    this.#underWay += 1;
    try {
      return await work();
    } finally {
      this.#underWay -= 1;
    }
  }

  /** @throws ServiceError `unavailable` when its turn does not come in time */
  hash(password: string): Promise<string> {
    return this.#inLine(() => hashPassword(password));
  }

  /**
   * Costs the same whether there is a hash or not, so that the time tells nobody who is known.
   * @throws ServiceError `unavailable` when its turn does not come in time
   */
  async verify(password: string, stored: string | null): Promise<PasswordVerdict> {
    const hash = stored === null ? undefined : parseHash(stored);
    if (!hash) {
      this.#decoy ??= hashPassword('nobody has this password');
      const decoy = parseHash(await this.#decoy);
      if (decoy) await this.#inLine(() => matchesHash(password, decoy));
      return { right: false, outgrown: false };
    }
    const right = await this.#inLine(() => matchesHash(password, hash));
    return { right, outgrown: right && isOutgrown(hash) };
  }

  async #inLine<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#options.atOnce) {
      await new Promise<void>((begin, reject) => {
        this.#waiting.push({
          since: performance.now(),
          begin,
          giveUp: () => reject(crowded()),
        });
      });
    } else {
      this.#running += 1;
    }
    try {
      return await work();
    } finally {
      this.#handOver();
    }
  }

  /** The place goes to the next in line; it is free only when nobody waits. */
  #handOver(): void {
    const oldest = performance.now() - this.#options.waitMs;
    for (;;) {
      const next = this.#waiting.shift();
      if (!next) break;
      if (next.since >= oldest) {
        next.begin();
        return;
      }
      next.giveUp();
    }
    this.#running -= 1;
  }
}

function crowded(): ServiceError {
  return new ServiceError('unavailable', {
    detail: 'too many people sign in at this moment',
    retryAfterSeconds: 2,
    internal: 'too many password hashes',
  });
}

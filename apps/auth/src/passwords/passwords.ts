/**
 * Making and checking password hashes, a few at a time: each takes 19 MiB and a thread, so a flood
 * of sign-ins waits in a bounded line instead of exhausting the machine.
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

@Injectable()
export class Passwords {
  readonly #waiting: (() => void)[] = [];
  readonly #atOnce: number;
  readonly #mostWaiting: number;
  #running = 0;
  #decoy: Promise<string> | undefined;

  constructor(
    atOnce: number = limits.passwordHashesAtOnce,
    mostWaiting: number = limits.passwordHashesWaiting,
  ) {
    this.#atOnce = atOnce;
    this.#mostWaiting = mostWaiting;
  }

  /** @throws ServiceError `unavailable` when too many wait already */
  hash(password: string): Promise<string> {
    return this.#inLine(() => hashPassword(password));
  }

  /**
   * Costs the same whether there is a hash or not, so that the time tells nobody who is known.
   * @throws ServiceError `unavailable` when too many wait already
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
    if (this.#running >= this.#atOnce) {
      if (this.#waiting.length >= this.#mostWaiting) {
        throw new ServiceError('unavailable', {
          detail: 'too many people sign in at this moment',
          retryAfterSeconds: 2,
          internal: 'the line of password hashes is full',
        });
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      this.#running += 1;
    }
    try {
      return await work();
    } finally {
      // The place goes to the next in line; it is free only when nobody waits.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running -= 1;
    }
  }
}

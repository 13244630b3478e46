import { describe, expect, it } from 'vitest';
import { Turnstile } from './turnstile.ts';

/** Work that ends when it is told to. */
function workshop() {
  const ends: (() => void)[] = [];
  let inside = 0;
  let most = 0;
  return {
    work: async () => {
      inside += 1;
      most = Math.max(most, inside);
      await new Promise<void>((resolve) => ends.push(resolve));
      inside -= 1;
    },
    endOne: () => ends.shift()?.(),
    inside: () => inside,
    most: () => most,
  };
}

describe('the turnstile', () => {
  it('lets as many in as it has places, in the order they came', async () => {
    const turnstile = new Turnstile({ places: 2, waiting: 10, waitMs: 60_000 });
    const shop = workshop();
    const order: number[] = [];
    const visits = [0, 1, 2, 3, 4].map((visitor) =>
      turnstile.pass(async () => {
        order.push(visitor);
        await shop.work();
      }),
    );
    for (let left = 5; left > 0; left -= 1) {
      await expect.poll(shop.inside).toBe(Math.min(2, left));
      shop.endOne();
    }
    await Promise.all(visits);
    expect(order).toEqual([0, 1, 2, 3, 4]);
    expect(shop.most()).toBe(2);
  });

  it('gives the place of one that failed to the next', async () => {
    const turnstile = new Turnstile({ places: 1, waiting: 10, waitMs: 60_000 });
    const failing = turnstile.pass(() => Promise.reject(new Error('failed')));
    const next = turnstile.pass(async () => 'in');
    await expect(failing).rejects.toThrow('failed');
    expect(await next).toBe('in');
    expect(await turnstile.pass(async () => 'free again')).toBe('free again');
  });

  it('turns away at once when too many wait, and in time who waits too long', async () => {
    const turnstile = new Turnstile({ places: 1, waiting: 1, waitMs: 20 });
    const shop = workshop();
    const first = turnstile.pass(shop.work);
    let entered = false;
    const second = turnstile.pass(async () => {
      entered = true;
    });
    await expect(turnstile.pass(shop.work)).rejects.toMatchObject({
      code: 'unavailable',
      retryAfterSeconds: 2,
    });
    await expect(second).rejects.toMatchObject({ code: 'unavailable' });
    shop.endOne();
    await first;
    expect(entered).toBe(false);
    expect(await turnstile.pass(async () => 'in')).toBe('in');
  });
});

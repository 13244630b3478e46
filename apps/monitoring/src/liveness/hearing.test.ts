import { limits } from '@keystead/contracts/limits';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type GatewayRow, Hearing, silenceOfGateway } from './hearing.ts';

const gateway = (facts: Partial<GatewayRow> = {}): GatewayRow => ({
  id: 'a',
  startedAt: 0,
  lastTickAt: 100_000,
  drainedAt: null,
  goneAt: null,
  ...facts,
});
const threshold = 270_000;
const allowance = limits.reconnectAllowanceMs;

describe('a gateway that does not tick', () => {
  it('is not deaf for one lost tick', () => {
    expect(silenceOfGateway(gateway(), [gateway()], [], 103_000)).toBeUndefined();
  });

  it('is deaf for as long as nobody hears in its place', () => {
    const silence = silenceOfGateway(gateway(), [gateway()], [], 5_000_000);
    expect(silence).toEqual({ state: 'open', startedAt: 100_000, endedAt: 5_000_000 });
  });

  it('is not waited for once another hears: its agents had time to go there', () => {
    const other = gateway({ id: 'b', lastTickAt: 500_000 });
    expect(silenceOfGateway(gateway(), [gateway(), other], [], 500_000)).toEqual({
      state: 'ended',
      startedAt: 100_000,
      endedAt: 100_000 + limits.gatewayGoneAfterMs,
    });
  });

  it('is deaf until its successor starts', () => {
    const successor = gateway({ id: 'b', startedAt: 900_000, lastTickAt: 900_000 });
    expect(silenceOfGateway(gateway(), [gateway(), successor], [], 901_000)).toEqual({
      state: 'ended',
      startedAt: 100_000,
      endedAt: 900_000,
    });
  });

  it('is deaf while the other one was deaf too', () => {
    const other = gateway({ id: 'b', lastTickAt: 800_000 });
    const both = [{ gatewayId: 'b', startedAt: 99_000, endedAt: 700_000 }];
    expect(silenceOfGateway(gateway(), [gateway(), other], both, 800_000)).toMatchObject({
      state: 'ended',
      endedAt: 700_000,
    });
  });

  it('hands over at once when it was drained', () => {
    const other = gateway({ id: 'b', lastTickAt: 101_000 });
    const drained = gateway({ drainedAt: 100_500 });
    expect(silenceOfGateway(drained, [drained, other], [], 101_000)).toEqual({
      state: 'ended',
      startedAt: 100_500,
      endedAt: 100_500,
    });
  });
});

describe('silence that counts', () => {
  it('is all of it when we heard all the time', () => {
    const hearing = new Hearing([gateway({ lastTickAt: 370_000 })], [], 370_000);
    expect(hearing.silence('a', 100_000, 370_000, threshold)).toEqual({
      countedMs: 270_000,
      remainingMs: 0,
    });
  });

  it('leaves out what we could not hear, and one allowance to connect again', () => {
    const spells = [{ gatewayId: 'a', startedAt: 200_000, endedAt: 800_000 }];
    const hearing = new Hearing([gateway({ lastTickAt: 1_000_000 })], spells, 1_000_000);
    const { countedMs } = hearing.silence('a', 100_000, 1_000_000, threshold);
    expect(countedMs).toBe(900_000 - 600_000 - allowance);
  });

  it('goes on under a gateway that crashes in a loop: alarms cannot be muted for ever', () => {
    const spells = Array.from({ length: 1_000 }, (_, index) => ({
      gatewayId: 'a',
      startedAt: 100_000 + index * 20_000,
      endedAt: 110_000 + index * 20_000,
    }));
    const now = 100_000 + 2 * (threshold + allowance) + 20_000;
    const hearing = new Hearing([gateway({ lastTickAt: now })], spells, now);
    expect(hearing.silence('a', 100_000, now, threshold).countedMs).toBeGreaterThanOrEqual(
      threshold,
    );
  });

  it('never counts more than what passed, and never less than all but deafness and one allowance', () => {
    const spell = fc.tuple(fc.nat(1_000_000), fc.nat(400_000));
    fc.assert(
      fc.property(fc.array(spell, { maxLength: 12 }), fc.nat(500_000), (pairs, from) => {
        const spells = pairs.map(([startedAt, length]) => ({
          gatewayId: 'a',
          startedAt,
          endedAt: startedAt + length,
        }));
        const now = 2_000_000;
        const hearing = new Hearing([gateway({ lastTickAt: now })], spells, now);
        const { countedMs, remainingMs } = hearing.silence('a', from, now, threshold);
        const covered = new Set<number>();
        for (const { startedAt, endedAt } of spells) {
          for (let at = Math.max(startedAt, from); at < Math.min(endedAt, now); at += 1_000) {
            covered.add(Math.floor(at / 1_000));
          }
        }
        expect(countedMs).toBeLessThanOrEqual(now - from);
        expect(countedMs).toBeGreaterThanOrEqual(
          now - from - (covered.size + spells.length) * 1_000 - allowance,
        );
        expect(remainingMs).toBeGreaterThanOrEqual(threshold - countedMs);
      }),
    );
  });
});

import { describe, expect, it } from 'vitest';
import { limits } from './limits.ts';
import { heartbeatIntervalMs, thresholdInForce } from './threshold.ts';

describe('the threshold in force', () => {
  const all = { vault: 60, tags: [90, 45], organization: 120, installation: 270 };

  it('is the nearest one: vault, smallest among the tags, organization, installation', () => {
    expect(thresholdInForce(all)).toEqual({ offlineAfterSeconds: 60, source: 'vault' });
    expect(thresholdInForce({ ...all, vault: null })).toEqual({
      offlineAfterSeconds: 45,
      source: 'tag',
    });
    expect(thresholdInForce({ ...all, vault: null, tags: [] })).toEqual({
      offlineAfterSeconds: 120,
      source: 'organization',
    });
    expect(thresholdInForce({ ...all, vault: null, tags: [], organization: null })).toEqual({
      offlineAfterSeconds: 270,
      source: 'installation',
    });
  });

  it('may be wider near the vault than further away', () => {
    expect(thresholdInForce({ ...all, vault: 900 }).offlineAfterSeconds).toBe(900);
  });
});

describe('the heartbeat interval', () => {
  it('is a ninth of the threshold within its bounds', () => {
    expect(heartbeatIntervalMs(45)).toBe(5_000);
    expect(heartbeatIntervalMs(limits.offlineAfterDefaultSeconds)).toBe(30_000);
    expect(heartbeatIntervalMs(limits.offlineAfterMaxSeconds)).toBe(30_000);
    expect(heartbeatIntervalMs(limits.offlineAfterMinSeconds)).toBe(1_666);
  });

  it('leaves room for three lost beats before every threshold', () => {
    for (let seconds = limits.offlineAfterMinSeconds; seconds <= 3_600; seconds += 1) {
      expect(heartbeatIntervalMs(seconds) * limits.lateAfterIntervals).toBeLessThan(
        seconds * 1_000,
      );
    }
  });
});

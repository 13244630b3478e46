import { describe, expect, it } from 'vitest';
import { hourMs, hoursOf, usageRange } from './usage-range.ts';

const now = Date.parse('2026-03-05T10:20:30Z');
const rangeOf = (asked: { since?: string; until?: string }) => {
  const decided = usageRange(asked, now);
  if (decided.outcome === 'invalid') throw decided.error;
  const { fromMs, toMs } = decided.range;
  return [new Date(fromMs).toISOString(), new Date(toMs).toISOString()];
};

describe('the hours that a question means', () => {
  it('are the last 24 hours and the open one by default', () => {
    expect(rangeOf({})).toEqual(['2026-03-04T10:00:00.000Z', '2026-03-05T11:00:00.000Z']);
  });

  it('are all that the range touches, and none that it only borders', () => {
    expect(rangeOf({ since: '2026-03-01T00:59:59Z', until: '2026-03-01T03:00:00Z' })).toEqual([
      '2026-03-01T00:00:00.000Z',
      '2026-03-01T03:00:00.000Z',
    ]);
  });

  it('end with the hour that runs now', () => {
    expect(rangeOf({ since: '2026-03-05T09:00:00Z', until: '2026-03-20T00:00:00Z' })).toEqual([
      '2026-03-05T09:00:00.000Z',
      '2026-03-05T11:00:00.000Z',
    ]);
    const ahead = usageRange({ since: '2026-04-01T00:00:00Z', until: '2026-04-02T00:00:00Z' }, now);
    expect(ahead.outcome === 'range' && hoursOf(ahead.range)).toEqual([]);
  });

  it('do not reach back before the first clock', () => {
    const early = usageRange({ until: '0001-01-01T00:00:00Z' }, now);
    expect(early.outcome === 'range' && hoursOf(early.range)).toEqual([]);
  });

  it.each([
    { since: '2026-03-05T10:00:00Z', until: '2026-03-05T10:00:00Z' },
    { since: '2026-03-05T11:00:00Z', until: '2026-03-05T10:00:00Z' },
    { since: '2026-03-06T00:00:00Z' },
    { since: '2026-01-01T00:00:00Z', until: '2026-03-01T00:00:00Z' },
    { since: '0001-01-01T00:00:00Z', until: '9999-12-31T23:59:59Z' },
  ])('are refused, naming the field, for $since to $until', (asked) => {
    expect(usageRange(asked, now)).toMatchObject({
      outcome: 'invalid',
      error: { code: 'invalid_request', errors: [{ in: 'query', path: '/since' }] },
    });
  });

  it('are at most those of 31 days and one', () => {
    const since = new Date(now - 31 * 24 * hourMs).toISOString();
    const decided = usageRange({ since }, now);
    expect(decided.outcome === 'range' && hoursOf(decided.range).length).toBe(31 * 24 + 1);
  });
});

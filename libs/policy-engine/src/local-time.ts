/** What a clock on the wall shows in a time zone. */

export interface LocalTime {
  year: number;
  month: number;
  day: number;
  /** Monday is 1. */
  weekday: number;
  minuteOfDay: number;
}

const formats = new Map<string, Intl.DateTimeFormat>();
const offsets = new Map<string, { quarter: number; offsetMs: number }>();
const quarterMs = 15 * 60_000;

/** Zones change their offset at quarters of an hour, so within one it is asked for once. */
function offsetMs(atMs: number, zone: string): number {
  if (zone === 'UTC') return 0;
  const quarter = Math.floor(atMs / quarterMs);
  const known = offsets.get(zone);
  if (known?.quarter === quarter) return known.offsetMs;
  let format = formats.get(zone);
  if (format === undefined) {
    if (formats.size > 100) formats.clear();
    format = new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    });
    formats.set(zone, format);
  }
  const start = quarter * quarterMs;
  const parts: Record<string, number> = {};
  for (const { type, value } of format.formatToParts(start)) parts[type] = Number(value);
  const shown = Date.UTC(
    parts.year as number,
    (parts.month as number) - 1,
    parts.day as number,
    parts.hour as number,
    parts.minute as number,
    parts.second as number,
  );
  if (offsets.size > 1_000) offsets.clear();
  offsets.set(zone, { quarter, offsetMs: shown - start });
  return shown - start;
}

/** @param zone a name that `isTimeZone` knows */
export function localTime(atMs: number, zone: string): LocalTime {
  const shown = new Date(atMs + offsetMs(atMs, zone));
  return {
    year: shown.getUTCFullYear(),
    month: shown.getUTCMonth() + 1,
    day: shown.getUTCDate(),
    weekday: ((shown.getUTCDay() + 6) % 7) + 1,
    minuteOfDay: shown.getUTCHours() * 60 + shown.getUTCMinutes(),
  };
}

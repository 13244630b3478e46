/**
 * What every benchmark prints: a table for people, and with `--json` one object in the last line.
 * A figure of ours stands beside its floor, taken in the same run; the calibration line says how
 * fast the machine was while it ran.
 */
import { createHash } from 'node:crypto';
import { cpus } from 'node:os';

export interface BenchResult {
  bench: string;
  /** Ours divided by the floor; above or below one as `better` says. */
  ratio: number;
  better: 'higher' | 'lower';
  floor: number;
  ours: number;
  unit: string;
  p50Ms?: number;
  p95Ms?: number;
  p99Ms?: number;
  maxMs?: number;
  peakRssBytes: number;
  rounds: number;
  calibrationMs: number;
  [detail: string]: string | number | undefined;
}

/** Milliseconds for a fixed piece of work on one core. */
export function calibrate(): number {
  const block = Buffer.alloc(1 << 20, 7);
  const start = performance.now();
  for (let round = 0; round < 100; round += 1) createHash('sha256').update(block).digest();
  return Math.round(performance.now() - start);
}

export function percentile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) return 0;
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

export function spread(values: readonly number[]) {
  const sorted = [...values].sort((a, b) => a - b);
  return {
    p50Ms: round(percentile(sorted, 0.5)),
    p95Ms: round(percentile(sorted, 0.95)),
    p99Ms: round(percentile(sorted, 0.99)),
    maxMs: round(sorted.at(-1) ?? 0),
  };
}

export function median(values: readonly number[]): number {
  return percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

export const round = (value: number): number =>
  Math.abs(value) >= 100 ? Math.round(value) : Math.round(value * 100) / 100;

export function printTable(rows: readonly Record<string, string | number | undefined>[]): void {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value: string | number | undefined) =>
    typeof value === 'number' ? value.toLocaleString('en-US') : (value ?? '');
  const widths = columns.map((column) =>
    Math.max(column.length, ...rows.map((row) => cell(row[column]).length)),
  );
  const line = (cells: string[], values?: Record<string, string | number | undefined>) =>
    cells
      .map((text, index) => {
        const numeric = values ? typeof values[columns[index] as string] === 'number' : false;
        return numeric ? text.padStart(widths[index] ?? 0) : text.padEnd(widths[index] ?? 0);
      })
      .join('  ')
      .trimEnd();
  console.log(line(columns));
  console.log(widths.map((width) => '─'.repeat(width)).join('  '));
  for (const row of rows)
    console.log(
      line(
        columns.map((column) => cell(row[column])),
        row,
      ),
    );
}

export function finish(result: BenchResult): void {
  console.log(
    `\n${result.bench}: ours ${round(result.ours)} ${result.unit}, floor ${round(result.floor)} ${result.unit}, ` +
      `ratio ${round(result.ratio)} (${result.better} is better), ${result.rounds} rounds, ` +
      `calibration ${result.calibrationMs} ms on ${cpus().length} × ${cpus()[0]?.model.trim()}`,
  );
  if (process.argv.includes('--json')) console.log(JSON.stringify(result));
}

export const argument = (name: string, otherwise: number): number => {
  const index = process.argv.indexOf(`--${name}`);
  return index < 0 ? otherwise : Number(process.argv[index + 1]);
};

/**
 * What was done in a period, in numbers: how often, with what outcome, how long it took, and which secrets
 * were read most. Bounded whatever is done: where more secrets are read than are counted, one that is new
 * takes one off each (Misra and Gries), so that those that are read often are found for certain, with a
 * count that is too low by at most a thousandth of all reads.
 */
import {
  Operation,
  type OperationCounts,
  type OperationOutcome,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { LatencyHistogram } from './latency-histogram.ts';
import { upwardLimits } from './upward-limits.ts';

export interface StoreSizes {
  namespaces: number;
  secrets: number;
  storedBytes: number;
}

export class UsageCounts {
  readonly startUnixMs: number;
  readonly #counts = new Map<number, Counted>();
  readonly #secrets = new Map<string, { namespace: string; name: string; count: number }>();

  constructor(startUnixMs: number) {
    this.startUnixMs = startUnixMs;
  }

  get isEmpty(): boolean {
    return this.#counts.size === 0;
  }

  count(operation: Operation, outcome: OperationOutcome, durationMs: number): void {
    const key = operation * 16 + outcome;
    let counted = this.#counts.get(key);
    if (counted === undefined) {
      counted = { operation, outcome, durations: new LatencyHistogram() };
      this.#counts.set(key, counted);
    }
    counted.durations.record(durationMs * 1_000);
  }

  read(namespace: string, name: string): void {
    const key = `${namespace}\0${name}`;
    const known = this.#secrets.get(key);
    if (known !== undefined) known.count += 1;
    else if (this.#secrets.size < upwardLimits.secretsCounted) {
      this.#secrets.set(key, { namespace, name, count: 1 });
    } else {
      for (const [each, counted] of this.#secrets) {
        counted.count -= 1;
        if (counted.count === 0) this.#secrets.delete(each);
      }
    }
  }

  /** The report of the period, which ends with it. */
  report(
    endUnixMs: number,
    sizes: StoreSizes,
    referenceOf: (namespace: string, name: string) => Buffer,
  ): OperationCounts {
    return {
      periodStartUnixMs: this.startUnixMs,
      periodEndUnixMs: Math.max(endUnixMs, this.startUnixMs),
      counts: mostFrequent([...this.#counts.values()]).map(({ operation, outcome, durations }) => ({
        operation,
        outcome,
        count: Math.min(durations.count, 2 ** 32 - 1),
        p50Us: durations.percentile(0.5),
        p95Us: durations.percentile(0.95),
        p99Us: durations.percentile(0.99),
      })),
      topSecrets: [...this.#secrets.values()]
        .sort((one, other) => other.count - one.count)
        .slice(0, upwardLimits.topSecrets)
        .map(({ namespace, name, count }) => ({ secretRef: referenceOf(namespace, name), count })),
      ...sizes,
    };
  }
}

interface Counted {
  operation: Operation;
  outcome: OperationOutcome;
  durations: LatencyHistogram;
}

/** At most as many as a report may hold: the rarest are one with others of their outcome. */
function mostFrequent(counted: Counted[]): Counted[] {
  const most = upwardLimits.countsPerReport;
  if (counted.length <= most) return counted;
  const sorted = counted.toSorted((one, other) => other.durations.count - one.durations.count);
  // Room for one entry of others for each of the five outcomes.
  const kept = new Map(
    sorted.slice(0, most - 5).map((each) => [`${each.operation} ${each.outcome}`, each]),
  );
  for (const { outcome, durations } of sorted.slice(most - 5)) {
    const key = `${Operation.OTHER} ${outcome}`;
    const others = kept.get(key) ?? {
      operation: Operation.OTHER,
      outcome,
      durations: new LatencyHistogram(),
    };
    others.durations.add(durations);
    kept.set(key, others);
  }
  return [...kept.values()];
}

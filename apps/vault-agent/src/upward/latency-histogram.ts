/** Counts durations so that percentiles come out within 1/16, in a few hundred numbers. */

const subBuckets = 16;
const octaves = 32;

export class LatencyHistogram {
  readonly #counts = new Uint32Array(octaves * subBuckets);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  record(microseconds: number): void {
    const index = bucketOf(microseconds);
    this.#counts[index] = (this.#counts[index] ?? 0) + 1;
    this.#count += 1;
  }

  add(other: LatencyHistogram): void {
    for (const [index, count] of other.#counts.entries()) {
      this.#counts[index] = (this.#counts[index] ?? 0) + count;
    }
    this.#count += other.#count;
  }

  /** The duration that this share of all did not exceed; 0 where there are none. */
  percentile(share: number): number {
    const rank = Math.max(1, Math.ceil(share * this.#count));
    let seen = 0;
    for (const [index, count] of this.#counts.entries()) {
      seen += count;
      if (seen >= rank && count > 0) return upperBound(index);
    }
    return 0;
  }
}

/** Exact below 16; above, sixteen parts of each doubling. */
function bucketOf(microseconds: number): number {
  const value = Math.min(Math.max(0, Math.round(microseconds)), 2 ** 32 - 1);
  if (value < subBuckets) return value;
  const octave = 31 - Math.clz32(value);
  const part = Math.floor(value / 2 ** (octave - 4)) - subBuckets;
  return (octave - 3) * subBuckets + part;
}

function upperBound(index: number): number {
  if (index < subBuckets) return index;
  const octave = Math.floor(index / subBuckets) + 3;
  const part = index % subBuckets;
  return Math.min((subBuckets + part + 1) * 2 ** (octave - 4) - 1, 2 ** 32 - 1);
}

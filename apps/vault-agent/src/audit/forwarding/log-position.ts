/** Reads the log forward from an entry on, over the files as they are closed and removed. */
import { open } from 'node:fs/promises';
import { sequenceOf } from '../audit-entry.ts';
import { closedFiles, readFirst, readLines } from '../audit-files.ts';
import type { ForwardedLine } from './destination.ts';
import { forwardingLimits } from './forwarding-limits.ts';

export class LogPosition {
  readonly #logFile: string;
  /** Entries up to this one were read. */
  #sequence: number;
  /** Where the next line of the file that begins with this entry stands; only a short cut. */
  #hint: { firstSequence: number; offset: number } | undefined;
  /** Entries that were removed before they were read. */
  skipped = 0;
  /** Up to this one they are counted: whoever goes back finds them missing again. */
  #skippedThrough = 0;
  #chain: string | undefined;

  /** @param chain that the sequence is of; undefined where it was written down without it */
  constructor(logFile: string, sequence: number, chain?: string) {
    this.#logFile = logFile;
    this.#sequence = sequence;
    this.#chain = chain;
  }

  /** Of the log that was read last. */
  get chain(): string | undefined {
    return this.#chain;
  }

  get sequence(): number {
    return this.#sequence;
  }

  /** Goes back to after that entry of that chain: of another log than the one that was read last, to its beginning. */
  rewind(sequence: number, chain: string | undefined): void {
    const to = chain === undefined || chain === this.#chain ? sequence : 0;
    if (to === this.#sequence) return;
    this.#sequence = to;
    this.#hint = undefined;
  }

  /**
   * The next lines, moved past; empty where there are none yet.
   * @param through what comes after this entry is not on the disk yet: a power cut may take it away, and
   * another one have its number
   */
  async read(through = Number.POSITIVE_INFINITY): Promise<ForwardedLine[]> {
    const file = await this.#file();
    if (file === undefined) return [];
    if (file.firstSequence > this.#sequence + 1) {
      const gone = file.firstSequence - 1;
      this.skipped += Math.max(0, gone - Math.max(this.#sequence, this.#skippedThrough));
      this.#skippedThrough = gone;
      this.#sequence = gone;
    }
    const handle = await open(file.path, 'r');
    try {
      const { size } = await handle.stat();
      const isHinted =
        this.#hint?.firstSequence === file.firstSequence && this.#hint.offset <= size;
      const start = isHinted ? (this.#hint?.offset ?? 0) : 0;
      const lines: ForwardedLine[] = [];
      let bytesRead = 0;
      for await (const piece of readLines(handle, start, size)) {
        if (piece.isUnfinished) break;
        let at = 0;
        while (at < piece.bytes.length) {
          const end = piece.bytes.indexOf(0x0a, at);
          const line = piece.bytes.subarray(at, end);
          const sequence = sequenceOf(line);
          if (sequence !== undefined && sequence > through) {
            this.#hint = { firstSequence: file.firstSequence, offset: piece.start + at };
            return lines;
          }
          at = end + 1;
          if (sequence === undefined || sequence <= this.#sequence) continue;
          lines.push({ sequence, text: line.toString() });
          bytesRead += line.length;
          this.#sequence = sequence;
          if (
            lines.length >= forwardingLimits.batchLines ||
            bytesRead >= forwardingLimits.batchBytes
          ) {
            this.#hint = { firstSequence: file.firstSequence, offset: piece.start + at };
            return lines;
          }
        }
        this.#hint = { firstSequence: file.firstSequence, offset: piece.start + at };
      }
      return lines;
    } finally {
      await handle.close();
    }
  }

  /** The file with the next entry, or the one after it where that is gone. */
  async #file(): Promise<{ path: string; firstSequence: number } | undefined> {
    const first = await readFirst(this.#logFile).catch(() => undefined);
    if (first !== undefined && first.chain !== this.#chain) {
      // Another log than the one that the position is of: nothing of it has been read.
      if (this.#chain !== undefined) {
        this.#sequence = 0;
        this.#skippedThrough = 0;
        this.#hint = undefined;
      }
      this.#chain = first.chain;
    }
    const closed = await closedFiles(this.#logFile);
    const files = [
      ...closed,
      ...(first === undefined ||
      closed.some(({ firstSequence }) => firstSequence === first.sequence)
        ? []
        : [{ path: this.#logFile, firstSequence: first.sequence }]),
    ];
    return files.findLast(({ firstSequence }) => firstSequence <= this.#sequence + 1) ?? files[0];
  }
}

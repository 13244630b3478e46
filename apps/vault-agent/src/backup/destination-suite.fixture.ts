/** What every destination promises, checked on each of them in the same words. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type BackupDestination, DestinationError, type DestinationReason } from './destination.ts';

export interface DestinationSubject {
  destination: BackupDestination;
  /** Leaves there what a killed upload leaves. */
  leaveUnfinished(name: string): Promise<void>;
  /** How many of those are there. */
  unfinished(): Promise<number>;
  /** Puts something there that is not ours. */
  putForeign(name: string): Promise<void>;
  dispose(): Promise<void> | void;
}

/** Why it failed; fails where it did not, or otherwise than a destination does. */
export async function failure(work: Promise<unknown>): Promise<DestinationReason> {
  const error = await work.then(
    () => {
      throw new Error('it did not fail');
    },
    (caught: unknown) => caught,
  );
  if (!(error instanceof DestinationError)) throw error;
  return error.reason;
}

const largeBytes = 3 * 1_024 * 1_024 + 7;

export const never = new AbortController().signal;

export function temporaryFile(folder: string, content: Buffer): string {
  const file = join(folder, randomBytes(6).toString('hex'));
  writeFileSync(file, content);
  return file;
}

export function destinationSuite(name: string, make: () => Promise<DestinationSubject>): void {
  describe(`destination ${name}`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'keystead-destination-'));
    let subject: DestinationSubject;
    let destination: BackupDestination;
    const file = (content: Buffer) => temporaryFile(folder, content);
    const read = async (fileName: string) => buffer(await destination.read(fileName, never));

    beforeAll(async () => {
      subject = await make();
      destination = subject.destination;
    });
    afterAll(async () => {
      await destination.close();
      await subject.dispose();
      rmSync(folder, { recursive: true, force: true });
    });

    test('before anything was put there, it is empty', async () => {
      expect(await destination.list(never)).toEqual([]);
      await destination.removeUnfinished('keystead-', never);
      await destination.remove('keystead-nothing.json', never);
      expect(await failure(destination.read('keystead-nothing.json', never))).toBe('not_found');
    });

    test('what was put there comes back, whatever its size', async () => {
      for (const [index, length] of [0, 1, 100_000, largeBytes].entries()) {
        const content = randomBytes(length);
        const fileName = `keystead-size-${index}.ksbackup`;
        await destination.put(fileName, file(content), never);
        expect((await read(fileName)).equals(content)).toBe(true);
      }
      const found = await destination.list(never);
      expect(found.map(({ bytes }) => bytes).sort((one, other) => one - other)).toEqual([
        0,
        1,
        100_000,
        largeBytes,
      ]);
      expect(await subject.unfinished()).toBe(0);
    });

    test('putting again replaces, removing removes, the rest stays', async () => {
      await destination.put('keystead-again.json', file(Buffer.from('first')), never);
      await destination.put('keystead-again.json', file(Buffer.from('second')), never);
      await destination.put('keystead-other.json', file(Buffer.from('other')), never);
      expect((await read('keystead-again.json')).toString()).toBe('second');
      await destination.remove('keystead-again.json', never);
      expect(await failure(destination.read('keystead-again.json', never))).toBe('not_found');
      expect((await read('keystead-other.json')).toString()).toBe('other');
    });

    test('what is not ours is neither listed nor touched', async () => {
      await subject.putForeign('notes.txt');
      await subject.putForeign('keystead-looks.txt');
      const names = (await destination.list(never)).map((each) => each.name);
      expect(names.some((each) => each.endsWith('.txt'))).toBe(false);
      for (const wrong of [
        '../escape.json',
        'notes.txt',
        'keystead-/x.json',
        'keystead-.json',
        '',
      ]) {
        await expect(destination.put(wrong, file(Buffer.from('x')), never)).rejects.toThrow(
          RangeError,
        );
        await expect(destination.read(wrong, never)).rejects.toThrow(RangeError);
        await expect(destination.remove(wrong, never)).rejects.toThrow(RangeError);
      }
    });

    test('what was not finished is not listed, and is removed', async () => {
      await subject.leaveUnfinished('keystead-torn.ksbackup');
      expect(await subject.unfinished()).toBe(1);
      const names = (await destination.list(never)).map((each) => each.name);
      expect(names).not.toContain('keystead-torn.ksbackup');
      expect(await failure(destination.read('keystead-torn.ksbackup', never))).toBe('not_found');
      await destination.removeUnfinished('keystead-another-', never);
      expect(await subject.unfinished()).toBe(1);
      await destination.removeUnfinished('keystead-torn', never);
      expect(await subject.unfinished()).toBe(0);
      expect(await destination.list(never)).not.toEqual([]);
    });

    test('a file that is not there is not put, and one that was is kept', async () => {
      await destination.put('keystead-kept.json', file(Buffer.from('kept')), never);
      await expect(
        destination.put('keystead-kept.json', join(folder, 'nowhere'), never),
      ).rejects.toThrow();
      expect((await read('keystead-kept.json')).toString()).toBe('kept');
      expect(await subject.unfinished()).toBe(0);
    });

    test('stopped in the middle, nothing is listed', async () => {
      const stop = new AbortController();
      const large = file(Buffer.alloc(40 * 1_024 * 1_024));
      const put = destination.put('keystead-stopped.ksbackup', large, stop.signal);
      setTimeout(() => stop.abort(), 15);
      await expect(put).rejects.toThrow();
      const names = (await destination.list(never)).map((each) => each.name);
      expect(names).not.toContain('keystead-stopped.ksbackup');
    });

    test('many are listed, all of them', async () => {
      const small = file(Buffer.from('x'));
      const wanted = Array.from({ length: 5 }, (_, index) => `keystead-many-${index}.json`);
      for (const each of wanted) await destination.put(each, small, never);
      const names = (await destination.list(never)).map((each) => each.name);
      expect(names).toEqual(expect.arrayContaining(wanted));
    });
  });
}

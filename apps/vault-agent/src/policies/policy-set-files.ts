/**
 * The policy sets of an agent on its disk: the one that decides and the one before it, each a file
 * named by its digest, and one small file that says which is which. The small file is written last and
 * moved into place, so that a crash leaves the old set or the new one, never a mixture.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { makePrivateFolder, removeDurably, writeDurably } from '../durable-file.ts';

const signedSet = z.strictObject({
  number: z.number().int().min(1),
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  /** base64. */
  signature: z.string(),
  /** Leaf, then intermediate, DER in base64. */
  chain: z.array(z.string()).length(2),
});
export type SignedSet = z.infer<typeof signedSet>;

const pointer = z.strictObject({
  active: signedSet,
  predecessor: signedSet.nullable(),
});
export type Pointer = z.infer<typeof pointer>;

export class PolicySetFiles {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Undefined where nothing was ever held. @throws where what is there cannot be read */
  readPointer(): Pointer | undefined {
    const file = join(this.#folder, 'held.json');
    return existsSync(file) ? pointer.parse(JSON.parse(readFileSync(file, 'utf8'))) : undefined;
  }

  /** @throws where it cannot be read */
  readSet({ digest }: Pick<SignedSet, 'digest'>): Buffer {
    return readFileSync(join(this.#folder, `${digest}.json`));
  }

  /** Durable when it returns. @throws where it cannot be kept, and the old set stays */
  switchTo(held: Pointer, content: Buffer): void {
    makePrivateFolder(this.#folder);
    writeDurably(join(this.#folder, `${held.active.digest}.json`), content.toString('utf8'), 0o600);
    writeDurably(join(this.#folder, 'held.json'), JSON.stringify(held), 0o600);
    this.#removeOthers(held);
  }

  /** When the control plane was heard last, or 0. */
  readHeardAtMs(): number {
    try {
      return Number(readFileSync(join(this.#folder, 'heard'), 'utf8')) || 0;
    } catch {
      return 0;
    }
  }

  writeHeardAtMs(atMs: number): void {
    makePrivateFolder(this.#folder);
    writeDurably(join(this.#folder, 'heard'), String(atMs), 0o600);
  }

  /** What cannot be removed now is tried again with the next set: it decides nothing. */
  #removeOthers({ active, predecessor }: Pointer): void {
    const kept = new Set([`${active.digest}.json`, `${predecessor?.digest ?? ''}.json`]);
    try {
      for (const name of readdirSync(this.#folder)) {
        if (/^[0-9a-f]{64}\.json$/.test(name) && !kept.has(name)) {
          removeDurably(join(this.#folder, name));
        }
      }
    } catch {
      // The new set is held already.
    }
  }
}

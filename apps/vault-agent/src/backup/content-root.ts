/**
 * One SHA-256 over everything that a backup holds of the store. It is written with the backup, found again
 * by whoever reads it, and found a third time in a store that it was restored into: where the three
 * agree, nothing was lost, added or changed on the way.
 */
import { createHash, hash } from 'node:crypto';
import { Corrupt } from '@keystead/envelope/sealed';

/** What comes from the store; files lie beside it. */
export const rootedSections = ['access', 'rotations', 'secrets', 'records'] as const;
export type RootedSection = (typeof rootedSections)[number];

const isRooted = (name: string): name is RootedSection =>
  (rootedSections as readonly string[]).includes(name);

export class ContentRoot {
  readonly #digests = new Map<RootedSection, string>();

  /** The content, unchanged; what comes from the store counts once it was read to its end. */
  async *over(
    name: string,
    content: AsyncIterable<Uint8Array>,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    if (!isRooted(name)) {
      yield* content;
      return;
    }
    const sha256 = createHash('sha256');
    for await (const chunk of content) {
      sha256.update(chunk);
      yield chunk;
    }
    this.#digests.set(name, sha256.digest('hex'));
  }

  get sections(): RootedSection[] {
    return [...this.#digests.keys()];
  }

  /**
   * Null where there is nothing of the store, or not all that is named.
   * @param sections undefined: that of backups which were made before others counted
   */
  of(sections: readonly RootedSection[] | undefined): string | null {
    if (sections === undefined) return this.#digests.get('secrets') ?? null;
    const parts = sections.map((name) => [name, this.#digests.get(name)]);
    if (parts.length === 0 || parts.some(([, digest]) => digest === undefined)) return null;
    return hash('sha256', JSON.stringify(parts), 'hex');
  }

  /** @throws Corrupt where it is another than the backup says */
  require(said: { contentRoot: string | null; rooted?: readonly RootedSection[] | undefined }) {
    if (this.of(said.rooted) === said.contentRoot) return;
    throw new Corrupt('content', 'the backup holds something else than it says');
  }
}

/** Appends to a file, e.g. on a share. One that was moved away is begun anew. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { Destination, ForwardedLine } from './destination.ts';

export class FileDestination implements Destination {
  readonly name: string;
  readonly acknowledges = true;
  readonly #path: string;
  #handle: FileHandle | undefined;

  constructor(path: string) {
    this.#path = path;
    this.name = `file ${path}`;
  }

  async send(lines: readonly ForwardedLine[]): Promise<void> {
    const handle = await this.#open();
    const bytes = lines.map(({ text }) => `${text}\n`).join('');
    await handle.appendFile((await endsInsideLine(handle)) ? `\n${bytes}` : bytes);
    await handle.datasync();
  }

  async confirm(): Promise<void> {}

  reset(): void {
    void this.#handle?.close().catch(() => undefined);
    this.#handle = undefined;
  }

  async #open(): Promise<FileHandle> {
    if (this.#handle !== undefined) {
      const [mine, there] = await Promise.all([
        this.#handle.stat(),
        stat(this.#path).catch(() => undefined),
      ]);
      if (there?.ino === mine.ino && there.dev === mine.dev) return this.#handle;
      this.reset();
    }
    this.#handle = await open(this.#path, 'a+', 0o600);
    return this.#handle;
  }
}

/** After an append that was cut short: what is sent again begins on a line of its own. */
async function endsInsideLine(handle: FileHandle): Promise<boolean> {
  const { size } = await handle.stat();
  if (size === 0) return false;
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return bytesRead === 1 && buffer[0] !== 0x0a;
}

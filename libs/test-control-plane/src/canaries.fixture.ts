/**
 * Known values that are planted where secrets are kept, and searched for where they must never be, in
 * twelve encodings. A search that finds nothing proves something only when it can find: `controls` are
 * planted in what is searched, in each encoding, and have to be found.
 */
import { createReadStream, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, inflateSync } from 'node:zlib';

const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';

/** What every encoding spells differently: letters, and characters that are escaped. */
function makeValue(name: string): string {
  const random = crypto.getRandomValues(new Uint8Array(28));
  const text = Array.from(random, (byte) => letters[byte % letters.length]).join('');
  return `${name}<${text}>&"é`;
}

/**
 * The digits of a text in base64 depend on where it stands in what is encoded: at each of three places
 * other digits at the edges, which are left away.
 */
function insideBase64(bytes: Buffer, encoding: 'base64' | 'base64url'): Buffer[] {
  return [0, 1, 2].map((shift) => {
    const digits = Buffer.concat([Buffer.alloc(shift), bytes])
      .toString(encoding)
      .replace(/=+$/, '');
    const first = Math.ceil((shift * 8) / 6);
    const last = Math.floor(((shift + bytes.length) * 8) / 6);
    return Buffer.from(digits.slice(first, last));
  });
}

const escaped = (text: string, each: (code: number) => string) =>
  Buffer.from(Array.from({ length: text.length }, (_, at) => each(text.charCodeAt(at))).join(''));

/** The bytes that a value is found by, for each encoding. */
export const encodings = {
  plain: (value) => [Buffer.from(value)],
  base64: (value) => insideBase64(Buffer.from(value), 'base64'),
  'base64 for URLs': (value) => insideBase64(Buffer.from(value), 'base64url'),
  hexadecimal: (value) => [Buffer.from(Buffer.from(value).toString('hex'))],
  'hexadecimal in capitals': (value) => [
    Buffer.from(Buffer.from(value).toString('hex').toUpperCase()),
  ],
  'percent-encoded': (value) => [Buffer.from(encodeURIComponent(value))],
  'JSON, quoted': (value) => [Buffer.from(JSON.stringify(value).slice(1, -1))],
  'JSON, every character escaped': (value) => [
    escaped(value, (code) => `\\u${code.toString(16).padStart(4, '0')}`),
  ],
  'a list of bytes': (value) => [Buffer.from([...Buffer.from(value)].join(','))],
  'UTF-16, little-endian': (value) => [Buffer.from(value, 'utf16le')],
  'UTF-16, big-endian': (value) => [Buffer.from(value, 'utf16le').swap16()],
  'HTML entities': (value) => [escaped(value, (code) => `&#${code};`)],
} as const satisfies Record<string, (value: string) => Buffer[]>;

export type Encoding = keyof typeof encodings;
const encodingNames = Object.keys(encodings) as Encoding[];

export class Canary {
  readonly name: string;
  /** A text that nobody else ever writes. */
  readonly value: string;
  readonly needles: readonly { encoding: Encoding; bytes: Buffer }[];

  constructor(name: string) {
    this.name = name;
    this.value = makeValue(name);
    this.needles = encodingNames.flatMap((encoding) =>
      encodings[encoding](this.value).map((bytes) => ({ encoding, bytes })),
    );
  }
}

export interface Finding {
  canary: string;
  encoding: Encoding;
  place: string;
}

const pieceBytes = 4 * 1024 * 1024;

export class CanarySearch {
  readonly #canaries: readonly Canary[];
  readonly #longest: number;
  readonly #found = new Map<string, Finding>();
  readonly #searched = new Map<string, number>();

  constructor(canaries: readonly Canary[]) {
    this.#canaries = canaries;
    this.#longest = Math.max(
      ...canaries.flatMap(({ needles }) => needles.map(({ bytes }) => bytes.length)),
    );
  }

  get findings(): Finding[] {
    return [...this.#found.values()];
  }

  /** Bytes that were looked through, by place: a place that was empty proves nothing. */
  get searched(): ReadonlyMap<string, number> {
    return this.#searched;
  }

  text(place: string, text: string): void {
    this.bytes(place, Buffer.from(text));
  }

  /** What is compressed is also looked into. */
  bytes(place: string, bytes: Buffer): void {
    this.#searched.set(place, (this.#searched.get(place) ?? 0) + bytes.length);
    this.#look(place, bytes);
    const inner = decompressed(bytes);
    if (inner !== undefined) this.#look(place, inner);
  }

  async stream(place: string, stream: AsyncIterable<Buffer>): Promise<void> {
    let carried = Buffer.alloc(0);
    for await (const chunk of stream) {
      const bytes = Buffer.concat([carried, chunk]);
      this.#searched.set(place, (this.#searched.get(place) ?? 0) + chunk.length);
      this.#look(place, bytes);
      carried = bytes.subarray(Math.max(0, bytes.length - this.#longest));
    }
  }

  async file(path: string, place = path): Promise<void> {
    await this.stream(place, createReadStream(path, { highWaterMark: pieceBytes }));
  }

  /** Every file below a folder but those that are meant to hold values. */
  async folder(path: string, place: string, isSearched = (_file: string) => true): Promise<void> {
    for (const entry of readdirSync(path, { recursive: true, withFileTypes: true })) {
      const file = join(entry.parentPath, entry.name);
      if (!entry.isFile() || !isSearched(file)) continue;
      this.text(place, file);
      await this.file(file, place);
    }
  }

  #look(place: string, bytes: Buffer): void {
    for (const { name, needles } of this.#canaries) {
      for (const needle of needles) {
        if (!bytes.includes(needle.bytes)) continue;
        const finding = { canary: name, encoding: needle.encoding, place };
        this.#found.set(Object.values(finding).join('|'), finding);
      }
    }
  }
}

function decompressed(bytes: Buffer): Buffer | undefined {
  const limit = { maxOutputLength: 256 * 1024 * 1024 };
  try {
    if (bytes[0] === 0x1f && bytes[1] === 0x8b) return gunzipSync(bytes, limit);
    if (bytes[0] === 0x78) return inflateSync(bytes, limit);
  } catch {
    // It only looked like it.
  }
  return undefined;
}

/** One canary as it stands in something of each encoding, between other bytes. */
export function planted(canary: Canary, encoding: Encoding): Buffer {
  const text = `before:${canary.value}:after`;
  const whole: Record<Encoding, () => Buffer> = {
    plain: () => Buffer.from(text),
    base64: () => Buffer.from(Buffer.from(text).toString('base64')),
    'base64 for URLs': () => Buffer.from(Buffer.from(text).toString('base64url')),
    hexadecimal: () => Buffer.from(Buffer.from(text).toString('hex')),
    'hexadecimal in capitals': () => Buffer.from(Buffer.from(text).toString('hex').toUpperCase()),
    'percent-encoded': () => Buffer.from(`?q=${encodeURIComponent(text)}`),
    'JSON, quoted': () => Buffer.from(JSON.stringify({ text })),
    'JSON, every character escaped': () =>
      escaped(text, (code) => `\\u${code.toString(16).padStart(4, '0')}`),
    'a list of bytes': () => Buffer.from(JSON.stringify(Buffer.from(text))),
    'UTF-16, little-endian': () => Buffer.from(text, 'utf16le'),
    'UTF-16, big-endian': () => Buffer.from(text, 'utf16le').swap16(),
    'HTML entities': () => escaped(text, (code) => `&#${code};`),
  };
  return Buffer.concat([Buffer.from('\0 '), whole[encoding](), Buffer.from(' \0')]);
}

export { encodingNames };

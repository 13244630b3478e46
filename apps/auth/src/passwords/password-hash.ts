/**
 * Argon2id in the PHC string format, `$argon2id$v=19$m=…,t=…,p=…$salt$tag`: the parameters travel
 * with the hash, so that they can grow while old hashes still verify.
 */
import { argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

export interface Argon2Parameters {
  memoryKib: number;
  passes: number;
  parallelism: number;
}

/** OWASP's first recommendation for Argon2id: 19 MiB, two passes, one lane. */
export const currentParameters: Argon2Parameters = { memoryKib: 19_456, passes: 2, parallelism: 1 };

/** A stored hash never makes us spend more than this. */
const largest: Argon2Parameters = { memoryKib: 262_144, passes: 8, parallelism: 4 };
const saltBytes = 16;
const tagBytes = 32;
const phc =
  /^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/;

export interface PasswordHash {
  parameters: Argon2Parameters;
  salt: Buffer;
  tag: Buffer;
}

const unpadded = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '');

export function formatHash({ parameters, salt, tag }: PasswordHash): string {
  const { memoryKib, passes, parallelism } = parameters;
  return `$argon2id$v=19$m=${memoryKib},t=${passes},p=${parallelism}$${unpadded(salt)}$${unpadded(tag)}`;
}

/** @returns undefined for what is no Argon2id hash, or one that would cost too much */
export function parseHash(text: string): PasswordHash | undefined {
  const match = phc.exec(text);
  if (!match) return undefined;
  const [, memory, passes, parallelism, salt, tag] = match as unknown as [string, ...string[]];
  const parameters = {
    memoryKib: Number(memory),
    passes: Number(passes),
    parallelism: Number(parallelism),
  };
  const affordable =
    parameters.parallelism >= 1 &&
    parameters.passes >= 1 &&
    parameters.memoryKib >= 8 * parameters.parallelism &&
    parameters.memoryKib <= largest.memoryKib &&
    parameters.passes <= largest.passes &&
    parameters.parallelism <= largest.parallelism;
  if (!affordable) return undefined;
  return {
    parameters,
    salt: Buffer.from(salt as string, 'base64'),
    tag: Buffer.from(tag as string, 'base64'),
  };
}

/** Whether the hash was made with less than what we ask for today. */
export function isOutgrown(
  { parameters }: PasswordHash,
  wanted: Argon2Parameters = currentParameters,
): boolean {
  return (
    parameters.memoryKib < wanted.memoryKib ||
    parameters.passes < wanted.passes ||
    parameters.parallelism < wanted.parallelism
  );
}

const derive = promisify(argon2);

function digest(password: string, parameters: Argon2Parameters, salt: Buffer, tagLength: number) {
  return derive('argon2id', {
    // The same characters typed on another system may be composed differently.
    message: Buffer.from(password.normalize('NFC'), 'utf8'),
    nonce: salt,
    memory: parameters.memoryKib,
    passes: parameters.passes,
    parallelism: parameters.parallelism,
    tagLength,
  });
}

export async function hashPassword(
  password: string,
  parameters: Argon2Parameters = currentParameters,
  random: (length: number) => Buffer = randomBytes,
): Promise<string> {
  const salt = random(saltBytes);
  return formatHash({
    parameters,
    salt,
    tag: await digest(password, parameters, salt, tagBytes),
  });
}

export async function matchesHash(password: string, hash: PasswordHash): Promise<boolean> {
  const tag = await digest(password, hash.parameters, hash.salt, hash.tag.length);
  return timingSafeEqual(tag, hash.tag);
}

/**
 * The wrapping key from a program's output: a password manager's command line, a script that asks some
 * other vault. Run once when the provider opens, without a shell, and killed with its children when it
 * takes too long. What it writes to its error output is not repeated: it might hold the key.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  type WrappedKey,
} from '../key-provider.ts';
import { envelopeLimits as limits } from '../limits.ts';
import type { SecretKey } from '../secret-key.ts';
import { LocalKey, parseKeyText } from './local-key.ts';

const kind = 'command';

export interface CommandKeyOptions {
  /** The program and its arguments. Its standard output is 32 bytes in base64 or hexadecimal. */
  command: readonly [string, ...string[]];
  timeoutMs?: number;
}

const defaultTimeoutMs = 10_000;

/** @throws KeyProviderError where the program fails, takes too long or answers with no key */
export async function openCommandKey(options: CommandKeyOptions): Promise<CommandKeyProvider> {
  const output = await run(options.command, options.timeoutMs ?? defaultTimeoutMs);
  try {
    const key = parseKeyText(kind, output.toString('latin1'), `what ${options.command[0]} wrote`);
    return new CommandKeyProvider(options.command[0], key);
  } finally {
    output.fill(0);
  }
}

export class CommandKeyProvider implements KeyProvider {
  readonly kind = kind;
  readonly #program: string;
  readonly #local: LocalKey;

  constructor(program: string, key: SecretKey) {
    this.#program = program;
    this.#local = new LocalKey(kind, key);
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    return this.#local.wrap(key, context);
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    return this.#local.unwrap(wrapped, context);
  }

  /** Names the program alone: arguments may hold what is not for logs. */
  describe(): KeyProviderDescription {
    return { kind, keyId: this.#local.keyId, location: this.#program };
  }

  async close(): Promise<void> {
    this.#local.close();
  }
}

function run(
  [program, ...args]: readonly [string, ...string[]],
  timeoutMs: number,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const output = Buffer.alloc(limits.maxCommandOutputBytes);
    let length = 0;
    let failure: KeyProviderError | undefined;
    // A group of its own, so that children it leaves behind end with it.
    const child = spawn(program, args, {
      shell: false,
      detached: process.platform !== 'win32',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const fail = (error: KeyProviderError) => {
      failure ??= error;
      killGroup(child);
      child.stdout.destroy();
    };
    const timer = setTimeout(
      () =>
        fail(
          new KeyProviderError(kind, 'timed_out', `${program} did not end within ${timeoutMs} ms`),
        ),
      timeoutMs,
    );
    child.stdout.on('data', (bytes: Buffer) => {
      if (length + bytes.length > output.length) {
        fail(new KeyProviderError(kind, 'misconfigured', `${program} wrote more than a key`));
      } else {
        output.set(bytes, length);
        length += bytes.length;
      }
      bytes.fill(0);
    });
    child.on('error', (error: NodeJS.ErrnoException) => {
      failure ??= new KeyProviderError(
        kind,
        'misconfigured',
        `${program} cannot be run: ${error.code ?? 'unknown error'}`,
      );
      if (child.pid === undefined) end(null, null);
    });
    child.on('close', (code, signal) => end(code, signal));

    function end(code: number | null, signal: NodeJS.Signals | null): void {
      clearTimeout(timer);
      if (failure === undefined && code !== 0) {
        failure = new KeyProviderError(
          kind,
          'unavailable',
          signal === null
            ? `${program} ended with exit code ${code}`
            : `${program} was ended by ${signal}`,
        );
      }
      if (failure === undefined) {
        resolve(output.subarray(0, length));
      } else {
        output.fill(0);
        reject(failure);
      }
    }
  });
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    if (process.platform === 'win32') child.kill('SIGKILL');
    else process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It ended by itself meanwhile.
  }
}

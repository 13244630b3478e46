/**
 * A folder on another machine, by SFTP. The host is known by the fingerprint of its key and by nothing
 * else: a host that shows another is not spoken to. A connection for each thing that is done: backups are
 * hours apart, and what idles meanwhile is cut off by firewalls.
 */
import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import type { Readable } from 'node:stream';
import type { Client, FileEntryWithStats, SFTPWrapper } from 'ssh2';
import { backupLimits as limits } from './backup-limits.ts';
import {
  type BackupDestination,
  DestinationError,
  type DestinationReason,
  type DestinationSession,
  isBackupFileName,
  requireFileName,
  type StoredFile,
} from './destination.ts';
import { textOf } from './destination-session.ts';

export interface SftpOptions {
  host: string;
  port: number;
  username: string;
  /** Of the folder, on the other machine; made where it is missing. */
  path: string;
  /** `SHA256:…`, as `ssh-keygen -l` prints it. */
  hostKey: string;
  privateKey?: Buffer | undefined;
  password?: string | undefined;
  connectTimeoutMs?: number;
}

const unfinishedEnding = '.part';
// SFTP's own status codes (draft-ietf-secsh-filexfer-02, section 7).
const noSuchFile = 2;
const permissionDenied = 3;

export class SftpDestination implements BackupDestination {
  readonly label: string;
  readonly #options: SftpOptions;

  constructor(options: SftpOptions) {
    this.#options = options;
    this.label = `sftp:${options.username}@${options.host}:${options.port}${options.path}`;
  }

  async put(name: string, file: string, signal: AbortSignal): Promise<void> {
    requireFileName(name);
    await this.#connected(signal, async (sftp) => {
      await this.#makeFolder(sftp);
      const target = this.#at(name);
      const unfinished = target + unfinishedEnding;
      try {
        await done((back) => sftp.fastPut(file, unfinished, { mode: 0o600 }, back));
        await syncFile(sftp, unfinished);
        await renameOver(sftp, unfinished, target);
      } catch (error) {
        await done((back) => sftp.unlink(unfinished, back)).catch(() => undefined);
        throw error;
      }
    });
  }

  async read(name: string, signal: AbortSignal): Promise<Readable> {
    requireFileName(name);
    const { client, sftp } = await this.#connect(signal);
    try {
      await done((back) => sftp.stat(this.#at(name), (error) => back(error)));
    } catch (error) {
      client.end();
      throw this.#explained(error);
    }
    const stream = sftp.createReadStream(this.#at(name)) as unknown as Readable;
    const abort = () => stream.destroy(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    client.on('error', (error) => stream.destroy(this.#explained(error)));
    stream.on('close', () => {
      signal.removeEventListener('abort', abort);
      client.end();
    });
    return stream;
  }

  async list(signal: AbortSignal): Promise<StoredFile[]> {
    return this.#connected(signal, (sftp) => this.#list(sftp));
  }

  async session(signal: AbortSignal): Promise<DestinationSession> {
    const held = await this.#hold(signal);
    return {
      list: () => held.during(() => this.#list(held.sftp)),
      readText: (name, maxBytes) => {
        requireFileName(name);
        return held.during(() =>
          textOf(held.sftp.createReadStream(this.#at(name)) as unknown as Readable, maxBytes),
        );
      },
      close: () => held.release(),
    };
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    requireFileName(name);
    await this.#connected(signal, (sftp) =>
      done((back) => sftp.unlink(this.#at(name), back)).catch(unlessMissing),
    );
  }

  async removeUnfinished(start: string, signal: AbortSignal): Promise<void> {
    await this.#connected(signal, async (sftp) => {
      for (const { filename } of await this.#entries(sftp)) {
        if (!filename.startsWith(start) || !filename.endsWith(unfinishedEnding)) continue;
        if (!isBackupFileName(filename.slice(0, -unfinishedEnding.length))) continue;
        await done((back) => sftp.unlink(this.#at(filename), back)).catch(unlessMissing);
      }
    });
  }

  async close(): Promise<void> {}

  #at(name: string): string {
    return posix.join(this.#options.path, name);
  }

  async #list(sftp: SFTPWrapper): Promise<StoredFile[]> {
    const entries = await this.#entries(sftp);
    if (entries.length > limits.filesListedMax) {
      throw new DestinationError(this.label, 'misconfigured', 'holds too many files');
    }
    return entries
      .filter(({ filename, attrs }) => isBackupFileName(filename) && attrs.isFile())
      .map(({ filename, attrs }) => ({ name: filename, bytes: attrs.size }));
  }

  async #entries(sftp: SFTPWrapper): Promise<FileEntryWithStats[]> {
    return new Promise<FileEntryWithStats[]>((resolve, reject) => {
      sftp.readdir(this.#options.path, (error, list) => (error ? reject(error) : resolve(list)));
    }).catch((error: unknown) => {
      unlessMissing(error);
      return [];
    });
  }

  /** Each folder of the path that is missing. */
  async #makeFolder(sftp: SFTPWrapper): Promise<void> {
    const parts = this.#options.path.split('/').filter((part) => part !== '');
    let path = this.#options.path.startsWith('/') ? '/' : '';
    for (const part of parts) {
      path = posix.join(path, part);
      const isThere = await done((back) => sftp.stat(path, (error) => back(error))).then(
        () => true,
        (error: unknown) => {
          unlessMissing(error);
          return false;
        },
      );
      if (!isThere) await done((back) => sftp.mkdir(path, { mode: 0o700 }, back));
    }
  }

  async #connected<T>(signal: AbortSignal, work: (sftp: SFTPWrapper) => Promise<T>): Promise<T> {
    const { sftp, during, release } = await this.#hold(signal);
    try {
      return await during(() => work(sftp));
    } finally {
      release();
    }
  }

  /** A connection until it is released. What is done during it ends with it, whatever it waits for. */
  async #hold(signal: AbortSignal): Promise<{
    sftp: SFTPWrapper;
    during: <T>(work: () => Promise<T>) => Promise<T>;
    release: () => void;
  }> {
    const { client, sftp } = await this.#connect(signal);
    let fail: (error: unknown) => void = () => undefined;
    const broken = new Promise<never>((_resolve, reject) => {
      fail = reject;
    });
    broken.catch(() => undefined);
    const abort = () => fail(signal.reason);
    client.on('error', fail);
    client.on('close', () => fail(new Error('the connection was closed')));
    signal.addEventListener('abort', abort, { once: true });
    return {
      sftp,
      during: async (work) => {
        try {
          signal.throwIfAborted();
          return await Promise.race([work(), broken]);
        } catch (error) {
          signal.throwIfAborted();
          throw this.#explained(error);
        }
      },
      release: () => {
        signal.removeEventListener('abort', abort);
        client.end();
      },
    };
  }

  async #connect(signal: AbortSignal): Promise<{ client: Client; sftp: SFTPWrapper }> {
    signal.throwIfAborted();
    const { default: ssh2 } = await import('ssh2');
    const { host, port, username, privateKey, password, hostKey } = this.#options;
    const client = new ssh2.Client();
    let isOther = false;
    return new Promise((resolve, reject) => {
      // A late error, once nobody waits for it any more, must not end the process.
      client.on('error', () => undefined);
      const refuse = (error: unknown) => {
        client.destroy();
        reject(
          isOther
            ? new DestinationError(
                this.label,
                'untrusted',
                'the host shows another key than the configured one',
              )
            : this.#explained(error),
        );
      };
      client.once('error', refuse);
      client.once('ready', () => {
        client.sftp((error, sftp) => {
          if (error) return refuse(error);
          client.off('error', refuse);
          resolve({ client, sftp });
        });
      });
      client.connect({
        host,
        port,
        username,
        readyTimeout: this.#options.connectTimeoutMs ?? limits.connectTimeoutMs,
        keepaliveInterval: limits.idleTimeoutMs / 4,
        keepaliveCountMax: 3,
        hostVerifier: (key: Buffer) => {
          const shown = createHash('sha256').update(key).digest('base64').replace(/=+$/, '');
          isOther = `SHA256:${shown}` !== hostKey;
          return !isOther;
        },
        ...(privateKey === undefined ? {} : { privateKey }),
        ...(password === undefined ? {} : { password }),
      });
    });
  }

  #explained(error: unknown): DestinationError {
    if (error instanceof DestinationError) return error;
    const {
      code,
      level,
      message = '',
    } = error as {
      code?: string | number;
      level?: string;
      message?: string;
    };
    let reason: DestinationReason = 'unavailable';
    if (code === noSuchFile) reason = 'not_found';
    if (code === permissionDenied || level === 'client-authentication') reason = 'denied';
    if (level === 'client-timeout') reason = 'timed_out';
    if (/no space|quota/i.test(message)) reason = 'full';
    if (/privateKey|unsupported key format/i.test(message)) reason = 'misconfigured';
    return new DestinationError(this.label, reason, message || 'it failed', error);
  }
}

function done(work: (back: (error?: Error | null | undefined) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => work((error) => (error ? reject(error) : resolve())));
}

function unlessMissing(error: unknown): void {
  if ((error as { code?: number }).code !== noSuchFile) throw error;
}

/** To the disk, where the server can (OpenSSH does). */
async function syncFile(sftp: SFTPWrapper, path: string): Promise<void> {
  const handle = await new Promise<Buffer>((resolve, reject) => {
    sftp.open(path, 'r+', (error, opened) => (error ? reject(error) : resolve(opened)));
  });
  try {
    await done((back) => sftp.ext_openssh_fsync(handle, back)).catch(() => undefined);
  } finally {
    await done((back) => sftp.close(handle, back));
  }
}

/** OpenSSH replaces what is there in one step; elsewhere it is removed first. */
async function renameOver(sftp: SFTPWrapper, from: string, to: string): Promise<void> {
  try {
    await done((back) => sftp.ext_openssh_rename(from, to, back));
  } catch (error) {
    if (!/not support|unsupported/i.test((error as Error).message)) throw error;
    await done((back) => sftp.unlink(to, back)).catch(unlessMissing);
    await done((back) => sftp.rename(from, to, back));
  }
}

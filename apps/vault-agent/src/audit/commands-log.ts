/**
 * The log of what the commands of this machine do beside a running agent, which writes its own alone. The
 * agent looks at it from time to time, so that its heads leave the machine like the agent's.
 */
import { stat } from 'node:fs/promises';
import { commandsChainOf } from '@keystead/contracts/audit-chain';
import type { Logger } from 'pino';
import { readFirst } from './audit-files.ts';
import { auditLimits } from './audit-limits.ts';
import { AuditSearch } from './audit-search.ts';
import type { AuditHead } from './audit-trail.ts';

export function commandsLogOf(logFile: string): string {
  return `${logFile}.commands`;
}

/** Which chain the log of the commands begins; undefined while the agent has none. */
export async function commandsChainBeside(logFile: string): Promise<Buffer | undefined> {
  const first = await readFirst(logFile).catch(() => undefined);
  return first && commandsChainOf(Buffer.from(first.chain, 'hex'));
}

export interface CommandsLogOptions {
  /** The agent's own. */
  logFile: string;
  /** Called with the newest head where there is a new one; the first time after each start. */
  onHead: (head: AuditHead) => void;
  log: Logger;
}

export class CommandsLog {
  readonly #file: string;
  readonly #search: AuditSearch;
  readonly #onHead: CommandsLogOptions['onHead'];
  readonly #log: Logger;
  #seen = '';
  #told = '';
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor({ logFile, onHead, log }: CommandsLogOptions) {
    this.#file = commandsLogOf(logFile);
    this.#search = new AuditSearch(this.#file);
    this.#onHead = onHead;
    this.#log = log;
  }

  start(): void {
    const look = () => void this.look();
    this.#timer = setInterval(look, auditLimits.commandsLookEveryMs).unref();
    look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.look();
  }

  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(): Promise<void> {
    try {
      const { ino, size } = await stat(this.#file);
      const seen = `${ino} ${size}`;
      if (seen === this.#seen) return;
      const [head] = (await this.#search.heads({ limit: 1 })).items;
      this.#seen = seen;
      if (head === undefined || this.#told === `${head.chain} ${head.sequence}`) return;
      this.#told = `${head.chain} ${head.sequence}`;
      this.#onHead({
        chainId: Buffer.from(head.chain, 'hex'),
        sequence: head.sequence,
        hash: Buffer.from(head.hash, 'hex'),
        atUnixMs: Date.parse(head.at),
        signature: Buffer.from(head.signature, 'base64'),
        signerKey: Buffer.from(head.signerKey, 'base64'),
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      this.#log.warn({ error: String(error) }, 'the log of the commands could not be read');
    }
  }
}

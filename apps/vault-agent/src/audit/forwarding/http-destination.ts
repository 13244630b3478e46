/** Posts lines as `application/x-ndjson`; any 2xx says that they have arrived. Redirects are not followed. */
import { type RequestOptions, request } from 'node:http';
import { request as requestTls } from 'node:https';
import type { auditLogs } from '@keystead/contracts/agent-api/audit';
import type { Destination, ForwardedLine } from './destination.ts';
import { forwardingLimits } from './forwarding-limits.ts';

export interface HttpDestinationOptions {
  url: string;
  /** Told in a header: each log is a chain of its own. */
  source: (typeof auditLogs)[number];
  /** The whole header, e.g. `Bearer …`. Read anew for each try, so that it can be changed. */
  authorization?: (() => string) | undefined;
  /** PEM; the system's authorities where it is missing. */
  ca?: string | undefined;
}

export class HttpDestination implements Destination {
  readonly name: string;
  readonly acknowledges = true;
  readonly #url: URL;
  readonly #options: HttpDestinationOptions;

  constructor(options: HttpDestinationOptions) {
    this.#options = options;
    this.#url = new URL(options.url);
    this.name = `http ${this.#url.origin}${this.#url.pathname}`;
  }

  send(lines: readonly ForwardedLine[]): Promise<void> {
    const body = Buffer.from(lines.map(({ text }) => `${text}\n`).join(''));
    const { authorization, ca } = this.#options;
    const isTls = this.#url.protocol === 'https:';
    const options: RequestOptions & { ca?: string } = {
      method: 'POST',
      headers: {
        'content-type': 'application/x-ndjson',
        'content-length': body.length,
        'x-keystead-audit-log': this.#options.source,
        'x-keystead-first-sequence': lines[0]?.sequence ?? 0,
        'x-keystead-last-sequence': lines.at(-1)?.sequence ?? 0,
        ...(authorization === undefined ? {} : { authorization: authorization() }),
      },
      signal: AbortSignal.timeout(forwardingLimits.sendWithinMs),
      ...(isTls && ca !== undefined ? { ca } : {}),
    };
    return new Promise((resolve, reject) => {
      const sent = (isTls ? requestTls : request)(this.#url, options, (answer) => {
        let bytes = 0;
        answer.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > forwardingLimits.answerBytes) answer.destroy();
        });
        answer.once('close', () => {
          const status = answer.statusCode ?? 0;
          if (status >= 200 && status < 300) resolve();
          else reject(new Error(`the receiver answered ${status}`));
        });
        answer.on('error', () => undefined);
      });
      sent.once('error', reject);
      sent.end(body);
    });
  }

  async confirm(): Promise<void> {}

  reset(): void {}
}

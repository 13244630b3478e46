/**
 * The one way by which a request leaves for a receiver that a tenant named (webhook and Slack
 * alike). The name is resolved once, every address of the answer is judged, the connection is
 * made to exactly a judged address, and the peer of the open socket is judged again: a name that
 * changes its answer between look and leap (DNS rebinding) gains nothing. TLS verifies the
 * original name. Redirects are not followed, nothing is decompressed, and everything a receiver
 * can make long (resolving, connecting, headers, body) ends with one deadline.
 */
import net from 'node:net';
import tls from 'node:tls';
import { Client } from 'undici';
import { type AddressGuard, type AddressVerdict, isLoopbackName } from './address-guard.ts';

/** All addresses of a name, IPv4 and IPv6. Rejects where there are none. */
export type ResolveHost = (hostname: string, signal: AbortSignal) => Promise<string[]>;

export interface TransportRequest {
  url: string;
  organizationId: string;
  headers: Record<string, string>;
  body: Uint8Array;
  /** Ends the request early, on shutdown. */
  signal?: AbortSignal;
}

export type TransportAnswer =
  | {
      result: 'answered';
      status: number;
      /** Lower-case `Retry-After`, if any. */
      retryAfter: string | undefined;
      /** The start of the answer; undefined where it may not be recorded or is not text. */
      answer: string | undefined;
      durationMs: number;
    }
  | {
      result: 'failed';
      reason: TransportFailure;
      detail: string;
      /** Whether the next attempt would fail alike, whatever the receiver does. */
      permanent: boolean;
      durationMs: number;
    };

export type TransportFailure =
  | 'bad_url'
  | 'refused_address'
  | 'insecure'
  | 'not_resolved'
  | 'not_connected'
  | 'tls'
  | 'timeout'
  | 'stopped'
  | 'disconnected'
  | 'bad_answer';

export interface GuardedTransportOptions {
  guard: AddressGuard;
  resolveHost: ResolveHost;
  timeoutMs: number;
  answerKeepBytes: number;
  /** PEM roots beside the ones Node trusts, for receivers with a private certificate authority. */
  additionalRoots?: string[];
  /** Milliseconds of a clock that never jumps. */
  monotonicMs?: () => number;
}

type Reachable = Extract<AddressVerdict, { verdict: 'public' | 'allowed' }>;

const addressesTried = 4;
const connectTimeoutMs = 5_000;
const answerBodyWaitMs = 2_000;
const headersMaxBytes = 16 * 1024;

class Failure extends Error {
  readonly reason: TransportFailure;
  readonly permanent: boolean;
  constructor(reason: TransportFailure, message: string, permanent = false) {
    super(message);
    this.reason = reason;
    this.permanent = permanent;
  }
}

export class GuardedTransport {
  readonly #options: GuardedTransportOptions;
  readonly #now: () => number;
  readonly #secureContext: tls.SecureContext;

  constructor(options: GuardedTransportOptions) {
    this.#options = options;
    this.#now = options.monotonicMs ?? (() => performance.now());
    this.#secureContext = tls.createSecureContext({
      minVersion: 'TLSv1.2',
      ...(options.additionalRoots && {
        ca: [...tls.getCACertificates('default'), ...options.additionalRoots],
      }),
    });
  }

  /** Posts once. Never throws for anything a receiver, a resolver or a URL can do. */
  async post(request: TransportRequest): Promise<TransportAnswer> {
    const startedMs = this.#now();
    const ended = new AbortController();
    const end = () => ended.abort();
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      end();
    }, this.#options.timeoutMs);
    request.signal?.addEventListener('abort', end, { once: true });
    if (request.signal?.aborted) end();
    try {
      const answer = await this.#post(request, ended.signal);
      return { result: 'answered', ...answer, durationMs: this.#now() - startedMs };
    } catch (error) {
      const failure = late
        ? new Failure('timeout', `no complete answer within ${this.#options.timeoutMs / 1_000} s`)
        : request.signal?.aborted
          ? new Failure('stopped', 'the attempt was ended by a shutdown')
          : toFailure(error);
      return {
        result: 'failed',
        reason: failure.reason,
        detail: failure.message,
        permanent: failure.permanent,
        durationMs: this.#now() - startedMs,
      };
    } finally {
      clearTimeout(timer);
      request.signal?.removeEventListener('abort', end);
    }
  }

  async #post(request: TransportRequest, signal: AbortSignal) {
    const { guard } = this.#options;
    const target = guard.judgeUrl(request.url, request.organizationId);
    if (!target.ok) {
      const reason =
        target.code === 'refused_address' || target.code === 'insecure' ? target.code : 'bad_url';
      throw new Failure(reason, `the URL ${target.message}`, true);
    }
    signal.throwIfAborted();
    const addresses = await this.#addresses(target.hostname, target.literal, request, signal);
    if (!target.secure && addresses.some(({ verdict }) => verdict !== 'allowed')) {
      throw new Failure('insecure', 'the URL must start with https://', true);
    }
    const socket = await this.#connect(addresses, target, request.organizationId, signal);
    // Whether the body may be recorded follows from where the socket really leads.
    const mayRecord = socket.verdict === 'public';
    let used = false;
    const client = new Client(target.url.origin, {
      // One socket for one request: never shared, never opened again behind the guard's back.
      connect: (_options, callback) => {
        if (used) return callback(Object.assign(new Error('closed'), { code: 'ECONNRESET' }), null);
        used = true;
        // Not within the call: the client would forget to go on.
        setImmediate(() => callback(null, socket.socket));
      },
      allowH2: false,
      pipelining: 0,
      maxHeaderSize: headersMaxBytes,
      headersTimeout: this.#options.timeoutMs,
      bodyTimeout: this.#options.timeoutMs,
    });
    try {
      const sent = client.request({
        method: 'POST',
        path: target.url.pathname + target.url.search,
        headers: { ...request.headers, 'accept-encoding': 'identity' },
        body: request.body,
        signal,
      });
      const response = await abortable(sent, signal);
      const answer = await this.#startOf(response.body, signal);
      const encoding = response.headers['content-encoding'];
      return {
        status: response.statusCode,
        retryAfter: single(response.headers['retry-after']),
        answer: mayRecord ? (encoding ? '(an encoded answer)' : answer) : undefined,
      };
    } finally {
      client.destroy().catch(() => undefined);
      socket.socket.destroy();
    }
  }

  async #addresses(
    hostname: string,
    literal: AddressVerdict | undefined,
    { organizationId }: TransportRequest,
    signal: AbortSignal,
  ): Promise<Reachable[]> {
    let verdicts: AddressVerdict[];
    if (literal) {
      verdicts = [literal];
    } else {
      const resolved = isLoopbackName(hostname)
        ? ['127.0.0.1', '::1']
        : await abortable(this.#options.resolveHost(hostname, signal), signal).catch((error) => {
            signal.throwIfAborted();
            throw new Failure('not_resolved', `the host name has no address (${codeOf(error)})`);
          });
      if (resolved.length === 0) throw new Failure('not_resolved', 'the host name has no address');
      verdicts = resolved.map((address) => this.#options.guard.judge(address, organizationId));
      // No resolver had a say in what `localhost` means: where the installer allows one of the two
      // addresses, that one is meant.
      if (isLoopbackName(hostname) && verdicts.some(({ verdict }) => verdict === 'allowed')) {
        verdicts = verdicts.filter(({ verdict }) => verdict === 'allowed');
      }
    }
    const reachable: Reachable[] = [];
    for (const verdict of verdicts) {
      // One inside address among public ones is an attempt, not an accident: none is used.
      // It is no verdict for ever, since the name's owner may mend the zone.
      if (verdict.verdict === 'refused') {
        throw new Failure(
          'refused_address',
          `the host leads to ${verdict.address}: ${verdict.why}`,
        );
      }
      reachable.push(verdict);
    }
    return reachable.sort((one, other) => one.family - other.family).slice(0, addressesTried);
  }

  async #connect(
    addresses: Reachable[],
    target: { hostname: string; port: number; secure: boolean },
    organizationId: string,
    signal: AbortSignal,
  ): Promise<{ socket: net.Socket; verdict: 'public' | 'allowed' }> {
    let last: unknown;
    for (const { address, family } of addresses) {
      const socket = net.connect({ host: address, port: target.port, family, noDelay: true });
      try {
        await opened(socket, 'connect', signal, connectTimeoutMs);
        const peer = this.#options.guard.judge(socket.remoteAddress ?? '', organizationId);
        if (peer.verdict === 'refused' || peer.address !== address) {
          throw new Failure('refused_address', 'the connection leads elsewhere than it was made');
        }
        if (!target.secure) return { socket, verdict: peer.verdict };
        const secured = tls.connect({
          socket,
          secureContext: this.#secureContext,
          rejectUnauthorized: true,
          ALPNProtocols: ['http/1.1'],
          host: target.hostname,
          ...(net.isIP(target.hostname) ? {} : { servername: target.hostname.replace(/\.$/, '') }),
        });
        await opened(secured, 'secureConnect', signal, this.#options.timeoutMs).catch((error) => {
          secured.destroy();
          signal.throwIfAborted();
          throw new Failure('tls', `no trusted TLS connection (${codeOf(error)})`);
        });
        return { socket: secured, verdict: peer.verdict };
      } catch (error) {
        socket.destroy();
        signal.throwIfAborted();
        if (error instanceof Failure) throw error;
        last = error;
      }
    }
    throw new Failure('not_connected', `no connection (${codeOf(last)})`);
  }

  /** Reads what is kept of the body, waits briefly for the rest of that, and lets go. */
  async #startOf(
    body: AsyncIterable<Uint8Array> & {
      destroy(): unknown;
      on(event: 'error', f: () => void): unknown;
    },
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const kept: Uint8Array[] = [];
    let size = 0;
    // The status decides. A receiver that drips its body has answered all the same.
    const enough = new AbortController();
    const stop = () => enough.abort();
    const timer = setTimeout(stop, answerBodyWaitMs);
    signal.addEventListener('abort', stop, { once: true });
    body.on('error', () => undefined);
    const read = async () => {
      for await (const chunk of body) {
        kept.push(chunk);
        size += chunk.length;
        if (size >= this.#options.answerKeepBytes) break;
      }
    };
    await abortable(read(), enough.signal).catch(() => undefined);
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
    body.destroy();
    return printable(Buffer.concat(kept).subarray(0, this.#options.answerKeepBytes));
  }
}

/** Text of an answer that can be stored and shown; PostgreSQL takes no NUL. */
function printable(bytes: Buffer): string {
  return new TextDecoder('utf-8', { fatal: false })
    .decode(bytes)
    .replaceAll('\r\n', '\n')
    .replace(/[^\P{Cc}\n\t]/gu, '�');
}

function single(header: string | string[] | undefined): string | undefined {
  const value = Array.isArray(header) ? header[0] : header;
  return value?.slice(0, 100);
}

function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

function opened(
  socket: net.Socket,
  event: 'connect' | 'secureConnect',
  signal: AbortSignal,
  timeoutMs: number,
): Promise<void> {
  const done = new Promise<void>((resolve, reject) => {
    socket.once(event, resolve);
    // Stays for the life of the socket: an error after the answer must not end the process.
    socket.on('error', reject);
    socket.once('close', () => reject(Object.assign(new Error('closed'), { code: 'ECONNRESET' })));
    socket.setTimeout(timeoutMs, () =>
      socket.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })),
    );
  });
  return abortable(done, signal).then(() => void socket.setTimeout(0));
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'unknown error';
}

function toFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const { name } = error as { name?: unknown };
  const code = codeOf(error);
  if (code === 'UND_ERR_HEADERS_OVERFLOW' || name === 'HTTPParserError') {
    return new Failure('bad_answer', `the answer is not HTTP within our bounds (${code})`);
  }
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') {
    return new Failure('timeout', 'no complete answer in time');
  }
  return new Failure('disconnected', `the connection ended before an answer (${code})`);
}

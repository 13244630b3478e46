/**
 * Syslog over UDP (RFC 5426), TCP (RFC 6587, octet-counted) and TLS (RFC 5425).
 *
 * Syslog acknowledges nothing. Over TCP and TLS the receiver is asked to close now and then: what it
 * closes in order it has received. Over UDP a datagram that was sent counts as arrived.
 */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { connect, isIPv6, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { Destination, ForwardedLine } from './destination.ts';
import { forwardingLimits } from './forwarding-limits.ts';
import { octetCounted, syslogMessage } from './syslog-message.ts';

export interface SyslogOptions {
  host: string;
  port: number;
  /** PEM; the system's authorities where it is missing. */
  ca?: string | undefined;
  hostname: string;
  processId: number;
  /** `keystead-agent` where it is missing. */
  program?: string | undefined;
}

const closed = 'the receiver closed the connection';

export class SyslogStream implements Destination {
  readonly name: string;
  readonly acknowledges = false;
  readonly #options: SyslogOptions;
  readonly #isTls: boolean;
  #socket: Socket | undefined;

  constructor(options: SyslogOptions & { protocol: 'tcp' | 'tls' }) {
    this.#options = options;
    this.#isTls = options.protocol === 'tls';
    this.name = `syslog ${options.protocol} ${options.host}:${options.port}`;
  }

  async send(lines: readonly ForwardedLine[]): Promise<void> {
    const socket = this.#socket ?? (await this.#connect());
    const bytes = Buffer.concat(
      lines.map((line) => octetCounted(syslogMessage(line, this.#options))),
    );
    if (socket.destroyed || socket.readableEnded) throw new Error(closed);
    const broken = Promise.withResolvers<never>();
    const onClose = () => broken.reject(new Error(closed));
    socket.once('close', onClose);
    const written = new Promise<void>((resolve, reject) => {
      socket.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
    try {
      await within(Promise.race([written, broken.promise]), 'the receiver takes nothing');
    } finally {
      socket.off('close', onClose);
    }
  }

  async confirm(): Promise<void> {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket === undefined) return;
    if (socket.destroyed) throw new Error(closed);
    await within(
      new Promise<void>((resolve, reject) => {
        let ended = false;
        socket.once('end', () => {
          ended = true;
        });
        socket.once('error', reject);
        socket.once('close', () =>
          ended ? resolve() : reject(new Error('the connection broke before it was closed')),
        );
        socket.end();
      }),
      'the receiver did not close the connection',
    ).finally(() => socket.destroy());
  }

  reset(): void {
    this.#socket?.destroy();
    this.#socket = undefined;
  }

  async #connect(): Promise<Socket> {
    const { host, port, ca } = this.#options;
    const socket = this.#isTls
      ? connectTls({
          host,
          port,
          minVersion: 'TLSv1.2',
          ...(ca === undefined ? {} : { ca }),
          ...(isIPv6(host) || /^[\d.]+$/.test(host) ? {} : { servername: host }),
        })
      : connect({ host, port });
    // What breaks is seen by who waits, or by the next who sends.
    socket.on('error', () => undefined);
    // The receiver has nothing to say; what it says is not kept.
    socket.resume();
    try {
      await within(
        new Promise<void>((resolve, reject) => {
          socket.once(this.#isTls ? 'secureConnect' : 'connect', resolve);
          socket.once('error', reject);
        }),
        'the receiver could not be reached',
      );
    } catch (error) {
      socket.destroy();
      throw error;
    }
    socket.setKeepAlive(true, 10_000);
    this.#socket = socket;
    return socket;
  }
}

export class SyslogDatagrams implements Destination {
  readonly name: string;
  readonly acknowledges = true;
  readonly #options: SyslogOptions;
  #socket: DatagramSocket | undefined;

  constructor(options: SyslogOptions) {
    this.#options = options;
    this.name = `syslog udp ${options.host}:${options.port}`;
  }

  async send(lines: readonly ForwardedLine[]): Promise<void> {
    const { host, port } = this.#options;
    this.#socket ??= createSocket(isIPv6(host) ? 'udp6' : 'udp4').on('error', () => undefined);
    const socket = this.#socket.unref();
    let burstBytes = 0;
    for (const line of lines) {
      const bytes = Buffer.from(syslogMessage(line, this.#options));
      await new Promise<void>((resolve, reject) =>
        socket.send(bytes.subarray(0, forwardingLimits.datagramBytes), port, host, (error) =>
          error ? reject(error) : resolve(),
        ),
      );
      burstBytes += bytes.length;
      if (burstBytes < forwardingLimits.burstBytes) continue;
      burstBytes = 0;
      await new Promise((resolve) => setTimeout(resolve, forwardingLimits.burstPauseMs));
    }
  }

  async confirm(): Promise<void> {}

  reset(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
}

async function within<T>(work: Promise<T>, otherwise: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(otherwise)), forwardingLimits.sendWithinMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The agent's end of the agent link: TLS 1.3, one pinned root, no hidden reconnects. */
import { createHash, X509Certificate } from 'node:crypto';
import { isIP, type Socket } from 'node:net';
import {
  connect,
  createSecureContext,
  type DetailedPeerCertificate,
  type SecureContext,
} from 'node:tls';
import {
  CallCredentials,
  ChannelCredentials,
  Client,
  type ClientDuplexStream,
  Metadata,
  status,
} from '@grpc/grpc-js';
import { limits } from '@keystead/contracts/limits';
import type { EnrollRequest, EnrollResponse } from './generated/keystead/agent/v1/enrollment.ts';
import { enrollMethod, type ReceivedControlMessage, sessionClientMethod } from './services.ts';

/** `HOST:PORT`; an IPv6 address stands in brackets. */
export interface Endpoint {
  host: string;
  port: number;
}

/** @throws TypeError that says what is wrong with the text */
export function parseEndpoint(text: string): Endpoint {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new TypeError(`not an endpoint of the form HOST:PORT: ${text.slice(0, 200)}`);
  }
  if (match?.[1] !== undefined && isIP(host) !== 6) {
    throw new TypeError(`not an IPv6 address: ${host}`);
  }
  return { host, port };
}

export function formatEndpoint({ host, port }: Endpoint): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/** SHA-256 of a certificate's DER, 64 lower-case hexadecimal digits. */
export function certificateFingerprint(der: Uint8Array): string {
  return createHash('sha256').update(der).digest('hex');
}

/** Accepts upper case, colons and a `sha256:` in front. @throws TypeError */
export function parseFingerprint(text: string): string {
  const digits = text
    .trim()
    .replace(/^sha-?256[:=]/i, '')
    .replaceAll(':', '')
    .toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(digits)) {
    throw new TypeError('a fingerprint is the SHA-256 of a certificate, 64 hexadecimal digits');
  }
  return digits;
}

/** Why the server at the other end is not the one that was pinned. */
export class ServerNotTrusted extends Error {
  readonly reason: 'fingerprint_mismatch' | 'chain_invalid' | 'unreachable';
  constructor(reason: ServerNotTrusted['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ServerNotTrusted';
    this.reason = reason;
  }
}

/**
 * Finds the root with the pinned fingerprint in the chain a server presents, on a connection that
 * sends nothing. Having it proves nothing about that server: the caller connects anew with this
 * root as the only authority, and TLS then verifies leaf, intermediate, root, validity and the
 * host name before a byte is sent.
 */
export async function fetchPinnedRoot(
  endpoint: Endpoint,
  fingerprint: string,
  timeoutMs = 10_000,
): Promise<Buffer> {
  const pinned = parseFingerprint(fingerprint);
  const chain = await new Promise<Buffer[]>((resolve, reject) => {
    const socket = connect({
      ...endpoint,
      ...serverName(endpoint.host),
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['h2'],
      rejectUnauthorized: false,
    });
    const fail = (error: Error) => {
      socket.destroy();
      reject(
        new ServerNotTrusted(
          'unreachable',
          `cannot reach ${formatEndpoint(endpoint)}: ${describe(error)}`,
          { cause: error },
        ),
      );
    };
    socket.setTimeout(timeoutMs, () => fail(new Error(`no answer within ${timeoutMs} ms`)));
    socket.once('error', fail);
    socket.once('close', () => fail(new Error('the connection was closed')));
    socket.once('secureConnect', () => {
      const found = presentedChain(socket.getPeerCertificate(true));
      socket.destroy();
      resolve(found);
    });
  });
  const root = chain.find((certificate) => certificateFingerprint(certificate) === pinned);
  if (root === undefined) {
    throw new ServerNotTrusted(
      'fingerprint_mismatch',
      `the certificate authority of ${formatEndpoint(endpoint)} does not have the fingerprint ${pinned}`,
    );
  }
  return root;
}

function presentedChain(leaf: DetailedPeerCertificate): Buffer[] {
  const chain: Buffer[] = [];
  let current: DetailedPeerCertificate | undefined = leaf;
  while (current?.raw && chain.length < 10) {
    chain.push(current.raw);
    if (current.issuerCertificate === current) break;
    current = current.issuerCertificate;
  }
  return chain;
}

/** What a connection is made with. PEM. */
export interface ClientTrust {
  /** The pinned root: the only authority. */
  root: string;
  /** The agent's certificate and intermediate; none while it enrols. */
  identity?: { certificateChain: string; privateKey: string } | undefined;
}

/**
 * TLS credentials with one root. grpc-js' own `createSsl` would offer TLS 1.2 and send an IP
 * address as server name, which TLS forbids and Node warns about.
 */
export class PinnedCredentials extends ChannelCredentials {
  readonly #context: SecureContext;
  readonly #endpoint: Endpoint;

  constructor(endpoint: Endpoint, trust: ClientTrust) {
    super();
    this.#endpoint = endpoint;
    this.#context = createSecureContext({
      ca: trust.root,
      minVersion: 'TLSv1.3',
      ...(trust.identity === undefined
        ? {}
        : { cert: trust.identity.certificateChain, key: trust.identity.privateKey }),
    });
  }

  _isSecure(): boolean {
    return true;
  }

  _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  _createSecureConnector(
    _target: unknown,
    _options: unknown,
    callCredentials: CallCredentials = CallCredentials.createEmpty(),
  ) {
    return {
      connect: (socket: Socket) =>
        new Promise<{ socket: Socket; secure: boolean }>((resolve, reject) => {
          const secured = connect(
            {
              socket,
              ...serverName(this.#endpoint.host),
              // The name that is compared with the certificate.
              host: this.#endpoint.host,
              secureContext: this.#context,
              ALPNProtocols: ['h2'],
            },
            () => resolve({ socket: secured, secure: true }),
          );
          secured.once('error', reject);
          secured.once('close', () => reject(new Error('the server closed the connection')));
        }),
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => callCredentials,
      destroy: () => {},
    };
  }
}

const clientOptions = {
  'grpc.max_receive_message_length': limits.agentMessageMaxBytes,
  'grpc.max_send_message_length': limits.agentMessageMaxBytes,
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.enable_retries': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_channelz': 0,
} as const;

/**
 * Enrols: verifies the server, then sends the token. Rejects with {@link ServerNotTrusted} before
 * the token was sent, or with the call's status (a grpc-js ServiceError).
 */
export async function enroll(
  endpoint: Endpoint,
  fingerprint: string,
  request: EnrollRequest,
  timeoutMs = 20_000,
): Promise<EnrollResponse> {
  const pinned = parseFingerprint(fingerprint);
  const root = await fetchPinnedRoot(endpoint, pinned, Math.min(timeoutMs, 10_000));
  const client = new Client(
    formatEndpoint(endpoint),
    new PinnedCredentials(endpoint, { root: new X509Certificate(root).toString() }),
    clientOptions,
  );
  try {
    const response = await new Promise<EnrollResponse>((resolve, reject) => {
      client.makeUnaryRequest(
        enrollMethod.path,
        enrollMethod.requestSerialize,
        enrollMethod.responseDeserialize,
        request,
        new Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, answer) => (error ? reject(error) : resolve(answer as EnrollResponse)),
      );
    });
    if (certificateFingerprint(response.rootCertificate) !== pinned) {
      throw new ServerNotTrusted('fingerprint_mismatch', 'the server answered with another root');
    }
    return response;
  } catch (error) {
    // grpc-js has one word for every connection that did not come about.
    if ((error as { code?: number }).code === status.UNAVAILABLE) {
      await verifyServer(endpoint, root, Math.min(timeoutMs, 10_000));
    }
    throw error;
  } finally {
    client.close();
  }
}

/** The same TLS verification on a connection of its own, for the exact reason when it fails. */
function verifyServer(endpoint: Endpoint, root: Buffer, timeoutMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...endpoint,
      ...serverName(endpoint.host),
      ca: new X509Certificate(root).toString(),
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['h2'],
    });
    const fail = (error: Error) => {
      socket.destroy();
      reject(
        new ServerNotTrusted(
          'chain_invalid',
          `the certificate of ${formatEndpoint(endpoint)} does not verify: ${describe(error)}`,
          { cause: error },
        ),
      );
    };
    socket.setTimeout(timeoutMs, () => fail(new Error(`no answer within ${timeoutMs} ms`)));
    socket.once('error', fail);
    socket.once('close', () => fail(new Error('the connection was closed')));
    socket.once('secureConnect', () => {
      socket.removeAllListeners('close');
      socket.destroy();
      resolve();
    });
  });
}

export type SessionStream = ClientDuplexStream<Buffer, ReceivedControlMessage>;

/**
 * One connection with one session stream on it. Closing ends both; nothing reconnects by itself.
 * Messages are written as encoded bytes.
 */
export class SessionConnection {
  readonly stream: SessionStream;
  readonly #client: Client;

  constructor(endpoint: Endpoint, trust: ClientTrust) {
    this.#client = new Client(
      formatEndpoint(endpoint),
      new PinnedCredentials(endpoint, trust),
      clientOptions,
    );
    this.stream = this.#client.makeBidiStreamRequest(
      sessionClientMethod.path,
      sessionClientMethod.requestSerialize,
      sessionClientMethod.responseDeserialize,
      new Metadata(),
    );
  }

  close(): void {
    this.stream.cancel();
    this.#client.close();
  }
}

function serverName(host: string): { servername?: string } {
  return isIP(host) === 0 ? { servername: host } : {};
}

function describe(error: Error): string {
  const code = (error as NodeJS.ErrnoException).code;
  return code && !error.message.includes(code) ? `${error.message} (${code})` : error.message;
}

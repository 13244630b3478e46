/**
 * The server's end of the agent link: one TLS 1.3 port on which a client certificate is requested
 * and not required, because enrolment has none yet.
 *
 * grpc-js ties "request a certificate" to "require one", so the handshake is done here, by a
 * `tls.Server` of ours, and only finished connections are handed to grpc-js through its connection
 * injector. That also gives what grpc-js has no option for: a certificate that was presented and
 * does not verify is known as such (a call on that connection ends with UNAUTHENTICATED, and the
 * connection is closed); the certificate and the authorities can be replaced without a restart; and
 * new handshakes start between other work, a few per turn of the event loop, so that thousands of
 * agents that return at once do not hold up the ones that are there.
 */
import type { X509Certificate } from 'node:crypto';
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import {
  createServer as createTlsServer,
  type TLSSocket,
  type Server as TlsServer,
} from 'node:tls';
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { limits } from '@keystead/contracts/limits';

/** PEM. The chain is leaf, intermediate, root: an agent finds the root it pinned in there. */
export interface ServerTrust {
  certificateChain: string;
  privateKey: string;
  /** Authorities of agents' certificates: the root and every intermediate still in use. */
  authorities: string[];
}

export interface LinkLimits {
  messageMaxBytes: number;
  streamsPerConnection: number;
  connectionsMax: number;
  /** Connections that wait for their handshake; one more is dropped. */
  waitingConnectionsMax: number;
  /** A connection that waited longer is dropped: its client has given up. */
  waitingMaxMs: number;
  handshakesPerTurn: number;
  handshakeTimeoutMs: number;
  headerListMaxBytes: number;
  headerListMaxPairs: number;
  /** Streams a peer may reset: at once, and per second. */
  streamResetBurst: number;
  streamResetPerSecond: number;
  invalidFramesMax: number;
  sessionMemoryMegabytes: number;
  connectionMaxAgeMs: number;
  connectionMaxAgeGraceMs: number;
  connectionMaxIdleMs: number;
  keepaliveTimeMs: number;
  keepaliveTimeoutMs: number;
}

export const defaultLinkLimits: LinkLimits = {
  messageMaxBytes: limits.agentMessageMaxBytes,
  streamsPerConnection: limits.agentStreamsPerConnection,
  connectionsMax: limits.agentSessionsPerGateway,
  waitingConnectionsMax: 20_000,
  waitingMaxMs: 15_000,
  handshakesPerTurn: 8,
  handshakeTimeoutMs: 10_000,
  headerListMaxBytes: limits.agentHeaderListMaxBytes,
  headerListMaxPairs: 48,
  streamResetBurst: 40,
  streamResetPerSecond: 10,
  invalidFramesMax: 16,
  sessionMemoryMegabytes: 8,
  connectionMaxAgeMs: limits.agentConnectionMaxAgeMs,
  // Sessions are asked to reopen before that age; what is left after the grace is cut.
  connectionMaxAgeGraceMs: 60_000,
  connectionMaxIdleMs: 60_000,
  keepaliveTimeMs: 60_000,
  keepaliveTimeoutMs: 20_000,
};

/** Who is at the other end of a call's connection. */
export interface LinkPeer {
  remoteAddress: string;
  /**
   * The presented certificate, when it verified against our authorities. Read from the connection
   * each time: an object of some kilobytes that nobody has to keep.
   */
  readonly certificate: X509Certificate | undefined;
  /** Why a presented certificate was not accepted. */
  refusal: string | undefined;
  /** Ends the connection with everything on it. */
  disconnect(): void;
}

export interface LinkCounters {
  connectionsOpened: number;
  connectionsClosed: number;
  connectionsDropped: number;
  handshakesFailed: number;
  certificatesRefused: number;
}

/** How long a connection with a refused certificate stays, so that its call can be answered. */
const refusedLingerMs = 2_000;

interface Waiting {
  socket: Socket;
  sinceMs: number;
}

export class AgentLinkServer {
  readonly counters: LinkCounters = {
    connectionsOpened: 0,
    connectionsClosed: 0,
    connectionsDropped: 0,
    handshakesFailed: 0,
    certificatesRefused: 0,
  };
  readonly #limits: LinkLimits;
  readonly #grpc: Server;
  readonly #tls: TlsServer;
  readonly #net: NetServer;
  readonly #peers = new Map<string, LinkPeer>();
  readonly #sockets = new Set<Socket>();
  readonly #injector: ReturnType<Server['createConnectionInjector']>;
  #waiting: Waiting[] = [];
  #waitingHead = 0;
  #turnScheduled = false;

  constructor(trust: ServerTrust, overrides: Partial<LinkLimits> = {}) {
    const bounds = { ...defaultLinkLimits, ...overrides };
    this.#limits = bounds;
    this.#grpc = new Server({
      'grpc.max_receive_message_length': bounds.messageMaxBytes,
      'grpc.max_send_message_length': bounds.messageMaxBytes,
      'grpc.max_concurrent_streams': bounds.streamsPerConnection,
      'grpc.max_connection_age_ms': bounds.connectionMaxAgeMs,
      'grpc.max_connection_age_grace_ms': bounds.connectionMaxAgeGraceMs,
      'grpc.max_connection_idle_ms': bounds.connectionMaxIdleMs,
      'grpc.keepalive_time_ms': bounds.keepaliveTimeMs,
      'grpc.keepalive_timeout_ms': bounds.keepaliveTimeoutMs,
      'grpc-node.max_session_memory': bounds.sessionMemoryMegabytes,
      'grpc.enable_channelz': 0,
    });
    limitHttp2(this.#grpc, bounds);
    this.#injector = this.#grpc.createConnectionInjector(ServerCredentials.createInsecure());
    this.#tls = createTlsServer({
      ...secureContext(trust),
      requestCert: true,
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
      handshakeTimeout: bounds.handshakeTimeoutMs,
    });
    this.#tls.on('secureConnection', (socket) => this.#accept(socket));
    this.#tls.on('tlsClientError', (_error, socket) => {
      this.counters.handshakesFailed += 1;
      socket.destroy();
    });
    this.#net = createServer({ noDelay: true }, (socket) => this.#enqueue(socket));
    this.#net.maxConnections = bounds.connectionsMax;
    this.#net.on('drop', () => {
      this.counters.connectionsDropped += 1;
    });
  }

  addService(service: ServiceDefinition, implementation: UntypedServiceImplementation): void {
    this.#grpc.addService(service, implementation);
  }

  /** Listens and answers the port in use. @throws the socket's error, for example EADDRINUSE */
  listen(port: number, host = '0.0.0.0'): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#net.once('error', reject);
      this.#net.listen({ port, host, backlog: 4_096 }, () => {
        this.#net.off('error', reject);
        const address = this.#net.address();
        resolve(typeof address === 'object' && address !== null ? address.port : port);
      });
    });
  }

  /** Uses another certificate and other authorities for every handshake from now on. */
  replaceTrust(trust: ServerTrust): void {
    this.#tls.setSecureContext(secureContext(trust));
  }

  /** The peer of a call, by the connection it came on. */
  peerOf(call: { getPeer(): string }): LinkPeer | undefined {
    return this.#peers.get(call.getPeer());
  }

  /** Takes no new connections; those that are there stay. */
  stopListening(): void {
    this.#net.close();
    for (const { socket } of this.#waiting.splice(0)) socket.destroy();
    this.#waitingHead = 0;
  }

  /** Ends every connection: after `graceMs` also those with open streams. */
  async close(graceMs = 1_000): Promise<void> {
    this.stopListening();
    this.#injector.drain(graceMs);
    const deadlineMs = performance.now() + graceMs;
    while (this.#sockets.size > 0 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    for (const socket of this.#sockets) socket.destroy();
    this.#injector.destroy();
    this.#grpc.forceShutdown();
  }

  #enqueue(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => this.#sockets.delete(socket));
    if (this.#waiting.length - this.#waitingHead >= this.#limits.waitingConnectionsMax) {
      this.counters.connectionsDropped += 1;
      socket.destroy();
      return;
    }
    this.#waiting.push({ socket, sinceMs: performance.now() });
    this.#schedule();
  }

  #schedule(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#turnScheduled = false;
    const oldestMs = performance.now() - this.#limits.waitingMaxMs;
    let started = 0;
    while (started < this.#limits.handshakesPerTurn) {
      const next = this.#waiting[this.#waitingHead];
      if (next === undefined) break;
      this.#waitingHead += 1;
      if (next.socket.destroyed) continue;
      if (next.sinceMs < oldestMs) {
        this.counters.connectionsDropped += 1;
        next.socket.destroy();
        continue;
      }
      started += 1;
      this.#tls.emit('connection', next.socket);
    }
    if (this.#waitingHead >= this.#waiting.length) {
      this.#waiting = [];
      this.#waitingHead = 0;
    } else this.#schedule();
  }

  #accept(socket: TLSSocket): void {
    // A reset connection is no news: the streams on it end with it.
    socket.on('error', () => {});
    const { remoteAddress, remotePort } = socket;
    if (socket.alpnProtocol !== 'h2' || remoteAddress === undefined) {
      socket.destroy();
      return;
    }
    this.counters.connectionsOpened += 1;
    const peer = new ConnectedPeer(socket, remoteAddress);
    const key = `${remoteAddress}:${remotePort}`;
    this.#peers.set(key, peer);
    socket.once('close', () => {
      this.counters.connectionsClosed += 1;
      if (this.#peers.get(key) === peer) this.#peers.delete(key);
    });
    if (peer.refusal !== undefined) {
      this.counters.certificatesRefused += 1;
      setTimeout(() => socket.destroy(), refusedLingerMs).unref();
    }
    this.#injector.injectConnection(socket);
  }
}

class ConnectedPeer implements LinkPeer {
  readonly remoteAddress: string;
  readonly refusal: string | undefined;
  readonly #socket: TLSSocket;

  constructor(socket: TLSSocket, remoteAddress: string) {
    this.remoteAddress = remoteAddress;
    this.#socket = socket;
    if (!socket.authorized && socket.getPeerX509Certificate() !== undefined) {
      this.refusal = String(socket.authorizationError ?? 'not verified');
    }
  }

  get certificate(): X509Certificate | undefined {
    return this.#socket.authorized ? this.#socket.getPeerX509Certificate() : undefined;
  }

  disconnect(): void {
    this.#socket.destroy();
  }
}

function secureContext(trust: ServerTrust) {
  return {
    cert: trust.certificateChain,
    key: trust.privateKey,
    ca: trust.authorities,
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
  } as const;
}

/**
 * grpc-js passes `commonServerOptions` to `http2.createServer` and lets its own options set two of
 * them. The rest of HTTP/2's limits are set here, and a version of grpc-js that has no such object
 * any more fails at start instead of running without limits.
 */
function limitHttp2(server: Server, bounds: LinkLimits): void {
  const { commonServerOptions } = server as unknown as {
    commonServerOptions?: Record<string, unknown>;
  };
  if (typeof commonServerOptions?.settings !== 'object') {
    throw new Error('this version of @grpc/grpc-js takes its HTTP/2 limits elsewhere');
  }
  Object.assign(commonServerOptions, {
    settings: {
      maxConcurrentStreams: bounds.streamsPerConnection,
      maxHeaderListSize: bounds.headerListMaxBytes,
      enablePush: false,
    },
    maxHeaderListPairs: bounds.headerListMaxPairs,
    maxSessionInvalidFrames: bounds.invalidFramesMax,
    maxSessionRejectedStreams: bounds.invalidFramesMax,
    maxOutstandingPings: 8,
    maxSettings: 16,
    streamResetBurst: bounds.streamResetBurst,
    streamResetRate: bounds.streamResetPerSecond,
  });
}

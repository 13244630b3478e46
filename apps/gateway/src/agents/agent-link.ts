/**
 * The gateway's gRPC half: ends TLS, takes every agent's identity from its certificate, and hands
 * streams to {@link AgentSessions} and enrolments to {@link Enrollment}. Owns no table.
 */

import type { ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import type {
  EnrollRequest,
  EnrollResponse,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/enrollment';
import {
  AgentLinkServer,
  type LinkCounters,
  type LinkLimits,
  type ServerTrust,
} from '@keystead/agent-protocol/link-server';
import { peerIdentityOf } from '@keystead/agent-protocol/peer-identity';
import { enrollmentServerService, sessionServerService } from '@keystead/agent-protocol/services';
import type { AgentBackend, Revocation } from './agent-backend.ts';
import type { AgentLinkCounters } from './agent-link-counters.ts';
import type { SessionCall } from './agent-session.ts';
import { AgentSessions, type Clock } from './agent-sessions.ts';
import { Enrollment } from './enrollment.grpc.ts';

export interface AgentLinkOptions {
  backend: AgentBackend;
  trust: ServerTrust;
  trustDomain: string;
  clock?: Clock;
  random?: () => number;
  linkLimits?: Partial<LinkLimits>;
  warn?: (message: string, details: Record<string, unknown>) => void;
}

export class AgentLink {
  readonly #server: AgentLinkServer;
  readonly #sessions: AgentSessions;
  readonly #enrollment: Enrollment;
  #listening = false;

  constructor(options: AgentLinkOptions) {
    const warn = options.warn ?? (() => {});
    this.#server = new AgentLinkServer(options.trust, options.linkLimits);
    this.#sessions = new AgentSessions({
      backend: options.backend,
      clock: options.clock ?? realClock,
      random: options.random ?? Math.random,
      warn,
    });
    this.#enrollment = new Enrollment(options.backend, warn);
    this.#server.addService(sessionServerService, {
      session: (call: SessionCall) => {
        const peer = this.#server.peerOf(call);
        const certificate = peer?.certificate;
        const identity = certificate && peerIdentityOf(certificate, options.trustDomain);
        this.#sessions.accept(call, peer, identity);
      },
    });
    this.#server.addService(enrollmentServerService, {
      enroll: (
        call: ServerUnaryCall<EnrollRequest | undefined, EnrollResponse>,
        answer: sendUnaryData<EnrollResponse>,
      ) => void this.#enrollment.enroll(call.request, this.#server.peerOf(call), answer),
    });
  }

  /** Listens and answers the port in use; 0 takes a free one. */
  async start(port: number, host = '0.0.0.0'): Promise<number> {
    this.#sessions.start();
    const inUse = await this.#server.listen(port, host);
    this.#listening = true;
    return inUse;
  }

  /** Listening, not drained, and what agents say is being recorded. */
  get isReady(): boolean {
    return this.#listening && this.#sessions.isReady;
  }

  /** Agents that are heard now. */
  get openSessions(): number {
    return this.#sessions.open;
  }

  get counters(): Readonly<AgentLinkCounters & LinkCounters & Enrollment['counters']> {
    return { ...this.#sessions.counters, ...this.#server.counters, ...this.#enrollment.counters };
  }

  /** For every handshake from now on. */
  replaceTrust(trust: ServerTrust): void {
    this.#server.replaceTrust(trust);
  }

  /** A nudge: revocations are read now instead of within a second. */
  pollRevocations(): Promise<void> {
    return this.#sessions.pollRevocations();
  }

  /** A nudge: agents of this organization (a uuid) are told of their policy sets now. */
  lookAtPolicies(organizationId: string): void {
    this.#sessions.lookAtPolicies(organizationId);
  }

  lookAtAgent(organizationId: string, agentId: string): void {
    this.#sessions.lookAtAgent(organizationId, agentId);
  }

  /** A revocation that came by another way than the poll. */
  revoke(revocation: Revocation): void {
    this.#sessions.revoke(revocation);
  }

  /** Takes no new connections and asks agents to come back later, spread over time. */
  async drain(withinMs = 3_000): Promise<void> {
    this.#listening = false;
    this.#server.stopListening();
    await this.#sessions.drain(withinMs);
  }

  async close(): Promise<void> {
    this.#listening = false;
    this.#sessions.stop();
    await this.#server.close(100);
  }
}

const realClock: Clock = { unixMs: () => Date.now(), monotonicMs: () => performance.now() };

/**
 * Every session of this gateway. A stream is opened by a certificate, greets, is admitted by the
 * registry, and is then heard: its beats go into batches and are answered after the commit, its
 * events are verified, made durable and receipted.
 *
 * Cast: {@link AgentSession} is one stream; {@link Batches} gather for the backend; {@link Hearing}
 * says whether anything we hear is being recorded; {@link WaitingLine} paces returning agents;
 * {@link Signals} carry goodbyes; {@link RevocationWatch} knows who is to leave; {@link PolicyPush}
 * brings what vaults should hold. One clock of a quarter of a second walks over all sessions for
 * whatever is due: nothing here has a timer of its own.
 *
 * Guarantees: an answer of "recorded" follows a commit; a revoked or expired certificate is off its
 * stream within five seconds, with the bus up or down; one live stream per agent, the newest; an id
 * in a message is compared with the certificate's and never believed.
 */

import { status } from '@grpc/grpc-js';
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  type AgentMessage,
  CloseReason,
  CommandOutcome,
  Goodbye_Reason,
  RenewalRefused_Reason,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { LinkPeer } from '@keystead/agent-protocol/link-server';
import { hasValidSignature } from '@keystead/agent-protocol/message-signature';
import type { PeerIdentity } from '@keystead/agent-protocol/peer-identity';
import { protocolVersion, type ReceivedAgentMessage } from '@keystead/agent-protocol/services';
import type { RetainedEvent } from '@keystead/contracts/agent-link';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Admission } from './admission.ts';
import type { AdmitResult, AgentBackend, BeatResult, Revocation } from './agent-backend.ts';
import { zeroCounters } from './agent-link-counters.ts';
import { AgentSession, type QueuedBeat, type SessionCall } from './agent-session.ts';
import { Batches } from './batches.ts';
import { derOf } from './certificate-chain.ts';
import { Hearing } from './hearing.ts';
import { PolicyPush } from './policy-push.ts';
import { eventOf, factsOf, healthOf, heldOf, isBootId } from './received-message.ts';
import { concerns, RevocationWatch } from './revocation-watch.ts';
import { Signals } from './signals.ts';
import { WaitingLine } from './waiting-line.ts';

export interface Clock {
  /** Wall clock, for certificates and envelopes. */
  unixMs(): number;
  monotonicMs(): number;
}

export interface AgentSessionsOptions {
  backend: AgentBackend;
  clock: Clock;
  /** 0 inclusive to 1 exclusive. */
  random: () => number;
  /** Told what should not happen; never ids of secrets, never message contents. */
  warn: (message: string, details: Record<string, unknown>) => void;
}

/** Tuning that is not a limit of the product. */
const greetWithinMs = 10_000;
const beatTimeoutMs = 10_000;
const batchesInFlight = 4;
const tickMs = 250;
const deafSpreadMs = 10_000;
const deafRetryMs = 20_000;
/** The registry is asked again soon: until then the agent is not heard. */
const admissionRetryMs = 2_000;
const eventsWaitingMax = 20_000;
/** Messages cost ten, retained ones one: a queue may drain ten times faster than beats may come. */
const messageCost = 10;
const eventCost = 1;
const creditPerMs = (limits.agentMessagesPerSecond * messageCost) / 1_000;
const creditMax = limits.agentMessagesPerSecond * messageCost * 10;
const retainedWindow = 64;

interface QueuedEvent {
  session: AgentSession;
  event: RetainedEvent;
}

export class AgentSessions {
  readonly counters = zeroCounters();
  readonly #backend: AgentBackend;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #warn: AgentSessionsOptions['warn'];
  /** Admitted sessions by agent. */
  readonly #byAgent = new Map<string, AgentSession>();
  readonly #all = new Set<AgentSession>();
  readonly #beats: Batches<QueuedBeat>;
  readonly #events: Batches<QueuedEvent>;
  readonly #hearing: Hearing;
  readonly #line: WaitingLine;
  readonly #signals: Signals;
  readonly #revocations: RevocationWatch;
  readonly #policies: PolicyPush;
  readonly #paused = new Set<AgentSession>();
  #batchNumber = 0;
  #lastBatchMs = 0;
  #lastSecondMs = 0;
  #draining = false;
  #deaf = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: AgentSessionsOptions) {
    this.#backend = options.backend;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#warn = options.warn;
    const nowMs = options.clock.monotonicMs();
    this.#hearing = new Hearing(limits.gatewayGoneAfterMs, nowMs);
    this.#line = new WaitingLine(
      options.backend,
      new Admission(limits.agentHelloPerSecond, nowMs),
      options.clock.monotonicMs,
      (session, result) => this.#decided(session, result),
      (sessions, error) => {
        this.#warn('agents could not be admitted', {
          agents: sessions.length,
          error: String(error),
        });
        for (const session of sessions) this.#refuseNow(session, admissionRetryMs);
      },
    );
    this.#signals = new Signals(
      options.backend,
      () => this.#beats.settled(),
      (session) => this.#leave(session),
      (error) => this.#warn('signals were not recorded', { error: String(error) }),
    );
    this.#revocations = new RevocationWatch(
      options.backend,
      options.clock.monotonicMs,
      (revocation) => this.#revoked(revocation),
      (error) => {
        this.counters.revocationPollsFailed += 1;
        this.#warn('revocations could not be read', { error: String(error) });
      },
    );
    this.#policies = new PolicyPush({
      backend: options.backend,
      counters: this.counters,
      monotonicMs: options.clock.monotonicMs,
      unixMs: options.clock.unixMs,
      warn: options.warn,
    });
    this.#beats = new Batches(
      {
        waitMs: limits.agentBatchWaitMs,
        maxEntries: limits.agentBatchMax,
        inFlightMax: batchesInFlight,
        timeoutMs: beatTimeoutMs,
      },
      (entries) => this.#sendBeats(entries),
      (entries, error) => this.#beatsFailed(entries, error),
    );
    this.#events = new Batches(
      {
        waitMs: limits.agentBatchWaitMs,
        maxEntries: limits.agentEventsPerMessage,
        inFlightMax: batchesInFlight,
        timeoutMs: beatTimeoutMs,
      },
      (entries) => this.#sendEvents(entries),
      (entries, error) => {
        this.counters.eventsNotRecorded += entries.length;
        this.#warn('events were not recorded', { events: entries.length, error: String(error) });
      },
    );
  }

  /** Sessions that are heard. */
  get open(): number {
    return this.#byAgent.size;
  }

  /** May take sessions: neither drained nor deaf. */
  get isReady(): boolean {
    return !this.#draining && !this.#deaf;
  }

  start(): void {
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
    void this.#revocations.poll();
  }

  /** A stream was opened. */
  accept(call: SessionCall, peer: LinkPeer | undefined, identity: PeerIdentity | undefined): void {
    call.on('error', ignore);
    if (peer === undefined || identity === undefined) {
      this.counters.sessionsRefused += 1;
      call.emit('error', {
        code: status.UNAUTHENTICATED,
        details: peer?.refusal
          ? `the client certificate was refused: ${peer.refusal}`
          : 'a client certificate of an agent is required',
      });
      return;
    }
    const nowMs = this.#clock.monotonicMs();
    const session = new AgentSession(call, peer, identity, nowMs, greetWithinMs, creditMax);
    this.#all.add(session);
    call.on('data', (received: ReceivedAgentMessage) => this.#receive(session, received));
    call.on('end', () => this.#halfClosed(session));
    call.on('close', () => this.#remove(session));
    call.on('cancelled', () => this.#remove(session));
    if (!this.isReady) this.#refuseNow(session);
    else if (this.#clock.unixMs() >= identity.notAfterMs) this.#expire(session);
  }

  /** Reads revocations now instead of within a second. */
  pollRevocations(): Promise<void> {
    return this.#revocations.poll();
  }

  /** Sets were assigned in an organization: its agents here are told now. @param organizationId uuid */
  lookAtPolicies(organizationId: string): void {
    for (const session of this.#byAgent.values()) {
      if (session.identity.organizationId === organizationId) this.#policies.mark(session);
    }
    this.#policies.flush();
  }

  /** One agent is to be told something, if it is here. Both are uuids. */
  lookAtAgent(organizationId: string, agentId: string): void {
    const session = this.#byAgent.get(agentId);
    if (session?.identity.organizationId !== organizationId) return;
    this.#policies.mark(session);
    this.#policies.flush();
  }

  /** Ends the session of a revoked certificate, also of one that is just being admitted. */
  revoke(revocation: Revocation): void {
    this.#revocations.learn(revocation);
  }

  /**
   * Asks every agent to come back later, perhaps to another gateway, with delays that let them
   * arrive at the pace of admission. Resolves when they are gone, or after `withinMs`.
   */
  async drain(withinMs: number): Promise<void> {
    this.#draining = true;
    const spreadMs = Math.max(1_000, (this.#all.size / limits.agentHelloPerSecond) * 1_000);
    for (const session of this.#all) {
      this.#close(
        session,
        CloseReason.DRAINING,
        Math.ceil(this.#random() * spreadMs),
        status.UNAVAILABLE,
        'this gateway is going away',
      );
    }
    const endMs = performance.now() + withinMs;
    await Promise.all([this.#beats.finish(withinMs), this.#events.finish(withinMs)]);
    while ((this.#all.size > 0 || !this.#signals.isIdle) && performance.now() < endMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const session of this.#all) session.peer.disconnect();
  }

  // Receiving

  #receive(session: AgentSession, { message, bytes }: ReceivedAgentMessage): void {
    if (!session.isLive) return;
    if (this.#clock.unixMs() >= session.identity.notAfterMs) {
      this.#expire(session);
      return;
    }
    if (message === undefined || message.version !== protocolVersion) {
      this.#wrong(session, 'a message of protocol version 1.0');
      return;
    }
    const content = message.payload?.content;
    this.#charge(session, content?.$case === 'event' ? eventCost : messageCost);
    if (message.payload === undefined || message.payload.encrypted) {
      this.#wrong(session, 'a plain payload');
      return;
    }
    if (session.state === 'greeting') {
      if (content?.$case !== 'hello') {
        this.#wrong(session, 'hello as the first message', status.FAILED_PRECONDITION);
        return;
      }
      this.#greet(session, message, content.value);
      return;
    }
    if (message.vaultId !== session.vaultId) {
      this.#wrong(session, "the certificate's vault", status.PERMISSION_DENIED);
      return;
    }
    if (content === undefined || (content.$case === 'event' && content.value.kind === undefined)) {
      // A newer agent says what this gateway has no word for. An event stays with it: no receipt.
      this.counters.messagesNotUnderstood += 1;
      return;
    }
    switch (content.$case) {
      case 'heartbeat':
        this.#heartbeat(session, message, content.value);
        return;
      case 'event':
        this.#event(session, message, content.value, bytes);
        return;
      case 'renewalRequest':
        void this.#renew(session, content.value.certificateRequest);
        return;
      case 'goodbye':
        if (content.value.reason === Goodbye_Reason.STOPPED) this.#goodbye(session);
        else this.#leave(session);
        return;
      case 'policySetRequest':
        this.#policies.request(session, content.value);
        return;
      case 'commandAnswer':
        // What became of a command is told by an event, which is kept until it is received. An agent
        // that has no word for it has none for the event either.
        if (content.value.outcome === CommandOutcome.UNSUPPORTED) {
          this.#policies.unsupported(session, content.value.number);
        }
        return;
      default:
        this.#wrong(session, 'hello only once');
        return;
    }
  }

  /** Slows a sender down to its rate by not reading on; HTTP/2 then holds it at its window. */
  #charge(session: AgentSession, cost: number): void {
    session.credit -= cost;
    if (session.credit > 0) return;
    this.#refill(session, this.#clock.monotonicMs());
    if (session.credit > 0) return;
    session.call.pause();
    this.#paused.add(session);
  }

  #refill(session: AgentSession, nowMs: number): void {
    const earned = (nowMs - session.creditAtMs) * creditPerMs;
    session.credit = Math.min(creditMax, session.credit + earned);
    session.creditAtMs = nowMs;
  }

  #greet(session: AgentSession, message: AgentMessage, hello: Parameters<typeof factsOf>[0]): void {
    const facts = factsOf(hello);
    if ('wrong' in facts) {
      this.#wrong(session, `a valid ${facts.wrong}`);
      return;
    }
    if (!isBootId(message.bootId)) {
      this.#wrong(session, 'a UUID as boot_id');
      return;
    }
    const held = heldOf(hello.policySet);
    if (held === undefined) {
      this.#wrong(session, 'a valid hello.policy_set');
      return;
    }
    session.held = held.digest === '' ? null : held;
    session.bootId = message.bootId;
    session.facts = facts.value;
    session.vaultId = message.vaultId;
    const delayMs = this.#line.join(session);
    if (delayMs > 0) {
      this.counters.admissionsDelayed += 1;
      this.#close(
        session,
        CloseReason.BUSY,
        delayMs,
        status.UNAVAILABLE,
        'too many agents arrive at once',
      );
      return;
    }
    session.state = 'admitting';
    session.deadlineMs = this.#clock.monotonicMs() + 2 * beatTimeoutMs;
    session.call.pause();
  }

  #decided(session: AgentSession, result: AdmitResult | undefined): void {
    if (!session.isLive) return;
    if (result?.outcome === 'admitted') {
      this.#admitted(session, result);
      return;
    }
    this.counters.sessionsRefused += 1;
    this.#close(
      session,
      CloseReason.REVOKED,
      0,
      status.UNAUTHENTICATED,
      'the certificate is not valid any more',
    );
  }

  #admitted(session: AgentSession, admitted: Extract<AdmitResult, { outcome: 'admitted' }>): void {
    const { identity } = session;
    const vaultId = toId('vault', admitted.vaultId);
    if (session.vaultId !== vaultId) {
      session.vaultId = vaultId;
      this.#wrong(session, "the certificate's vault", status.PERMISSION_DENIED);
      return;
    }
    if (this.#revocations.wasRevoked(identity)) {
      this.#close(
        session,
        CloseReason.REVOKED,
        0,
        status.UNAUTHENTICATED,
        'the certificate was revoked',
      );
      return;
    }
    const older = this.#byAgent.get(identity.agentId);
    if (older !== undefined) {
      this.counters.sessionsSuperseded += 1;
      this.#close(
        older,
        CloseReason.SUPERSEDED,
        0,
        status.ABORTED,
        'a newer stream of this agent was opened',
      );
      if (older.bootId !== session.bootId) this.#signals.superseded(older, session);
    }
    this.#byAgent.set(identity.agentId, session);
    session.state = 'open';
    session.intervalMs = admitted.intervalMs;
    session.assignedPolicySetVersion = admitted.assignedPolicySetVersion;
    // Reopened before the connection's own age ends it, at times that do not coincide.
    session.deadlineMs =
      this.#clock.monotonicMs() + limits.agentConnectionMaxAgeMs * (0.75 + 0.1 * this.#random());
    this.counters.sessionsOpened += 1;
    session.send(
      MessageType.REGISTRATION,
      {
        $case: 'welcome',
        value: {
          heartbeatIntervalMs: admitted.intervalMs,
          answerDeadlineMs: Math.min(Math.max(admitted.intervalMs, 5_000), beatTimeoutMs + 2_000),
          serverTimeUnixMs: this.#clock.unixMs(),
          assignedPolicySet: policySet(admitted.assignedPolicySetVersion),
          retainedWindow,
        },
      },
      this.#clock.unixMs(),
    );
    session.call.resume();
    if (admitted.assignedPolicySetVersion !== null || session.held !== null) {
      this.#policies.mark(session);
      this.#policies.flush();
    }
  }

  // Beats

  #heartbeat(
    session: AgentSession,
    message: AgentMessage,
    heartbeat: Parameters<typeof healthOf>[0],
  ): void {
    this.counters.beatsReceived += 1;
    if (message.bootId !== session.bootId) {
      this.#wrong(session, 'the boot_id of hello', status.PERMISSION_DENIED);
      return;
    }
    if (heartbeat.number <= session.lastNumber) {
      this.#wrong(session, 'heartbeats in ascending order');
      return;
    }
    const health = healthOf(heartbeat);
    if (health === undefined) {
      this.#wrong(session, 'a heartbeat with a health');
      return;
    }
    // A batch is one statement: a number that its column cannot hold would cost every other beat.
    const held = heldOf(heartbeat.policySet);
    if (held === undefined) {
      this.#wrong(session, 'a policy set with a version below 2^31 and a digest');
      return;
    }
    const policySetVersion = held.number || null;
    this.#policies.heard(session, held);
    session.lastNumber = heartbeat.number;
    const { identity, facts } = session;
    const beat = {
      organizationId: identity.organizationId,
      agentId: identity.agentId,
      bootId: session.bootId,
      sequence: heartbeat.number,
      health,
      policySetVersion,
      facts,
    };
    if (session.queued !== undefined) {
      session.queued.beat = beat;
      return;
    }
    session.queued = { session, beat };
    this.#beats.add(session.queued);
  }

  async #sendBeats(entries: QueuedBeat[]): Promise<void> {
    const beats = [];
    for (const entry of entries) {
      entry.session.queued = undefined;
      beats.push(entry.beat);
    }
    this.#batchNumber += 1;
    this.counters.beatBatches += 1;
    this.#lastBatchMs = this.#clock.monotonicMs();
    const results = await this.#backend.beats({ number: this.#batchNumber, beats });
    this.#hearing.acknowledged(this.#clock.monotonicMs());
    const nowUnixMs = this.#clock.unixMs();
    for (let index = 0; index < entries.length; index += 1) {
      const entry = entries[index] as QueuedBeat;
      this.#answer(entry, results[index], nowUnixMs);
    }
  }

  #answer({ session, beat }: QueuedBeat, result: BeatResult | undefined, nowUnixMs: number): void {
    if (result?.outcome === 'unknown') {
      // Not known where beats are kept is no verdict on the certificate: that is the registry's, at
      // the admission of the next stream.
      this.#close(
        session,
        CloseReason.DRAINING,
        Math.ceil(500 + this.#random() * 1_500),
        status.UNAVAILABLE,
        'the agent is not known here: reopen the session',
      );
      return;
    }
    const recorded = result !== undefined;
    if (recorded) {
      this.counters.beatsRecorded += 1;
      // What was told need not be told again, unless the agent says hello again.
      if (beat.facts === session.facts) session.facts = null;
    } else this.counters.beatsNotRecorded += 1;
    const changed =
      recorded && result.assignedPolicySetVersion !== session.assignedPolicySetVersion;
    if (changed) {
      session.assignedPolicySetVersion = result.assignedPolicySetVersion;
      this.#policies.mark(session);
    }
    const intervalMs = recorded && result.intervalMs !== session.intervalMs ? result.intervalMs : 0;
    if (intervalMs > 0) session.intervalMs = intervalMs;
    session.send(
      MessageType.HEARTBEAT,
      {
        $case: 'heartbeatAnswer',
        value: {
          number: beat.sequence,
          recorded,
          heartbeatIntervalMs: intervalMs,
          assignedPolicySet: changed ? policySet(session.assignedPolicySetVersion) : undefined,
        },
      },
      nowUnixMs,
    );
  }

  #beatsFailed(entries: QueuedBeat[], error: unknown): void {
    this.counters.beatBatchesFailed += 1;
    this.#warn('beats were not recorded', { beats: entries.length, error: String(error) });
    const nowUnixMs = this.#clock.unixMs();
    for (const entry of entries) this.#answer(entry, undefined, nowUnixMs);
  }

  // Events

  #event(
    session: AgentSession,
    message: AgentMessage,
    event: Parameters<typeof eventOf>[0],
    bytes: Buffer,
  ): void {
    this.counters.eventsReceived += 1;
    if (!isBootId(message.bootId)) {
      this.#wrong(session, 'a UUID as boot_id');
      return;
    }
    if (message.sequence < 1) {
      this.#wrong(session, 'a sequence from 1 on');
      return;
    }
    const key = session.peer.certificate?.publicKey;
    const checked = eventOf(event, key);
    if ('wrong' in checked) {
      this.#wrong(session, `a valid ${checked.wrong}`);
      return;
    }
    if (key === undefined || !hasValidSignature(bytes, key)) {
      this.#wrong(session, "a signature by the certificate's key");
      return;
    }
    // Without a receipt the agent sends it again: nothing is lost by not taking it now.
    if (this.#events.waiting >= eventsWaitingMax) {
      this.counters.eventsNotRecorded += 1;
      return;
    }
    this.#events.add({
      session,
      event: {
        organizationId: session.identity.organizationId,
        agentId: session.identity.agentId,
        bootId: message.bootId,
        sequence: message.sequence,
        signature: message.signature.toString('base64'),
        ...checked.value,
      },
    });
  }

  async #sendEvents(entries: QueuedEvent[]): Promise<void> {
    await this.#backend.events(entries.map(({ event }) => event));
    this.counters.eventsRecorded += entries.length;
    const nowUnixMs = this.#clock.unixMs();
    const receipts = new Map<AgentSession, Map<string, number[]>>();
    for (const { session, event } of entries) {
      const byBoot = receipts.get(session) ?? new Map<string, number[]>();
      receipts.set(session, byBoot);
      const sequences = byBoot.get(event.bootId) ?? [];
      byBoot.set(event.bootId, sequences);
      sequences.push(event.sequence);
    }
    for (const [session, byBoot] of receipts) {
      for (const [bootId, sequences] of byBoot) {
        sequences.sort((one, other) => one - other);
        session.send(
          MessageType.NOTIFICATION,
          { $case: 'receipt', value: { bootId, sequences } },
          nowUnixMs,
        );
      }
    }
  }

  // Renewal

  async #renew(session: AgentSession, certificateRequest: Buffer): Promise<void> {
    if (session.renewing) return;
    session.renewing = true;
    const { organizationId, agentId, serialNumber } = session.identity;
    try {
      if (certificateRequest.length === 0 || certificateRequest.length > 6_000) {
        this.#renewalRefused(session, RenewalRefused_Reason.BAD_REQUEST, 3_600_000);
        return;
      }
      const answer = await this.#backend.renew(
        { organizationId, agentId, serialNumber },
        certificateRequest.toString('base64'),
      );
      if (answer.outcome === 'refused') {
        this.#renewalRefused(session, RenewalRefused_Reason.BAD_REQUEST, 3_600_000);
        return;
      }
      const chain = answer.certificateChain.map(derOf);
      session.send(
        MessageType.REGISTRATION,
        {
          $case: 'certificateIssued',
          value: {
            certificateChain: chain.slice(0, 2),
            rootCertificate: chain[2] ?? noBytes,
          },
        },
        this.#clock.unixMs(),
      );
    } catch (error) {
      this.#warn('a certificate could not be renewed', { agentId, error: String(error) });
      this.#renewalRefused(
        session,
        RenewalRefused_Reason.UNAVAILABLE,
        Math.ceil(30_000 + this.#random() * 60_000),
      );
    } finally {
      session.renewing = false;
    }
  }

  #renewalRefused(
    session: AgentSession,
    reason: RenewalRefused_Reason,
    retryAfterMs: number,
  ): void {
    session.send(
      MessageType.REGISTRATION,
      { $case: 'renewalRefused', value: { reason, retryAfterMs } },
      this.#clock.unixMs(),
    );
  }

  // Leaving

  #goodbye(session: AgentSession): void {
    this.counters.goodbyes += 1;
    if (this.#signals.goodbye(session)) session.call.pause();
    else this.#leave(session);
  }

  #leave(session: AgentSession): void {
    session.end(this.#clock.monotonicMs());
    this.#forget(session);
  }

  #halfClosed(session: AgentSession): void {
    if (!session.saidGoodbye) this.#leave(session);
  }

  // Ending

  #revoked(revocation: Revocation): void {
    const session = this.#byAgent.get(revocation.agentId);
    if (session === undefined || !concerns(revocation, session.identity)) return;
    this.counters.revocationsApplied += 1;
    this.#close(
      session,
      CloseReason.REVOKED,
      0,
      status.UNAUTHENTICATED,
      'the certificate was revoked',
    );
  }

  #expire(session: AgentSession): void {
    this.#close(session, CloseReason.EXPIRED, 0, status.UNAUTHENTICATED, 'the certificate expired');
  }

  #refuseNow(session: AgentSession, retryMs = deafRetryMs): void {
    this.counters.sessionsRefused += 1;
    this.#close(
      session,
      this.#draining ? CloseReason.DRAINING : CloseReason.DEAF,
      Math.ceil(retryMs * (0.25 + this.#random())),
      status.UNAVAILABLE,
      'no sessions can be taken at the moment',
    );
  }

  #wrong(session: AgentSession, wanted: string, code = status.INVALID_ARGUMENT): void {
    this.counters.protocolErrors += 1;
    this.#close(session, CloseReason.PROTOCOL, 0, code, `expected ${wanted}`);
  }

  #close(
    session: AgentSession,
    reason: CloseReason,
    retryAfterMs: number,
    code: (typeof status)[keyof typeof status],
    details: string,
  ): void {
    session.close(
      reason,
      retryAfterMs,
      code,
      details,
      this.#clock.monotonicMs(),
      this.#clock.unixMs(),
    );
    this.#forget(session);
  }

  /** From now on nobody finds this session; its stream may still be ending. */
  #forget(session: AgentSession): void {
    this.#policies.forget(session);
    this.#paused.delete(session);
    if (this.#byAgent.get(session.identity.agentId) === session) {
      this.#byAgent.delete(session.identity.agentId);
      this.counters.sessionsClosed += 1;
    }
  }

  #remove(session: AgentSession): void {
    this.#forget(session);
    session.state = 'gone';
    this.#all.delete(session);
  }

  // The clock

  #tick(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const session of this.#paused) {
      this.#refill(session, nowMs);
      if (session.credit > 0 && session.state === 'open') {
        this.#paused.delete(session);
        session.call.resume();
      }
    }
    this.#line.move();
    this.#policies.flush();
    if (nowMs - this.#lastSecondMs < 1_000) return;
    this.#lastSecondMs = nowMs;
    void this.#revocations.poll();
    if (nowMs - this.#lastBatchMs >= limits.gatewayTickMs - tickMs) this.#beats.tick();
    this.#listen(nowMs);
    this.#walk(nowMs, this.#clock.unixMs());
    this.#revocations.forgetOld();
    this.#policies.tick(this.#byAgent.values());
  }

  #listen(nowMs: number): void {
    const deaf = this.#hearing.isDeaf(nowMs);
    if (deaf === this.#deaf) return;
    this.#deaf = deaf;
    this.#warn(deaf ? 'nothing is being recorded: agents are sent away' : 'recording again', {
      silentForMs: Math.round(this.#hearing.silentForMs(nowMs)),
    });
    if (!deaf) return;
    for (const session of this.#byAgent.values()) {
      session.deadlineMs = Math.min(
        session.deadlineMs,
        nowMs + Math.floor(this.#random() * deafSpreadMs),
      );
    }
  }

  #walk(nowMs: number, nowUnixMs: number): void {
    for (const session of this.#all) {
      if (session.isLive && nowUnixMs >= session.identity.notAfterMs) this.#expire(session);
      if (nowMs < session.deadlineMs) continue;
      switch (session.state) {
        case 'greeting':
          this.#wrong(session, 'hello within ten seconds', status.FAILED_PRECONDITION);
          break;
        case 'admitting':
          this.#refuseNow(session);
          break;
        case 'open':
          if (this.#deaf) this.#refuseNow(session);
          else {
            this.#close(
              session,
              CloseReason.DRAINING,
              Math.ceil(this.#random() * 2_000),
              status.UNAVAILABLE,
              'the session is old: reopen it',
            );
          }
          break;
        default:
          session.peer.disconnect();
          this.#remove(session);
      }
    }
  }
}

function policySet(version: number | null) {
  return version === null ? undefined : { version, digest: '' };
}

function ignore(): void {}
const noBytes = Buffer.alloc(0);

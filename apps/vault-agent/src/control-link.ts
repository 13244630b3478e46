/**
 * The agent's end of the agent link. Keeps one session with the control plane, whatever happens to
 * it, and never ends the process: without a control plane the agent goes on and its events wait.
 *
 * Cast: {@link SessionConnection} is one stream; {@link Contact} keeps the account of being heard;
 * {@link DurableQueue} holds what must not be lost; {@link IdentityStore} holds who we are.
 *
 * Guarantees: an event leaves the queue only by its receipt; a renewed certificate replaces the old
 * one only after a session was opened with it; retries are spread, and the server's own delay is
 * kept to the letter, up to an hour.
 */
import { X509Certificate } from 'node:crypto';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import {
  MessageType,
  type PolicySet,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  type AgentMessage,
  type AgentPayload,
  type AssignPolicySet,
  CloseReason,
  type Command,
  CommandOutcome,
  ContactLossReason,
  type ControlPayload,
  Degradation,
  Goodbye_Reason,
  Health,
  type HostFacts,
  type PolicySetChunk,
  type Welcome,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { type Endpoint, SessionConnection } from '@keystead/agent-protocol/link-client';
import { appendSignature, hasValidSignature } from '@keystead/agent-protocol/message-signature';
import { commandSignerUri, verifiedSigner } from '@keystead/agent-protocol/policy-set-signature';
import {
  encodeAgentMessage,
  protocolVersion,
  type ReceivedControlMessage,
} from '@keystead/agent-protocol/services';
import type { Logger } from 'pino';
import { Contact, type ContactNote, type Instant, type LossReason } from './contact.ts';
import type { DurableQueue, EventKind } from './durable-queue.ts';
import type { ProcessGauges } from './host.ts';
import type { Identity, IdentityStore } from './identity-store.ts';
import {
  clockJumpMs,
  nextBeatMs,
  nextRetryMs,
  refusedRetryMs,
  renewalDueMs,
  supersededRetryMs,
  toldDelayMs,
} from './pace.ts';
import type { HeldPolicies } from './policies/held-policies.ts';
import { PolicyDownload } from './policies/policy-download.ts';
import type { Circuit } from './store/store-breaker.ts';

type Content = NonNullable<AgentPayload['content']>;
type Action = NonNullable<Command['action']>;

/**
 * What carries a command out, by what it asks for; the answer follows when it has. A command comes again
 * until the control plane has heard what became of it, so each is safe to be carried out twice.
 */
export type CommandHandlers = {
  [Case in Action['$case']]?: (action: Extract<Action, { $case: Case }>) => Promise<CommandOutcome>;
};

/** What the local health page says about the control plane. */
export type LinkState =
  | 'connecting'
  | 'connected'
  | 'disconnected'
  | 'revoked'
  | 'expired'
  | 'superseded'
  | 'stopped';

export interface ControlLinkOptions {
  endpoint: Endpoint;
  identities: IdentityStore;
  queue: DurableQueue;
  vaultId: string;
  bootId: string;
  agentVersion: string;
  configurationDigest: string;
  host: HostFacts;
  gauges: ProcessGauges;
  policies: HeldPolicies;
  /** What the vault can be told to do besides. */
  handlers?: CommandHandlers;
  log: Logger;
  startedAtUnixMs: number;
  firstIntervalMs: number;
  now: () => Instant;
  random: () => number;
}

const welcomeWithinMs = 15_000;
const receiptWithinMs = 20_000;
const goodbyeWithinMs = 1_200;
/** A part that was asked for and does not come in this time is given up; the set is offered again. */
const partWithinMs = 30_000;
const renewalWithinMs = 30_000;
const renewalRetryMs = 10 * 60_000;
const skewMs = 60_000;
const tickMs = 1_000;

const lossReasons: Record<LossReason, ContactLossReason> = {
  stream_ended: ContactLossReason.STREAM_ENDED,
  no_answer: ContactLossReason.NO_ANSWER,
  not_recorded: ContactLossReason.NOT_RECORDED,
  unreachable: ContactLossReason.UNREACHABLE,
  refused: ContactLossReason.REFUSED,
};

interface WaitingDraft {
  policySet: PolicySet;
  totalBytes: number;
  done: (content: Buffer | undefined) => void;
}

interface Download {
  /** The command, or the draft that it is. */
  of: number | WaitingDraft;
  parts: PolicyDownload;
  askedAtMs: number;
}

interface Session {
  connection: SessionConnection;
  identity: Identity;
  /** Opened with the renewed certificate that has to prove itself. */
  isProof: boolean;
  welcome: Welcome | undefined;
  openedAtMs: number;
  closedBy: { reason: CloseReason; retryAfterMs: number } | undefined;
  /** Position of the last event that was sent, and when the oldest unreceipted one was. */
  sentPosition: number;
  inFlight: number;
  sentAtMs: number;
  goodbye: (() => void) | undefined;
  /** The set that is being fetched, and the command that named it; or a draft, and who waits for it. */
  download: Download | undefined;
  /** Drafts that wait until nothing else is fetched. */
  drafts: WaitingDraft[];
}

export class ControlLink {
  readonly #options: ControlLinkOptions;
  readonly #log: Logger;
  readonly #contact: Contact;
  #session: Session | undefined;
  #state: LinkState = 'connecting';
  #stateSinceUnixMs: number;
  #reason = '';
  #failures = 0;
  #intervalMs: number;
  #beatNumber = 0;
  #outstanding: { number: number; sentAtMs: number } | undefined;
  #roundTripMs = 0;
  #answerDeadlineMs = 10_000;
  #beatTimer: NodeJS.Timeout | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #tickTimer: NodeJS.Timeout | undefined;
  #lastTick: Instant;
  #skewed = false;
  #renewalDueUnixMs = 0;
  #renewal: { key: Awaited<ReturnType<typeof generateAgentKey>>; askedAtMs: number } | undefined;
  #stopping = false;
  readonly counters = {
    heartbeatsSent: 0,
    heartbeatsRecorded: 0,
    heartbeatsNotRecorded: 0,
    heartbeatsUnanswered: 0,
    eventsSent: 0,
    eventsReceipted: 0,
    sessionsOpened: 0,
    attemptsFailed: 0,
    certificatesRenewed: 0,
  };

  constructor(options: ControlLinkOptions) {
    this.#options = options;
    this.#log = options.log;
    const now = options.now();
    this.#contact = new Contact(now);
    this.#stateSinceUnixMs = now.unixMs;
    this.#intervalMs = options.firstIntervalMs;
    this.#lastTick = now;
  }

  /**
   * The pauses between attempts are its breaker: one attempt at a time tries whether it is back, and
   * a recorded beat says that it is.
   */
  get circuit(): Circuit {
    const isRefused = ['revoked', 'expired', 'superseded'].includes(this.#state);
    if (this.#failures === 0 && !isRefused) return 'closed';
    return this.#session === undefined ? 'open' : 'half-open';
  }

  get status() {
    const { current, pending } = this.#options.identities;
    return {
      state: this.#state,
      circuit: this.circuit,
      since: new Date(this.#stateSinceUnixMs).toISOString(),
      reason: this.#reason === '' ? null : this.#reason,
      lastContactAt: isoOrNull(this.#contact.lastContactUnixMs),
      contactLost: this.#contact.isLost,
      heartbeatIntervalMs: this.#intervalMs,
      roundTripMs: this.#roundTripMs,
      policySetVersion: this.#options.policies.held?.version ?? null,
      certificate: {
        serialNumber: current.serialNumber,
        notBefore: new Date(current.notBeforeMs).toISOString(),
        expiresAt: new Date(current.notAfterMs).toISOString(),
        renewalPending: pending !== undefined,
      },
    };
  }

  get degradations(): Degradation[] {
    const found: Degradation[] = [];
    const { queue, identities } = this.#options;
    if (queue.isFull) found.push(Degradation.QUEUE_FULL);
    const { notBeforeMs, notAfterMs } = identities.current;
    const overdueMs = notBeforeMs + (notAfterMs - notBeforeMs) * 0.75;
    if (this.#options.now().unixMs > overdueMs) found.push(Degradation.RENEWAL_OVERDUE);
    if (this.#skewed) found.push(Degradation.CLOCK_SKEWED);
    return found;
  }

  start(): void {
    this.#planRenewal();
    this.#tickTimer = setInterval(() => this.#tick(), tickMs);
    this.#connect();
  }

  /** Writes an event down and sends it as soon as there is a session. */
  record(kind: EventKind): void {
    try {
      this.#options.queue.append(kind, this.#options.now().unixMs);
    } catch (error) {
      this.#log.error({ error: String(error) }, 'an event could not be written down');
    }
    this.#sendEvents();
  }

  /** Sends what others wrote down. */
  wake(): void {
    this.#sendEvents();
  }

  /** Says goodbye where there is somebody to say it to; resolves within two seconds. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#tickTimer);
    clearTimeout(this.#beatTimer);
    clearTimeout(this.#retryTimer);
    const session = this.#session;
    if (session?.welcome !== undefined) {
      this.#sendEvents();
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, goodbyeWithinMs);
        session.goodbye = () => {
          clearTimeout(timer);
          resolve();
        };
        this.#send(session, MessageType.NOTIFICATION, {
          $case: 'goodbye',
          value: { reason: Goodbye_Reason.STOPPED },
        });
        session.connection.stream.end();
      });
    }
    session?.connection.close();
    this.#session = undefined;
    this.#become('stopped', '');
  }

  // One session after another

  #connect(): void {
    if (this.#stopping) return;
    const { identities, endpoint } = this.#options;
    const nowMs = this.#options.now().monotonicMs;
    const isProof = identities.pending !== undefined;
    const identity = identities.pending ?? identities.current;
    let connection: SessionConnection;
    try {
      connection = new SessionConnection(endpoint, identity.trust);
    } catch (error) {
      this.#failed(
        'unreachable',
        String(error),
        nextRetryMs(this.#failures, this.#options.random()),
      );
      return;
    }
    const session: Session = {
      connection,
      identity,
      isProof,
      welcome: undefined,
      openedAtMs: nowMs,
      closedBy: undefined,
      sentPosition: 0,
      inFlight: 0,
      sentAtMs: nowMs,
      goodbye: undefined,
      download: undefined,
      drafts: [],
    };
    this.#session = session;
    this.#outstanding = undefined;
    const { stream } = connection;
    stream.on('data', (received: ReceivedControlMessage) => this.#receive(session, received));
    stream.on('error', ignore);
    stream.on('status', ({ code, details }: { code: number; details: string }) =>
      this.#ended(session, code, details),
    );
    const { agentVersion, host, configurationDigest, startedAtUnixMs, queue } = this.#options;
    this.#send(session, MessageType.REGISTRATION, {
      $case: 'hello',
      value: {
        agentVersion,
        host,
        policySet: this.#options.policies.held,
        configurationDigest,
        startedAtUnixMs,
        queuedMessages: queue.waiting,
      },
    });
  }

  #ended(session: Session, code: number, details: string): void {
    session.goodbye?.();
    // Nobody waits for what this session was asked: it is asked for again.
    const { of } = session.download ?? {};
    for (const draft of [typeof of === 'object' ? of : undefined, ...session.drafts]) {
      draft?.done(undefined);
    }
    session.drafts = [];
    if (this.#session !== session) return;
    this.#session = undefined;
    session.connection.close();
    clearTimeout(this.#beatTimer);
    if (this.#stopping) return;
    const { random } = this.#options;
    const { reason, retryAfterMs } = session.closedBy ?? { reason: 0, retryAfterMs: 0 };
    const delayMs = toldDelayMs(retryAfterMs);
    if (session.isProof && code === unauthenticated) {
      this.#log.error({ details }, 'the renewed certificate was refused: the old one stays');
      this.#options.identities.dropPending();
      this.#renewalDueUnixMs = this.#options.now().unixMs + renewalRetryMs;
      this.#retry(nextRetryMs(0, random()));
      return;
    }
    if (reason === CloseReason.REVOKED || code === unauthenticated) {
      const expired =
        reason === CloseReason.EXPIRED || this.#options.now().unixMs >= session.identity.notAfterMs;
      this.#refused(expired ? 'expired' : 'revoked', details);
      return;
    }
    if (reason === CloseReason.SUPERSEDED) {
      this.#become('superseded', 'another process opened a session with this identity');
      this.#log.warn('another process opened a session with this identity');
      this.#retry(supersededRetryMs(random()));
      return;
    }
    if (reason === CloseReason.BUSY || reason === CloseReason.DRAINING) {
      // Asked to come back in a while: that is an answer, not a loss.
      const backInMs = delayMs ?? nextRetryMs(1, random());
      this.#become('disconnected', details);
      this.#log.info({ backInMs }, 'the control plane asks to come back later');
      this.#retry(backInMs);
      return;
    }
    if (session.welcome !== undefined) {
      this.#become('disconnected', details || 'the session ended');
      this.#log.info({ code, details, delayMs }, 'the session ended');
      // A recorded beat sets this back: a session that only ever opens is no contact.
      this.#failures += 1;
      this.#retry(delayMs ?? nextRetryMs(this.#failures, random()));
      return;
    }
    this.#failed(
      code === unavailable ? 'unreachable' : 'stream_ended',
      details,
      delayMs ?? nextRetryMs(this.#failures, random()),
    );
  }

  #failed(reason: 'unreachable' | 'stream_ended', details: string, delayMs: number): void {
    this.#failures += 1;
    this.counters.attemptsFailed += 1;
    this.#account(this.#contact.attemptFailed(reason));
    this.#become('disconnected', details);
    // The first failures and then every so often: an outage of hours is not a log of megabytes.
    if (this.#failures <= 3 || this.#failures % 20 === 0) {
      this.#log.warn(
        { attempt: this.#failures, details, delayMs },
        'no contact with the control plane',
      );
    }
    this.#retry(delayMs);
  }

  #refused(state: 'revoked' | 'expired', details: string): void {
    this.counters.attemptsFailed += 1;
    this.#account(this.#contact.attemptFailed('refused'));
    if (this.#state !== state) {
      this.#log.error(
        { details },
        state === 'revoked'
          ? 'the control plane refuses this certificate: it was revoked, or the agent or vault was deleted; serving locally; enrol again to come back'
          : 'the certificate expired before it was renewed; serving locally; enrol again to come back',
      );
    }
    this.#become(state, details);
    this.#retry(refusedRetryMs(this.#options.random()));
  }

  #retry(delayMs: number): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#connect(), delayMs);
  }

  #become(state: LinkState, reason: string): void {
    this.#reason = reason;
    if (this.#state === state) return;
    this.#state = state;
    this.#stateSinceUnixMs = this.#options.now().unixMs;
  }

  // Receiving

  #receive(session: Session, { message, bytes }: ReceivedControlMessage): void {
    const content = message.payload?.content;
    if (content === undefined) return;
    switch (content.$case) {
      case 'welcome':
        this.#welcomed(session, content.value);
        return;
      case 'heartbeatAnswer':
        this.#answered(session, content.value, message.timestampUnixMs);
        return;
      case 'receipt':
        this.#receipted(session, content.value);
        return;
      case 'certificateIssued':
        this.#renewed(session, content.value.certificateChain);
        return;
      case 'renewalRefused':
        this.#renewal = undefined;
        this.#renewalDueUnixMs =
          this.#options.now().unixMs +
          Math.max(60_000, toldDelayMs(content.value.retryAfterMs) ?? 0);
        this.#log.warn({ reason: content.value.reason }, 'the renewal was not granted');
        return;
      case 'command':
        this.#command(session, content.value, message.vaultId, bytes);
        return;
      case 'policySetChunk':
        this.#arrived(session, content.value);
        return;
      case 'close':
        session.closedBy = content.value;
        // The server ends the stream right after; if it cannot, we do.
        setTimeout(() => session.connection.stream.cancel(), 2_000).unref();
        return;
    }
  }

  #welcomed(session: Session, welcome: Welcome): void {
    session.welcome = welcome;
    this.counters.sessionsOpened += 1;
    this.#intervalMs = clampInterval(welcome.heartbeatIntervalMs, this.#intervalMs);
    if (welcome.answerDeadlineMs > 0) this.#answerDeadlineMs = welcome.answerDeadlineMs;
    this.#skewed = Math.abs(welcome.serverTimeUnixMs - this.#options.now().unixMs) > skewMs;
    this.#become('connected', '');
    this.#log.info(
      { heartbeatIntervalMs: this.#intervalMs },
      'a session with the control plane is open',
    );
    if (session.isProof) this.#proved(session.identity);
    this.#beat();
    this.#sendEvents();
  }

  // Heartbeats

  #beat(): void {
    clearTimeout(this.#beatTimer);
    const session = this.#session;
    if (session?.welcome === undefined || this.#stopping) return;
    this.#beatTimer = setTimeout(
      () => this.#beat(),
      nextBeatMs(this.#intervalMs, this.#options.random()),
    );
    this.#beatNumber += 1;
    this.counters.heartbeatsSent += 1;
    const sentAtMs = this.#options.now().monotonicMs;
    this.#outstanding ??= { number: this.#beatNumber, sentAtMs };
    const degradations = this.degradations;
    this.#send(session, MessageType.HEARTBEAT, {
      $case: 'heartbeat',
      value: {
        number: this.#beatNumber,
        health: degradations.length === 0 ? Health.HEALTHY : Health.DEGRADED,
        degradations,
        metrics: {
          ...this.#options.gauges.read(),
          queuedMessages: this.#options.queue.waiting,
          refusedEvents: this.#options.queue.refused,
          roundTripMs: this.#roundTripMs,
        },
        policySet: this.#options.policies.held,
      },
    });
  }

  #answered(
    session: Session,
    answer: Extract<NonNullable<ControlPayload['content']>, { $case: 'heartbeatAnswer' }>['value'],
    toldMs: number,
  ): void {
    if (this.#session !== session) return;
    const now = this.#options.now();
    const { number, recorded, heartbeatIntervalMs } = answer;
    if (this.#outstanding !== undefined && number >= this.#outstanding.number) {
      this.#roundTripMs = Math.max(1, Math.round(now.monotonicMs - this.#outstanding.sentAtMs));
      this.#outstanding =
        number < this.#beatNumber ? { number: number + 1, sentAtMs: now.monotonicMs } : undefined;
    }
    if (recorded) {
      this.#options.policies.heard(toldMs);
      this.counters.heartbeatsRecorded += 1;
      this.#failures = 0;
      this.#account(this.#contact.recorded(now));
    } else {
      this.counters.heartbeatsNotRecorded += 1;
      this.#account(this.#contact.notRecorded(now, this.#intervalMs));
    }
    if (heartbeatIntervalMs > 0) {
      const intervalMs = clampInterval(heartbeatIntervalMs, this.#intervalMs);
      if (intervalMs < this.#intervalMs) {
        // A shorter pace holds from now on, not after one more long wait.
        clearTimeout(this.#beatTimer);
        this.#beatTimer = setTimeout(
          () => this.#beat(),
          nextBeatMs(intervalMs, this.#options.random()),
        );
      }
      this.#intervalMs = intervalMs;
      this.#log.info({ heartbeatIntervalMs: intervalMs }, 'the pace of heartbeats changed');
    }
  }

  #account(note: ContactNote | undefined): void {
    if (note === undefined) return;
    if (note.kind === 'lost') {
      const { lastContactUnixMs, reason } = note;
      this.#log.warn({ reason, lastContactAt: isoOrNull(lastContactUnixMs) }, 'contact lost');
      this.record({
        $case: 'contactLost',
        value: { lastContactUnixMs, reason: lossReasons[reason] },
      });
    } else {
      const { kind: _kind, reason, ...account } = note;
      this.#log.info({ ...account, reason }, 'contact regained');
      this.record({
        $case: 'contactRegained',
        value: { ...account, reason: lossReasons[reason] },
      });
    }
  }

  // Events

  #sendEvents(): void {
    const session = this.#session;
    if (session?.welcome === undefined) return;
    const window = Math.max(1, session.welcome.retainedWindow);
    const free = window - session.inFlight;
    if (free <= 0) return;
    for (const waiting of this.#options.queue.after(session.sentPosition, free)) {
      if (session.inFlight === 0) session.sentAtMs = this.#options.now().monotonicMs;
      session.sentPosition = waiting.position;
      session.inFlight += 1;
      this.counters.eventsSent += 1;
      const { event, bootId, sequence } = waiting;
      this.#send(
        session,
        MessageType.NOTIFICATION,
        { $case: 'event', value: event },
        {
          bootId,
          sequence,
        },
      );
    }
  }

  #receipted(session: Session, receipt: { bootId: string; sequences: number[] }): void {
    this.#options.queue.receipt(receipt.bootId, receipt.sequences, this.#options.now().unixMs);
    this.counters.eventsReceipted += receipt.sequences.length;
    session.inFlight = Math.max(0, session.inFlight - receipt.sequences.length);
    session.sentAtMs = this.#options.now().monotonicMs;
    if (this.#session === session) this.#sendEvents();
  }

  // Renewal

  #planRenewal(): void {
    const { notBeforeMs, notAfterMs } = this.#options.identities.current;
    this.#renewalDueUnixMs = renewalDueMs(notBeforeMs, notAfterMs, this.#options.random());
  }

  async #renew(session: Session): Promise<void> {
    const key = await generateAgentKey();
    if (this.#session !== session || this.#renewal !== undefined) return;
    this.#renewal = { key, askedAtMs: this.#options.now().monotonicMs };
    this.#send(session, MessageType.REGISTRATION, {
      $case: 'renewalRequest',
      value: { certificateRequest: createCertificateRequest(key) },
    });
  }

  #renewed(session: Session, certificateChain: Buffer[]): void {
    const renewal = this.#renewal;
    this.#renewal = undefined;
    if (renewal === undefined) return;
    try {
      this.#options.identities.keepPending(renewal.key, certificateChain);
    } catch (error) {
      this.#log.error({ error: String(error) }, 'the new certificate is not usable');
      this.#renewalDueUnixMs = this.#options.now().unixMs + renewalRetryMs;
      return;
    }
    // The new certificate proves itself by a session; the newest stream wins, so the old one may
    // end as it likes.
    this.#session = undefined;
    clearTimeout(this.#beatTimer);
    this.#send(session, MessageType.NOTIFICATION, {
      $case: 'goodbye',
      value: { reason: Goodbye_Reason.RECONNECTING },
    });
    session.connection.stream.end();
    setTimeout(() => session.connection.close(), 2_000).unref();
    this.#connect();
  }

  #proved(identity: Identity): void {
    const { identities } = this.#options;
    const previous = identities.current.serialNumber;
    identities.promote();
    this.counters.certificatesRenewed += 1;
    this.#planRenewal();
    this.#log.info(
      {
        serialNumber: identity.serialNumber,
        expiresAt: new Date(identity.notAfterMs).toISOString(),
      },
      'the certificate was renewed',
    );
    this.record({
      $case: 'certificateRenewed',
      value: {
        previousSerial: previous,
        serial: identity.serialNumber,
        notAfterUnixMs: identity.notAfterMs,
      },
    });
  }

  // Commands

  #command(session: Session, command: Command, vaultId: string, bytes: Buffer): void {
    const isForUs = vaultId === this.#options.vaultId;
    const outcome = isForUs
      ? this.#carryOut(session, command, bytes)
      : this.#refuseCommand(command, "another vault's");
    // A set that has to be fetched is answered when it decides, or when it does not.
    if (outcome !== undefined) this.#answerCommand(session, command.number, outcome);
  }

  #answerCommand(session: Session, number: number, outcome: CommandOutcome): void {
    this.#send(session, MessageType.POLICY_UPDATE, {
      $case: 'commandAnswer',
      value: { number, outcome },
    });
  }

  #carryOut(session: Session, command: Command, bytes: Buffer): CommandOutcome | undefined {
    const { queue } = this.#options;
    if (!this.#isOurs(session, command, bytes)) return this.#refuseCommand(command, 'not signed');
    if (command.number <= queue.lastCommand) return this.#refuseCommand(command, 'an old one');
    let outcome: CommandOutcome | undefined = CommandOutcome.DONE;
    switch (command.action?.$case) {
      case 'assignPolicySet':
        outcome = this.#fetch(session, command.number, command.action.value);
        break;
      case 'renewCertificate':
        this.#renewalDueUnixMs = 0;
        break;
      default: {
        const handled = this.#handle(command);
        if (handled === undefined) return CommandOutcome.UNSUPPORTED;
        outcome = undefined;
        void handled.then((done) => this.#answerCommand(session, command.number, done));
      }
    }
    queue.lastCommand = command.number;
    this.#log.info(
      { number: command.number, action: command.action?.$case },
      'a command was accepted',
    );
    return outcome;
  }

  #refuseCommand({ number }: Command, reason: string): CommandOutcome {
    this.#log.warn({ number, reason }, 'a command was refused');
    return CommandOutcome.REFUSED;
  }

  /** Undefined where this agent has no word for it. */
  #handle({ action }: Command): Promise<CommandOutcome> | undefined {
    const handler = action && this.#options.handlers?.[action.$case];
    if (handler === undefined) return undefined;
    const carryOut = handler as (given: Action) => Promise<CommandOutcome>;
    return carryOut(action as Action).catch((error: unknown) => {
      this.#log.error({ err: error, action: action?.$case }, 'a command could not be carried out');
      return CommandOutcome.FAILED;
    });
  }

  // Policy sets

  #fetch(session: Session, command: number, offer: AssignPolicySet): CommandOutcome | undefined {
    const { held } = this.#options.policies;
    if (held !== undefined && held.digest === offer.policySet?.digest) return CommandOutcome.DONE;
    const parts = new PolicyDownload(offer);
    if (parts.isTooLarge) return CommandOutcome.REFUSED;
    // A newer command takes the place of one that is being followed, which is answered all the same.
    this.#putAside(session);
    session.download = { of: command, parts, askedAtMs: 0 };
    this.#ask(session);
    return undefined;
  }

  /** A draft, by its digest, while the session lasts; a set that is to decide goes first. */
  fetchDraft(policySet: PolicySet, totalBytes: number): Promise<Buffer | undefined> {
    const session = this.#session;
    if (session?.welcome === undefined) return Promise.resolve(undefined);
    return new Promise((done) => {
      session.drafts.push({ policySet, totalBytes, done });
      this.#fetchNextDraft(session);
    });
  }

  #fetchNextDraft(session: Session): void {
    if (session.download !== undefined) return;
    const draft = session.drafts.shift();
    if (draft === undefined) return;
    const { policySet, totalBytes } = draft;
    const parts = new PolicyDownload({
      policySet,
      totalBytes,
      signature: Buffer.alloc(0),
      signerChain: [],
    });
    session.download = { of: draft, parts, askedAtMs: 0 };
    this.#ask(session);
  }

  /** Makes way for a set: a draft is fetched anew afterwards. */
  #putAside(session: Session): void {
    const of = session.download?.of;
    if (typeof of === 'object') {
      session.drafts.unshift(of);
      session.download = undefined;
    } else this.#giveUpDownload(session);
  }

  #ask(session: Session): void {
    const { download } = session;
    if (download === undefined) return;
    download.askedAtMs = this.#options.now().monotonicMs;
    this.#send(session, MessageType.POLICY_UPDATE, {
      $case: 'policySetRequest',
      value: download.parts.request,
    });
  }

  #arrived(session: Session, chunk: PolicySetChunk): void {
    const { download, drafts } = session;
    // Of a draft that was put aside.
    const isLate = drafts.some(({ policySet }) => policySet.digest === chunk.policySet?.digest);
    if (download === undefined || isLate) return;
    const step = download.parts.add(chunk);
    if (step.is === 'more') {
      this.#ask(session);
      return;
    }
    if (step.is === 'lost') {
      this.#giveUpDownload(session);
      this.#fetchNextDraft(session);
      return;
    }
    session.download = undefined;
    this.#fetchNextDraft(session);
    const { of: command } = download;
    if (typeof command === 'object') {
      command.done(step.arrived.content);
      return;
    }
    void this.#options.policies.receive(step.arrived).then(
      (receipt) => {
        const outcome = receipt.outcome === 'active' ? CommandOutcome.DONE : CommandOutcome.REFUSED;
        this.#answerCommand(session, command, outcome);
        this.#sendEvents();
        if (this.#session === session) this.#beat();
      },
      (error: unknown) => {
        this.#log.error({ err: error }, 'a policy set could not be taken');
        this.#answerCommand(session, command, CommandOutcome.FAILED);
      },
    );
  }

  #giveUpDownload(session: Session): void {
    const { download } = session;
    session.download = undefined;
    if (download === undefined) return;
    if (typeof download.of === 'object') {
      download.of.done(undefined);
    } else {
      this.#log.warn({ number: download.of }, 'a policy set did not arrive whole');
      this.#answerCommand(session, download.of, CommandOutcome.FAILED);
    }
  }

  /** Signed by a certificate for commands of our trust domain, below the root that we pin. */
  #isOurs(session: Session, command: Command, bytes: Buffer): boolean {
    try {
      const { trust, leaf } = session.identity;
      const chain = trust.identity?.certificateChain ?? '';
      const ownIssuer = new X509Certificate(chain.split(certificateEnd)[1] + certificateEnd);
      const [, trustDomain = ''] =
        /^URI:spiffe:\/\/([^/]+)\//.exec(leaf.subjectAltName ?? '') ?? [];
      const issuer =
        command.signerIssuer.length > 0 ? command.signerIssuer : Buffer.from(ownIssuer.raw);
      const signer = verifiedSigner([command.signerCertificate, issuer], {
        uri: commandSignerUri(trustDomain),
        root: new X509Certificate(trust.root),
        nowMs: this.#options.now().unixMs,
      });
      return signer !== undefined && hasValidSignature(bytes, signer.publicKey);
    } catch {
      return false;
    }
  }

  // The clock

  #tick(): void {
    const now = this.#options.now();
    const jumpMs = clockJumpMs(
      now.unixMs - this.#lastTick.unixMs,
      now.monotonicMs - this.#lastTick.monotonicMs,
    );
    this.#lastTick = now;
    if (jumpMs !== 0) {
      this.#log.warn({ jumpMs }, 'the clock jumped');
      this.record({ $case: 'clockJumped', value: { jumpMs } });
    }
    this.#options.policies.tick();
    const session = this.#session;
    if (session === undefined) return;
    const { download } = session;
    if (download !== undefined && now.monotonicMs - download.askedAtMs > partWithinMs) {
      this.#giveUpDownload(session);
      this.#fetchNextDraft(session);
    }
    if (session.welcome === undefined) {
      if (now.monotonicMs - session.openedAtMs > welcomeWithinMs) {
        this.#giveUp(session, 'no welcome within 15 s');
      }
      return;
    }
    if (
      this.#outstanding !== undefined &&
      now.monotonicMs - this.#outstanding.sentAtMs > this.#answerDeadlineMs
    ) {
      this.counters.heartbeatsUnanswered += 1;
      this.#account(this.#contact.unanswered());
      this.#giveUp(session, 'a heartbeat was not answered in time');
      return;
    }
    if (session.inFlight > 0 && now.monotonicMs - session.sentAtMs > receiptWithinMs) {
      // Without a receipt the events go out again, as they are.
      session.sentPosition = 0;
      session.inFlight = 0;
      this.#sendEvents();
    }
    if (
      this.#renewal !== undefined &&
      now.monotonicMs - this.#renewal.askedAtMs > renewalWithinMs
    ) {
      this.#renewal = undefined;
      this.#renewalDueUnixMs = now.unixMs + 60_000;
    }
    const { pending } = this.#options.identities;
    if (
      now.unixMs >= this.#renewalDueUnixMs &&
      this.#renewal === undefined &&
      pending === undefined
    ) {
      void this.#renew(session);
    }
  }

  #giveUp(session: Session, details: string): void {
    session.connection.close();
    this.#ended(session, unavailable, details);
  }

  #send(
    session: Session,
    messageType: MessageType,
    content: Content,
    retained?: { bootId: string; sequence: number },
  ): void {
    const message: AgentMessage = {
      version: protocolVersion,
      timestampUnixMs: this.#options.now().unixMs,
      vaultId: this.#options.vaultId,
      messageType,
      payload: { encrypted: false, metadataOnly: true, content },
      offlineCapable: retained !== undefined,
      bootId: retained?.bootId ?? this.#options.bootId,
      sequence: retained?.sequence ?? 0,
      signature: noSignature,
    };
    const encoded = encodeAgentMessage(message);
    session.connection.stream.write(
      retained === undefined ? encoded : appendSignature(encoded, session.identity.privateKey),
    );
  }
}

const unavailable = 14;
const unauthenticated = 16;
const noSignature = Buffer.alloc(0);
const certificateEnd = '-----END CERTIFICATE-----\n';

/** A server cannot make an agent flood it, nor fall silent for ever. */
function clampInterval(toldMs: number, currentMs: number): number {
  return toldMs === 0 ? currentMs : Math.min(Math.max(toldMs, 500), 3_600_000);
}

function isoOrNull(unixMs: number | undefined): string | null {
  return unixMs === undefined || unixMs === 0 ? null : new Date(unixMs).toISOString();
}

function ignore(): void {}

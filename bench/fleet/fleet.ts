/**
 * A simulated fleet: many agents in one process, each with its own mTLS connection, certificate,
 * boot id and stream. They greet, beat at the pace they are told, come back after a Close or a lost
 * connection, and count everything. No store, no local server: what is measured is the other end.
 */
import { randomUUID } from 'node:crypto';
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  AgentMessage,
  type AgentPayload,
  CloseReason,
  ControlMessage,
  Goodbye_Reason,
  Health,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { FleetIdentity } from './identities.ts';
import { RawSession } from './raw-session.ts';

type Content = NonNullable<AgentPayload['content']>;

export interface FleetOptions {
  host: string;
  port: number;
  /** PEM of the pinned root. */
  root: string;
  /** `paced`: at the told interval ±10 %. `closed`: the next beat as soon as one is answered. */
  beats: 'paced' | 'closed' | 'none';
  /** Come back after a lost connection or a Close, as agents do. */
  reconnect: boolean;
  random?: () => number;
  /** A beat was answered: who, whether it was recorded, and after how long. */
  onAnswer?: (agent: FleetAgent, recorded: boolean, elapsedMs: number) => void;
}

export interface FleetCounters {
  connectionsOpened: number;
  welcomed: number;
  closed: number;
  refused: number;
  beatsSent: number;
  beatsRecorded: number;
  beatsNotRecorded: number;
}

/** Latencies of the last million answers, in ms. */
export class Latencies {
  readonly #samples = new Float64Array(1_000_000);
  #count = 0;

  add(elapsedMs: number): void {
    this.#samples[this.#count % this.#samples.length] = elapsedMs;
    this.#count += 1;
  }

  clear(): void {
    this.#count = 0;
  }

  read(): { count: number; p50Ms: number; p95Ms: number; p99Ms: number; maxMs: number } {
    const sorted = this.#samples.slice(0, Math.min(this.#count, this.#samples.length)).sort();
    const at = (share: number) =>
      sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
    return { count: this.#count, p50Ms: at(0.5), p95Ms: at(0.95), p99Ms: at(0.99), maxMs: at(1) };
  }
}

export class Fleet {
  readonly counters: FleetCounters = {
    connectionsOpened: 0,
    welcomed: 0,
    closed: 0,
    refused: 0,
    beatsSent: 0,
    beatsRecorded: 0,
    beatsNotRecorded: 0,
  };
  readonly latencies = new Latencies();
  readonly agents: FleetAgent[] = [];
  readonly options: FleetOptions;
  readonly random: () => number;

  constructor(options: FleetOptions) {
    this.options = options;
    this.random = options.random ?? Math.random;
  }

  /** Agents whose session is open. */
  get online(): number {
    let count = 0;
    for (const agent of this.agents) if (agent.isOnline) count += 1;
    return count;
  }

  /** Connects one agent per identity at a rate, and resolves when all were welcomed. */
  async connect(
    identities: FleetIdentity[],
    perSecond = 500,
    withinMs = 120_000,
  ): Promise<{ elapsedMs: number }> {
    const startedMs = performance.now();
    const added = identities.map((identity) => new FleetAgent(this, identity));
    this.agents.push(...added);
    let started = 0;
    while (started < added.length) {
      const due = Math.min(
        added.length,
        Math.floor(((performance.now() - startedMs) / 1_000) * perSecond) + 1,
      );
      for (; started < due; started += 1) added[started]?.start();
      await pause(5);
    }
    await this.until(() => added.every((agent) => agent.isOnline), withinMs);
    return { elapsedMs: performance.now() - startedMs };
  }

  /** Silences agents at once, without a goodbye or with one. Answers which. */
  stop(count: number, how: 'killed' | 'goodbye' = 'killed'): FleetAgent[] {
    const chosen = this.agents.filter((agent) => agent.isOnline).slice(0, count);
    for (const agent of chosen) agent.stop(how);
    return chosen;
  }

  /** Brings stopped agents back, as new runs. */
  restart(agents: FleetAgent[]): void {
    for (const agent of agents) agent.start();
  }

  async until(condition: () => boolean, withinMs: number): Promise<void> {
    const endMs = performance.now() + withinMs;
    while (!condition()) {
      if (performance.now() > endMs) {
        throw new Error(`not within ${withinMs} ms: ${JSON.stringify(this.counters)}`);
      }
      await pause(20);
    }
  }

  close(): void {
    for (const agent of this.agents) agent.stop('killed');
  }
}

export class FleetAgent {
  readonly identity: FleetIdentity;
  readonly #fleet: Fleet;
  #session: RawSession | undefined;
  #bootId = '';
  #number = 0;
  #sentAtMs = 0;
  #intervalMs = 30_000;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped = true;
  #welcomed = false;
  #retryAfterMs = 0;
  /** When the last beat was recorded, by performance.now(); 0 when none was. */
  lastRecordedMs = 0;

  constructor(fleet: Fleet, identity: FleetIdentity) {
    this.#fleet = fleet;
    this.identity = identity;
  }

  get isOnline(): boolean {
    return this.#welcomed;
  }

  get intervalMs(): number {
    return this.#intervalMs;
  }

  start(): void {
    this.#stopped = false;
    this.#bootId = randomUUID();
    this.#number = 0;
    this.#open();
  }

  stop(how: 'killed' | 'goodbye'): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    if (how === 'goodbye' && this.#welcomed) {
      this.#send(MessageType.NOTIFICATION, {
        $case: 'goodbye',
        value: { reason: Goodbye_Reason.STOPPED },
      });
      this.#session?.halfClose();
    } else this.#session?.destroy();
    this.#welcomed = false;
  }

  /** One beat now, whatever the pace. */
  beat(): void {
    this.#number += 1;
    this.#sentAtMs = performance.now();
    this.#fleet.counters.beatsSent += 1;
    this.#send(MessageType.HEARTBEAT, {
      $case: 'heartbeat',
      value: {
        number: this.#number,
        health: Health.HEALTHY,
        degradations: [],
        metrics: metrics,
        policySet: undefined,
      },
    });
    if (this.#fleet.options.beats === 'paced') this.#plan();
  }

  #plan(): void {
    clearTimeout(this.#timer);
    const delayMs = this.#intervalMs * (0.9 + 0.2 * this.#fleet.random());
    this.#timer = setTimeout(() => this.beat(), delayMs);
  }

  #open(): void {
    const { host, port, root } = this.#fleet.options;
    const { certificateChain, privateKey } = this.identity;
    this.#retryAfterMs = 0;
    this.#fleet.counters.connectionsOpened += 1;
    const session = new RawSession({
      host,
      port,
      root,
      certificateChain,
      privateKey,
      onMessage: (bytes) => this.#receive(bytes),
      onEnd: (status) => this.#ended(session, status),
    });
    this.#session = session;
    this.#send(MessageType.REGISTRATION, {
      $case: 'hello',
      value: {
        agentVersion: '0.1.0',
        host: {
          hostname: 'fleet',
          platform: 'linux',
          release: '0',
          architecture: 'x64',
          cpuCount: 1,
          memoryBytes: 1,
          runtime: process.version,
        },
        policySet: undefined,
        configurationDigest: '',
        startedAtUnixMs: Date.now(),
        queuedMessages: 0,
      },
    });
  }

  #receive(bytes: Buffer): void {
    const content = ControlMessage.decode(bytes).payload?.content;
    const { options, counters, latencies } = this.#fleet;
    switch (content?.$case) {
      case 'welcome':
        this.#welcomed = true;
        this.#failures = 0;
        counters.welcomed += 1;
        this.#intervalMs = content.value.heartbeatIntervalMs;
        if (options.beats !== 'none') this.beat();
        break;
      case 'heartbeatAnswer': {
        const elapsedMs = performance.now() - this.#sentAtMs;
        const { recorded, heartbeatIntervalMs } = content.value;
        if (recorded) {
          counters.beatsRecorded += 1;
          this.lastRecordedMs = performance.now();
        } else counters.beatsNotRecorded += 1;
        latencies.add(elapsedMs);
        options.onAnswer?.(this, recorded, elapsedMs);
        if (heartbeatIntervalMs > 0) {
          this.#intervalMs = heartbeatIntervalMs;
          if (options.beats === 'paced') this.#plan();
        }
        if (options.beats === 'closed' && !this.#stopped) this.beat();
        break;
      }
      case 'close':
        this.#retryAfterMs = content.value.retryAfterMs;
        if (content.value.reason === CloseReason.REVOKED) this.#stopped = true;
        break;
    }
  }

  #ended(session: RawSession, status: number | undefined): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    this.#welcomed = false;
    this.#fleet.counters.closed += 1;
    if (status === 16 || status === 7) this.#fleet.counters.refused += 1;
    clearTimeout(this.#timer);
    if (this.#stopped || !this.#fleet.options.reconnect) return;
    const bound = Math.min(15_000, 500 * 2 ** Math.min(this.#failures, 10));
    this.#failures += 1;
    const delayMs = this.#retryAfterMs > 0 ? this.#retryAfterMs : bound * this.#fleet.random();
    this.#timer = setTimeout(() => this.#open(), delayMs);
  }

  #send(messageType: MessageType, content: Content): void {
    this.#session?.send(
      AgentMessage.encode({
        version: '1.0',
        timestampUnixMs: Date.now(),
        vaultId: this.identity.vaultId,
        messageType,
        payload: { encrypted: false, metadataOnly: true, content },
        offlineCapable: false,
        bootId: this.#bootId,
        sequence: 0,
        signature: noSignature,
      }).finish(),
    );
  }
}

const noSignature = Buffer.alloc(0);
const metrics = {
  uptimeSeconds: 86_400,
  residentKibibytes: 90_000,
  cpuPermille: 12,
  queuedMessages: 0,
  refusedEvents: 0,
  eventLoopLagMs: 2,
  roundTripMs: 14,
};

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

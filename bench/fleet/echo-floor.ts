/**
 * The floor of the agent link: the same message over the same mTLS from the same clients, to a bare
 * grpc-js server in a process of its own that sends back what it gets.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { AgentMessage, Health } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { formatAgentUri } from '@keystead/agent-protocol/peer-identity';
import {
  generateKeys,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { spread } from '../report.ts';
import type { FleetIdentity } from './identities.ts';
import type { LinkServerOrder } from './link-server.ts';
import { RawSession } from './raw-session.ts';

/** A heartbeat with everything that an agent reports. */
export const sampleBeat = AgentMessage.encode({
  version: '1.0',
  timestampUnixMs: Date.now(),
  vaultId: toId('vault', newUuid()),
  messageType: 1,
  payload: {
    encrypted: false,
    metadataOnly: true,
    content: {
      $case: 'heartbeat',
      value: {
        number: 1_000,
        health: Health.HEALTHY,
        degradations: [],
        metrics: {
          uptimeSeconds: 86_400,
          residentKibibytes: 90_000,
          cpuPermille: 12,
          queuedMessages: 0,
          refusedEvents: 0,
          eventLoopLagMs: 2,
          roundTripMs: 14,
        },
        policySet: undefined,
      },
    },
  },
  offlineCapable: false,
  bootId: newUuid(),
  sequence: 0,
  signature: Buffer.alloc(0),
}).finish();

export interface EchoMeasurement {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** Until every stream was open and had its first answer. */
  connectMs: number;
}

export class EchoFloor {
  readonly #authority: TestAuthority;
  readonly #trust: LinkServerOrder['trust'];
  readonly #identities: FleetIdentity[];

  private constructor(
    authority: TestAuthority,
    trust: LinkServerOrder['trust'],
    identities: FleetIdentity[],
  ) {
    this.#authority = authority;
    this.#trust = trust;
    this.#identities = identities;
  }

  static async prepare(streams: number): Promise<EchoFloor> {
    const authority = await TestAuthority.create();
    const keys = await Promise.all(Array.from({ length: 8 }, generateKeys));
    const identities: FleetIdentity[] = [];
    for (let index = 0; index < streams; index += 1) {
      const agentId = newUuid();
      const issued = await authority.issue({
        names: [{ type: 'url', value: formatAgentUri(testTrustDomain, newUuid(), agentId) }],
        keys: keys[index % keys.length] as (typeof keys)[number],
      });
      identities.push({
        agentId: toId('agent', agentId),
        vaultId: toId('vault', newUuid()),
        certificateChain: issued.certificateChain,
        privateKey: issued.privateKey,
      });
    }
    return new EchoFloor(authority, await authority.issueServer(), identities);
  }

  /** Every stream sends its next message when the last came back, for this long. */
  async measure(seconds: number): Promise<EchoMeasurement> {
    const child: ChildProcess = fork(new URL('./link-server.ts', import.meta.url), {
      execArgv: ['--conditions=keystead-source', '--disable-warning=ExperimentalWarning'],
    });
    const ready = new Promise<{ port: number }>((resolve) =>
      child.once('message', (message) => resolve(message as { port: number })),
    );
    child.send({
      kind: 'echo',
      trust: this.#trust,
      vaults: {},
      commitMs: 0,
    } satisfies LinkServerOrder);
    const { port } = await ready;
    const streams = this.#identities.length;
    let answered = 0;
    let running = false;
    const sentMs = new Float64Array(streams);
    const times: number[] = [];
    const startedMs = performance.now();
    const sessions: RawSession[] = [];
    for (const [index, { certificateChain, privateKey }] of this.#identities.entries()) {
      const session = new RawSession({
        host: '127.0.0.1',
        port,
        root: this.#authority.root,
        certificateChain,
        privateKey,
        onMessage: () => {
          answered += 1;
          if (!running) return;
          const now = performance.now();
          if (answered % 16 === 0) times.push(now - (sentMs[index] ?? 0));
          sentMs[index] = now;
          sessions[index]?.send(sampleBeat);
        },
        onEnd: () => {},
      });
      sessions.push(session);
      session.send(sampleBeat);
      // A bare listener drops what its backlog cannot hold, and seconds pass until that is repeated.
      while (sessions.length - answered >= 200) await pause(1);
    }
    while (answered < streams) await pause(5);
    const connectMs = performance.now() - startedMs;
    running = true;
    answered = 0;
    const fromMs = performance.now();
    for (const [index, session] of sessions.entries()) {
      sentMs[index] = performance.now();
      session.send(sampleBeat);
    }
    await pause(seconds * 1_000);
    const perSecond = (answered / (performance.now() - fromMs)) * 1_000;
    running = false;
    for (const session of sessions) session.destroy();
    child.disconnect();
    const { p50Ms, p99Ms } = spread(times);
    return { perSecond, p50Ms, p99Ms, connectMs };
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

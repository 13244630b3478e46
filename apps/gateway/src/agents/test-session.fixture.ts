/** An agent's end of a session, message by message. */
import { createPrivateKey } from 'node:crypto';
import type {
  AgentPayload,
  ControlPayload,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { Health } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { SessionConnection } from '@keystead/agent-protocol/link-client';
import { appendSignature } from '@keystead/agent-protocol/message-signature';
import { encodeAgentMessage, type ReceivedControlMessage } from '@keystead/agent-protocol/services';
import type { TestAgent, TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';

type Content = NonNullable<AgentPayload['content']>;
type Answer = NonNullable<ControlPayload['content']>;
type AnswerCase = Answer['$case'];
type AnswerValue<C extends AnswerCase> = Extract<Answer, { $case: C }>['value'];

export interface Envelope {
  version: string;
  vaultId: string;
  bootId: string;
  sequence: number;
  sign: boolean;
}

export class TestSession {
  readonly connection: SessionConnection;
  readonly bootId: string;
  readonly vaultId: string;
  readonly agent: TestAgent;
  readonly received: Answer[] = [];
  status: number | undefined;
  details = '';
  ended = false;
  #number = 0;
  #wake: (() => void) | undefined;

  constructor(
    port: number,
    authority: TestAuthority,
    agent: TestAgent,
    vaultUuid: string,
    bootId = newUuid(),
  ) {
    this.agent = agent;
    this.bootId = bootId;
    this.vaultId = toId('vault', vaultUuid);
    this.connection = new SessionConnection(
      { host: '127.0.0.1', port },
      authority.clientTrust(agent),
    );
    const { stream } = this.connection;
    stream.on('data', ({ message }: ReceivedControlMessage) => {
      if (message.payload?.content) this.received.push(message.payload.content);
      this.#wake?.();
    });
    stream.on('error', () => {});
    stream.on('status', (status: { code: number; details: string }) => {
      this.status = status.code;
      this.details = status.details;
      this.ended = true;
      this.#wake?.();
    });
  }

  send(messageType: number, content: Content | undefined, envelope: Partial<Envelope> = {}): void {
    const encoded = encodeAgentMessage({
      version: envelope.version ?? '1.0',
      timestampUnixMs: Date.now(),
      vaultId: envelope.vaultId ?? this.vaultId,
      messageType: messageType as never,
      payload: { encrypted: false, metadataOnly: true, content },
      offlineCapable: false,
      bootId: envelope.bootId ?? this.bootId,
      sequence: envelope.sequence ?? 0,
      signature: Buffer.alloc(0),
    });
    const sign = envelope.sign ?? content?.$case === 'event';
    this.connection.stream.write(
      sign ? appendSignature(encoded, createPrivateKey(this.agent.privateKey)) : encoded,
    );
  }

  /** A message without the field that holds everything. */
  sendWithoutPayload(): void {
    this.connection.stream.write(Buffer.from([0x0a, 0x03, ...Buffer.from('1.0')]));
  }

  hello(envelope: Partial<Envelope> = {}): void {
    this.send(5, { $case: 'hello', value: helloValue() }, envelope);
  }

  /** Answers the number of the heartbeat. */
  beat(envelope: Partial<Envelope> & { number?: number } = {}): number {
    const number = envelope.number ?? this.#number + 1;
    this.#number = Math.max(this.#number, number);
    this.send(
      1,
      {
        $case: 'heartbeat',
        value: {
          number,
          health: Health.HEALTHY,
          degradations: [],
          metrics: undefined,
          policySet: undefined,
        },
      },
      envelope,
    );
    return number;
  }

  clockJump(sequence: number, envelope: Partial<Envelope> = {}): void {
    this.send(
      6,
      {
        $case: 'event',
        value: {
          occurredAtUnixMs: Date.now(),
          kind: { $case: 'clockJumped', value: { jumpMs: 5_000 } },
        },
      },
      { sequence, ...envelope },
    );
  }

  /** The next answer of a kind, after those already taken. */
  async next<C extends AnswerCase>(kind: C, withinMs = 8_000): Promise<AnswerValue<C>> {
    const find = () => this.received.findIndex((answer) => answer.$case === kind);
    await this.until(() => find() >= 0 || this.ended, withinMs);
    const [answer] = find() < 0 ? [] : this.received.splice(find(), 1);
    if (answer === undefined) {
      throw new Error(`no ${kind}: the stream ended with ${this.status} ${this.details}`);
    }
    return answer.value as AnswerValue<C>;
  }

  async finish(withinMs = 8_000): Promise<number | undefined> {
    await this.until(() => this.ended, withinMs);
    return this.status;
  }

  async until(condition: () => boolean, withinMs = 8_000): Promise<void> {
    const endMs = performance.now() + withinMs;
    while (!condition()) {
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) throw new Error(`not within ${withinMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(leftMs, 50));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.connection.close();
  }
}

export function helloValue() {
  return {
    agentVersion: '0.1.0',
    host: {
      hostname: 'host-1',
      platform: 'linux',
      release: '6.1',
      architecture: 'x64',
      cpuCount: 2,
      memoryBytes: 1,
      runtime: 'v24.21.0',
    },
    policySet: undefined,
    configurationDigest: '',
    startedAtUnixMs: Date.now(),
    queuedMessages: 0,
  };
}

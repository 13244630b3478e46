/** One stream of one agent: its state, and what is written to it. */

import type { ServerDuplexStream, status } from '@grpc/grpc-js';
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  type CloseReason,
  ControlMessage,
  type ControlPayload,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { LinkPeer } from '@keystead/agent-protocol/link-server';
import type { PeerIdentity } from '@keystead/agent-protocol/peer-identity';
import {
  encodeControlMessage,
  protocolVersion,
  type ReceivedAgentMessage,
} from '@keystead/agent-protocol/services';
import type { AgentFacts, Beat, HeldPolicySet } from '@keystead/contracts/agent-link';

export type SessionCall = ServerDuplexStream<ReceivedAgentMessage, Buffer>;
type StatusCode = (typeof status)[keyof typeof status];
type Content = NonNullable<ControlPayload['content']>;

export interface QueuedBeat {
  session: AgentSession;
  beat: Beat;
}

/** Answers that an agent does not read; one that lets more pile up is disconnected. */
const unreadMax = 512;

export class AgentSession {
  readonly call: SessionCall;
  readonly peer: LinkPeer;
  readonly identity: PeerIdentity;
  state: 'greeting' | 'admitting' | 'open' | 'closing' | 'gone' = 'greeting';
  /** Monotonic: by when it must have greeted, or be reopened, or be gone. */
  deadlineMs: number;
  /** Public id, as in the envelope. */
  vaultId = '';
  bootId = '';
  facts: AgentFacts | null = null;
  intervalMs = 0;
  assignedPolicySetVersion: number | null = null;
  /** What the agent says that it holds, and what it should hold where that is known. */
  held: HeldPolicySet | null = null;
  assigned: HeldPolicySet | null = null;
  /** Digests of drafts that commands on this stream have named, the newest last. */
  readonly drafts = new Set<string>();
  /** Numbers of commands that the agent has no word for, until the policy service was told. */
  unsupported: number[] = [];
  /** Monotonic: when the policy service was asked about it last. */
  askedAtMs = 0;
  lastNumber = 0;
  /** The beat that waits for the next batch; a newer one takes its place. */
  queued: QueuedBeat | undefined;
  renewing = false;
  /** The stream ends when the goodbye is recorded. */
  saidGoodbye = false;
  /** Message rate: what may still be received, and since when. */
  credit: number;
  creditAtMs: number;

  constructor(
    call: SessionCall,
    peer: LinkPeer,
    identity: PeerIdentity,
    nowMs: number,
    greetWithinMs: number,
    credit: number,
  ) {
    this.call = call;
    this.peer = peer;
    this.identity = identity;
    this.deadlineMs = nowMs + greetWithinMs;
    this.credit = credit;
    this.creditAtMs = nowMs;
  }

  get isLive(): boolean {
    return this.state !== 'closing' && this.state !== 'gone';
  }

  send(messageType: MessageType, content: Content, nowUnixMs: number): void {
    if (!this.isLive) return;
    if (this.call.writableLength > unreadMax) {
      this.peer.disconnect();
      return;
    }
    this.call.write(encode(this.vaultId, messageType, content, nowUnixMs));
  }

  /** Hands on a message that another service signed. */
  forward(encoded: Buffer): void {
    if (!this.isLive) return;
    if (this.call.writableLength > unreadMax) {
      this.peer.disconnect();
      return;
    }
    this.call.write(encoded);
  }

  /** As {@link send}; resolves when the stream has taken it, or takes nothing any more. */
  sent(messageType: MessageType, content: Content, nowUnixMs: number): Promise<void> {
    if (!this.isLive) return Promise.resolve();
    return new Promise((resolve) => {
      this.call.once('close', resolve);
      this.call.write(encode(this.vaultId, messageType, content, nowUnixMs), () => {
        this.call.off('close', resolve);
        resolve();
      });
    });
  }

  /** Says why, then ends the stream with a status. What was written before is still delivered. */
  close(
    reason: CloseReason,
    retryAfterMs: number,
    code: StatusCode,
    details: string,
    nowMs: number,
    nowUnixMs: number,
  ): void {
    if (!this.isLive) return;
    this.state = 'closing';
    this.deadlineMs = nowMs + closeWithinMs;
    const content: Content = { $case: 'close', value: { reason, retryAfterMs } };
    this.call.write(encode(this.vaultId, MessageType.NOTIFICATION, content, nowUnixMs));
    this.call.emit('error', { code, details });
  }

  /** Ends the stream with OK: the agent said goodbye. */
  end(nowMs: number): void {
    if (!this.isLive) return;
    this.state = 'closing';
    this.deadlineMs = nowMs + closeWithinMs;
    this.call.end();
  }
}

/** A peer that does not take the end of its stream by then is disconnected. */
const closeWithinMs = 2_000;

function encode(
  vaultId: string,
  messageType: MessageType,
  content: Content,
  timestampUnixMs: number,
): Buffer {
  const message: ControlMessage = {
    version: protocolVersion,
    timestampUnixMs,
    vaultId,
    messageType,
    payload: { encrypted: false, metadataOnly: true, content },
    signature: noSignature,
  };
  return encodeControlMessage(message);
}
const noSignature = Buffer.alloc(0);

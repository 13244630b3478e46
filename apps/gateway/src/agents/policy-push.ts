/**
 * Brings agents on open streams what their vault should hold. What an agent says that it holds goes to
 * the policy service, in batches; the signed command that comes back is handed on as it is, and the
 * agent then asks for the set part by part.
 *
 * Flow control: an agent has one request at a time; a few parts at a time are on their way over all
 * streams, and a part counts until its stream has taken it. So ten thousand agents that are told at
 * once hold a few megabytes here, and a slow one holds up nobody. Those that have a part of their set go
 * before those that have none: half of them decide by it while the others still wait. A set is read once
 * and kept while it is asked for.
 *
 * Nothing here is remembered over a restart: what is lost is asked again when the agents come back.
 */
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  ControlMessage,
  type PolicySetRequest,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { policySetChunkBytes } from '@keystead/agent-protocol/policy-set-signature';
import type { HeldPolicySet } from '@keystead/contracts/agent-link';
import { limits } from '@keystead/contracts/limits';
import type { AgentBackend } from './agent-backend.ts';
import type { AgentLinkCounters } from './agent-link-counters.ts';
import type { AgentSession } from './agent-session.ts';

export interface PolicyPushOptions {
  backend: Pick<AgentBackend, 'deliver' | 'policySetPart'>;
  counters: AgentLinkCounters;
  monotonicMs: () => number;
  unixMs: () => number;
  warn: (message: string, details: Record<string, unknown>) => void;
}

const callsInFlightMax = 2;
const partsInFlightMax = 64;
const setsKeptMaxBytes = 64 * 1024 * 1024;
const retryAfterMs = 2_000;
const unsupportedMax = 16;
const draftsMax = 16;
/** Agents that do not hold what they should, and fetch nothing, are asked about again. */
const askAgainAfterMs = 30_000;
/** Of so many parts at least one goes to an agent that has none yet, whatever the others ask for. */
const partsPerBeginner = 4;

interface WaitingRequest {
  session: AgentSession;
  digest: string;
  number: number;
  offset: number;
}

export class PolicyPush {
  readonly #options: PolicyPushOptions;
  readonly #dirty = new Set<AgentSession>();
  /** Requests for the first part of a set, and for those after it. */
  readonly #beginning = new Map<AgentSession, WaitingRequest>();
  readonly #continuing = new Map<AgentSession, WaitingRequest>();
  readonly #sets = new Map<string, Promise<Buffer | undefined>>();
  #keptBytes = 0;
  #calls = 0;
  #parts = 0;
  #partsSinceBeginner = 0;
  #notBeforeMs = 0;

  constructor(options: PolicyPushOptions) {
    this.#options = options;
  }

  /** What this agent holds, or should hold, may have changed. */
  mark(session: AgentSession): void {
    this.#dirty.add(session);
  }

  /** Takes what a heartbeat says. */
  heard(session: AgentSession, held: HeldPolicySet): void {
    const now = held.digest === '' ? null : held;
    const isSame = session.held?.digest === now?.digest && session.held?.number === now?.number;
    session.held = now;
    if (!isSame) this.mark(session);
  }

  /** The agent is too old for what it was told. */
  unsupported(session: AgentSession, number: number): void {
    if (session.unsupported.length >= unsupportedMax) session.unsupported.shift();
    session.unsupported.push(number);
    this.mark(session);
    this.flush();
  }

  forget(session: AgentSession): void {
    this.#dirty.delete(session);
    this.#beginning.delete(session);
    this.#continuing.delete(session);
  }

  /** The agent asks for the next part. A second request takes the place of one that waits. */
  request(session: AgentSession, { policySet, offset }: PolicySetRequest): void {
    this.#options.counters.policySetRequests += 1;
    // It follows what it was told: telling it again would let it begin anew.
    session.askedAtMs = this.#options.monotonicMs();
    const [queue, other] =
      offset === 0 ? [this.#beginning, this.#continuing] : [this.#continuing, this.#beginning];
    other.delete(session);
    queue.set(session, {
      session,
      digest: policySet?.digest ?? '',
      number: policySet?.version ?? 0,
      offset,
    });
    this.#serve();
  }

  /** Called a few times a second. */
  tick(sessions: Iterable<AgentSession>): void {
    const nowMs = this.#options.monotonicMs();
    for (const session of sessions) {
      if (
        session.assigned !== null &&
        session.assigned.digest !== session.held?.digest &&
        nowMs - session.askedAtMs >= askAgainAfterMs &&
        !this.#isWaiting(session)
      ) {
        this.mark(session);
      }
    }
    this.flush();
  }

  flush(): void {
    if (this.#options.monotonicMs() < this.#notBeforeMs) return;
    while (this.#dirty.size > 0 && this.#calls < callsInFlightMax) {
      const sessions: AgentSession[] = [];
      for (const session of this.#dirty) {
        if (sessions.length >= limits.policySetAgentsPerCall) break;
        this.#dirty.delete(session);
        if (session.state === 'open') sessions.push(session);
      }
      if (sessions.length > 0) void this.#ask(sessions);
    }
  }

  async #ask(sessions: AgentSession[]): Promise<void> {
    this.#calls += 1;
    const nowMs = this.#options.monotonicMs();
    const told = sessions.map(({ unsupported }) => unsupported);
    for (const session of sessions) {
      session.askedAtMs = nowMs;
      session.unsupported = [];
    }
    try {
      const results = await this.#options.backend.deliver(
        sessions.map(({ identity, held }, index) => ({
          organizationId: identity.organizationId,
          agentId: identity.agentId,
          held,
          ...(told[index]?.length ? { unsupported: told[index] } : {}),
        })),
      );
      for (let index = 0; index < sessions.length; index += 1) {
        const session = sessions[index] as AgentSession;
        const result = results[index];
        if (result === undefined) continue;
        session.assigned = result.assigned;
        if (result.more) this.mark(session);
        for (const command of [result.command, ...result.commands]) {
          if (command === null) continue;
          this.#options.counters.policyCommandsSent += 1;
          const encoded = Buffer.from(command, 'base64');
          noteDraft(session, encoded);
          session.forward(encoded);
        }
      }
    } catch (error) {
      this.#options.counters.policyCallsFailed += 1;
      this.#options.warn('agents were not told of their policies', {
        agents: sessions.length,
        error: String(error),
      });
      for (const session of sessions) this.mark(session);
      this.#notBeforeMs = this.#options.monotonicMs() + retryAfterMs;
    } finally {
      this.#calls -= 1;
      this.flush();
    }
  }

  #isWaiting(session: AgentSession): boolean {
    return this.#beginning.has(session) || this.#continuing.has(session);
  }

  #serve(): void {
    while (this.#parts < partsInFlightMax) {
      const request = this.#next();
      if (request === undefined) return;
      this.#parts += 1;
      void this.#answer(request).finally(() => {
        this.#parts -= 1;
        this.#serve();
      });
    }
  }

  #next(): WaitingRequest | undefined {
    const isBeginnersTurn = this.#partsSinceBeginner >= partsPerBeginner - 1;
    const queues = isBeginnersTurn
      ? [this.#beginning, this.#continuing]
      : [this.#continuing, this.#beginning];
    for (const queue of queues) {
      const [first] = queue.values();
      if (first === undefined) continue;
      queue.delete(first.session);
      this.#partsSinceBeginner = queue === this.#beginning ? 0 : this.#partsSinceBeginner + 1;
      return first;
    }
    return undefined;
  }

  /** Resolves when the stream has taken the part, or will take nothing any more. */
  async #answer({ session, digest, number, offset }: WaitingRequest): Promise<void> {
    const isDraft = number === 0 && session.drafts.has(digest);
    const isAssigned = session.assigned?.digest === digest && session.assigned.number === number;
    let content: Buffer | undefined;
    try {
      content =
        isAssigned || isDraft
          ? await this.#setOf(session.identity.organizationId, digest)
          : undefined;
    } catch (error) {
      // No answer is an answer: the agent asks again.
      this.#options.warn('a policy set could not be read', { error: String(error) });
      return;
    }
    const part = content?.subarray(offset, offset + policySetChunkBytes) ?? noBytes;
    this.#options.counters.policySetPartsSent += 1;
    await session.sent(
      MessageType.POLICY_UPDATE,
      {
        $case: 'policySetChunk',
        value: { policySet: { version: number, digest }, offset, content: part },
      },
      this.#options.unixMs(),
    );
  }

  #setOf(organizationId: string, digest: string): Promise<Buffer | undefined> {
    const key = `${organizationId}/${digest}`;
    const known = this.#sets.get(key);
    if (known !== undefined) {
      // The newest asked for is the last to go.
      this.#sets.delete(key);
      this.#sets.set(key, known);
      return known;
    }
    const reading = this.#read(organizationId, digest);
    this.#sets.set(key, reading);
    reading.then(
      (content) => {
        if (content === undefined) this.#sets.delete(key);
        else void this.#makeRoom(content.length);
      },
      () => this.#sets.delete(key),
    );
    return reading;
  }

  async #makeRoom(added: number): Promise<void> {
    this.#keptBytes += added;
    for (const [key, reading] of this.#sets) {
      if (this.#keptBytes <= setsKeptMaxBytes || this.#sets.size <= 1) return;
      this.#sets.delete(key);
      this.#keptBytes -= (await reading.catch(() => undefined))?.length ?? 0;
    }
  }

  async #read(organizationId: string, digest: string): Promise<Buffer | undefined> {
    const parts: Buffer[] = [];
    for (let offset = 0; ; ) {
      const { content, totalBytes } = await this.#options.backend.policySetPart({
        organizationId,
        digest,
        offset,
      });
      if (content === null) return undefined;
      const part = Buffer.from(content, 'base64');
      parts.push(part);
      offset += part.length;
      if (offset >= totalBytes || part.length === 0) return Buffer.concat(parts);
    }
  }
}

/** What a command lets the agent fetch, beside the set of its vault. */
function noteDraft({ drafts }: AgentSession, encoded: Buffer): void {
  const content = ControlMessage.decode(encoded).payload?.content;
  const action = content?.$case === 'command' ? content.value.action : undefined;
  if (action?.$case !== 'replayDecisions' || action.value.draft === undefined) return;
  drafts.delete(action.value.draft.digest);
  drafts.add(action.value.draft.digest);
  for (const oldest of drafts) {
    if (drafts.size <= draftsMax) break;
    drafts.delete(oldest);
  }
}

const noBytes = Buffer.alloc(0);

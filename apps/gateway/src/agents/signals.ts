/**
 * Goodbyes and supersessions on their way to the backend, in batches, after the beats that came
 * before them, and until they are recorded: a goodbye without its record would be silence, which is
 * the louder of the two.
 */
import { limits } from '@keystead/contracts/limits';
import type { AgentBackend, GoodbyeSignal, SupersessionSignal } from './agent-backend.ts';
import type { AgentSession } from './agent-session.ts';

const waitingMax = 20_000;
const retryMs = 500;

export class Signals {
  readonly #backend: Pick<AgentBackend, 'signals'>;
  readonly #beatsSettled: () => Promise<void>;
  readonly #recorded: (session: AgentSession) => void;
  readonly #failed: (error: unknown) => void;
  #goodbyes: { signal: GoodbyeSignal; session: AgentSession }[] = [];
  #supersessions: SupersessionSignal[] = [];
  #busy = false;

  /**
   * @param beatsSettled resolves when the beats on their way now were dealt with
   * @param recorded a session's goodbye is durable
   */
  constructor(
    backend: Pick<AgentBackend, 'signals'>,
    beatsSettled: () => Promise<void>,
    recorded: (session: AgentSession) => void,
    failed: (error: unknown) => void,
  ) {
    this.#backend = backend;
    this.#beatsSettled = beatsSettled;
    this.#recorded = recorded;
    this.#failed = failed;
  }

  get isIdle(): boolean {
    return !this.#busy;
  }

  /** Whether it is taken; else too many wait already. */
  goodbye(session: AgentSession): boolean {
    if (this.#goodbyes.length >= waitingMax) return false;
    const { organizationId, agentId } = session.identity;
    this.#goodbyes.push({ session, signal: { organizationId, agentId, bootId: session.bootId } });
    session.saidGoodbye = true;
    this.#begin();
    return true;
  }

  superseded(older: AgentSession, newer: AgentSession): void {
    if (this.#supersessions.length >= waitingMax) return;
    const { organizationId, agentId } = newer.identity;
    this.#supersessions.push({
      organizationId,
      agentId,
      oldBootId: older.bootId,
      newBootId: newer.bootId,
    });
    this.#begin();
  }

  #begin(): void {
    if (this.#busy) return;
    this.#busy = true;
    setTimeout(() => void this.#send(), limits.agentBatchWaitMs);
  }

  async #send(): Promise<void> {
    const goodbyes = this.#goodbyes.splice(0, limits.agentBatchMax);
    const supersessions = this.#supersessions.splice(0, limits.agentBatchMax);
    try {
      // A beat that is still waiting belongs before the goodbye: one more wait lets it leave.
      await pause(limits.agentBatchWaitMs);
      await this.#beatsSettled();
      await this.#backend.signals({
        goodbyes: goodbyes.map(({ signal }) => signal),
        supersessions,
      });
      for (const { session } of goodbyes) this.#recorded(session);
    } catch (error) {
      this.#failed(error);
      this.#supersessions.unshift(...supersessions);
      // As long as the agent waits for the end of its stream; after that it has given up on us.
      this.#goodbyes.unshift(...goodbyes.filter(({ session }) => session.isLive));
      await pause(retryMs);
    } finally {
      this.#busy = false;
      if (this.#goodbyes.length > 0 || this.#supersessions.length > 0) this.#begin();
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

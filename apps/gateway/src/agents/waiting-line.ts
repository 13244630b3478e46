/** Sessions that greeted and wait for the registry's word, let in at the pace of {@link Admission}. */
import { limits } from '@keystead/contracts/limits';
import type { Admission } from './admission.ts';
import type { AdmitResult, AgentBackend } from './agent-backend.ts';
import type { AgentSession } from './agent-session.ts';

const inFlightMax = 4;

export class WaitingLine {
  readonly #backend: Pick<AgentBackend, 'admit'>;
  readonly #admission: Admission;
  readonly #nowMs: () => number;
  readonly #decided: (session: AgentSession, result: AdmitResult | undefined) => void;
  readonly #failed: (sessions: AgentSession[], error: unknown) => void;
  #waiting: AgentSession[] = [];
  #inFlight = 0;
  #scheduled = false;

  /** @param nowMs monotonic */
  constructor(
    backend: Pick<AgentBackend, 'admit'>,
    admission: Admission,
    nowMs: () => number,
    decided: (session: AgentSession, result: AdmitResult | undefined) => void,
    failed: (sessions: AgentSession[], error: unknown) => void,
  ) {
    this.#backend = backend;
    this.#admission = admission;
    this.#nowMs = nowMs;
    this.#decided = decided;
    this.#failed = failed;
  }

  /** 0, or the delay in ms after which the session should come back because the line is full. */
  join(session: AgentSession): number {
    const delayMs = this.#admission.delayFor(this.#waiting.length, this.#nowMs());
    if (delayMs > 0) return delayMs;
    this.#waiting.push(session);
    if (!this.#scheduled) {
      this.#scheduled = true;
      setTimeout(() => {
        this.#scheduled = false;
        this.move();
      }, limits.agentBatchWaitMs);
    }
    return 0;
  }

  /** Lets in as many as the pace allows. */
  move(): void {
    while (this.#inFlight < inFlightMax && this.#waiting.length > 0) {
      const count = this.#admission.take(
        Math.min(this.#waiting.length, limits.agentBatchMax),
        this.#nowMs(),
      );
      if (count === 0) return;
      const batch = this.#waiting.splice(0, count).filter((session) => session.isLive);
      if (batch.length === 0) continue;
      this.#inFlight += 1;
      void this.#ask(batch).finally(() => {
        this.#inFlight -= 1;
        this.move();
      });
    }
  }

  async #ask(batch: AgentSession[]): Promise<void> {
    try {
      const results = await this.#backend.admit(
        batch.map(({ identity: { organizationId, agentId, serialNumber } }) => ({
          organizationId,
          agentId,
          serialNumber,
        })),
      );
      for (const [index, session] of batch.entries()) this.#decided(session, results[index]);
    } catch (error) {
      this.#failed(batch, error);
    }
  }
}

/**
 * Revocations, read from the backend again and again, and remembered for a minute: a certificate may
 * be revoked between its admission and its welcome, when no session could be found yet.
 */
import type { PeerIdentity } from '@keystead/agent-protocol/peer-identity';
import type { AgentBackend, Revocation } from './agent-backend.ts';

const memoryMs = 60_000;

export class RevocationWatch {
  readonly #backend: Pick<AgentBackend, 'revokedSince'>;
  readonly #nowMs: () => number;
  readonly #apply: (revocation: Revocation) => void;
  readonly #failed: (error: unknown) => void;
  readonly #recent = new Map<string, { revocation: Revocation; atMs: number }[]>();
  #cursor: string | null = null;
  #polling = false;

  /** @param nowMs monotonic */
  constructor(
    backend: Pick<AgentBackend, 'revokedSince'>,
    nowMs: () => number,
    apply: (revocation: Revocation) => void,
    failed: (error: unknown) => void,
  ) {
    this.#backend = backend;
    this.#nowMs = nowMs;
    this.#apply = apply;
    this.#failed = failed;
  }

  /** Reads what is new. One reading at a time: a nudge during one is served by it. */
  async poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    try {
      const { revoked, cursor } = await this.#backend.revokedSince(this.#cursor);
      this.#cursor = cursor;
      for (const revocation of revoked) this.learn(revocation);
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#polling = false;
    }
  }

  learn(revocation: Revocation): void {
    const recent = this.#recent.get(revocation.agentId) ?? [];
    recent.push({ revocation, atMs: this.#nowMs() });
    this.#recent.set(revocation.agentId, recent);
    this.#apply(revocation);
  }

  wasRevoked(identity: PeerIdentity): boolean {
    const recent = this.#recent.get(identity.agentId);
    return recent?.some(({ revocation }) => concerns(revocation, identity)) ?? false;
  }

  forgetOld(): void {
    const oldestMs = this.#nowMs() - memoryMs;
    for (const [agentId, recent] of this.#recent) {
      if (recent.every(({ atMs }) => atMs < oldestMs)) this.#recent.delete(agentId);
    }
  }
}

export function concerns(revocation: Revocation, identity: PeerIdentity): boolean {
  return (
    revocation.agentId === identity.agentId &&
    (revocation.serialNumber === null || revocation.serialNumber === identity.serialNumber)
  );
}

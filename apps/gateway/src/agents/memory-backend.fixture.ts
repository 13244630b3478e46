/** An AgentBackend in memory: what it answered is in its ledger, and it can be told to fail. */
import type { AgentIdentity, Beat, RetainedEvent } from '@keystead/contracts/agent-link';
import { newUuid } from '@keystead/contracts/ids';
import type {
  AdmitResult,
  AgentBackend,
  BeatResult,
  DeliverInput,
  DeliverResult,
  EnrollInput,
  EnrollOutput,
  GoodbyeSignal,
  PolicySetPart,
  RenewOutput,
  Revocation,
  SupersessionSignal,
} from './agent-backend.ts';

export class MemoryBackend implements AgentBackend {
  readonly vaults = new Map<string, string>();
  readonly revoked: Revocation[] = [];
  readonly beatsRecorded: Beat[] = [];
  readonly batches: number[] = [];
  readonly eventsRecorded = new Map<string, RetainedEvent>();
  readonly goodbyes: GoodbyeSignal[] = [];
  readonly supersessions: SupersessionSignal[] = [];
  readonly enrolments: EnrollInput[] = [];
  readonly renewals: AgentIdentity[] = [];
  readonly deleted = new Set<string>();
  readonly deliveries: DeliverInput = [];
  readonly policySets = new Map<string, Buffer>();
  /** What each agent is to be told. */
  delivering: (agent: DeliverInput[number]) => DeliverResult = () => ({
    assigned: null,
    command: null,
    commands: [],
  });
  partBytes = 100_000;
  partsRead = 0;
  intervalMs = 30_000;
  assignedPolicySetVersion: number | null = null;
  /** Thrown by whatever is asked next, until it is undefined again. */
  failure: Error | undefined;
  pollFailure: Error | undefined;
  /** Awaited before anything is recorded. */
  pause: Promise<void> | undefined;
  enrollAnswer: EnrollOutput = { outcome: 'refused', reason: 'token_invalid', detail: 'no' };
  renewAnswer: RenewOutput = { outcome: 'refused', detail: 'no' };

  vaultOf(agentId: string): string {
    let vault = this.vaults.get(agentId);
    if (vault === undefined) {
      vault = newUuid();
      this.vaults.set(agentId, vault);
    }
    return vault;
  }

  async enroll(request: EnrollInput): Promise<EnrollOutput> {
    await this.#gate();
    this.enrolments.push(request);
    return this.enrollAnswer;
  }

  async admit(identities: AgentIdentity[]): Promise<AdmitResult[]> {
    await this.#gate();
    return identities.map(({ agentId }) =>
      this.deleted.has(agentId)
        ? { outcome: 'refused' }
        : {
            outcome: 'admitted',
            vaultId: this.vaultOf(agentId),
            intervalMs: this.intervalMs,
            assignedPolicySetVersion: this.assignedPolicySetVersion,
          },
    );
  }

  async beats(batch: { number: number; beats: Beat[] }): Promise<BeatResult[]> {
    await this.#gate();
    this.batches.push(batch.beats.length);
    this.beatsRecorded.push(...batch.beats);
    return batch.beats.map(({ agentId }) => ({
      outcome: this.deleted.has(agentId) ? 'unknown' : 'recorded',
      intervalMs: this.intervalMs,
      assignedPolicySetVersion: this.assignedPolicySetVersion,
    }));
  }

  async events(events: RetainedEvent[]): Promise<void> {
    await this.#gate();
    for (const event of events) {
      this.eventsRecorded.set(`${event.agentId} ${event.bootId} ${event.sequence}`, event);
    }
  }

  async renew(identity: AgentIdentity): Promise<RenewOutput> {
    await this.#gate();
    this.renewals.push(identity);
    return this.renewAnswer;
  }

  async deliver(agents: DeliverInput): Promise<DeliverResult[]> {
    await this.#gate();
    this.deliveries.push(...agents);
    return agents.map((agent) => this.delivering(agent));
  }

  async policySetPart({
    digest,
    offset,
  }: {
    digest: string;
    offset: number;
  }): Promise<PolicySetPart> {
    await this.#gate();
    this.partsRead += 1;
    const content = this.policySets.get(digest);
    return content
      ? {
          totalBytes: content.length,
          content: content.subarray(offset, offset + this.partBytes).toString('base64'),
        }
      : { totalBytes: 0, content: null };
  }

  async signals(signals: {
    goodbyes: GoodbyeSignal[];
    supersessions: SupersessionSignal[];
  }): Promise<void> {
    await this.#gate();
    this.goodbyes.push(...signals.goodbyes);
    this.supersessions.push(...signals.supersessions);
  }

  async revokedSince(cursor: string | null): Promise<{ revoked: Revocation[]; cursor: string }> {
    if (this.pollFailure) throw this.pollFailure;
    const from = cursor === null ? this.revoked.length : Number(cursor);
    return { revoked: this.revoked.slice(from), cursor: String(this.revoked.length) };
  }

  async #gate(): Promise<void> {
    if (this.pause) await this.pause;
    if (this.failure) throw this.failure;
  }
}

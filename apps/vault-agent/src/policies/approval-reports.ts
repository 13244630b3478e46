/**
 * Tells the control plane what waits for approval here and how far it is, whoever decided where. The store
 * knows what was told: what a crash, or another agent of the vault, has left is told by whoever comes next,
 * and twice is the same.
 */
import {
  type ApprovalReported,
  ApprovalState,
  ApprovalVerdict,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Logger } from 'pino';
import type { EventKind } from '../durable-queue.ts';
import type { NameReferences } from '../upward/name-references.ts';
import type { ApprovalChange, Approvals } from './approvals.ts';
import { policyLimits } from './policy-limits.ts';

export interface ApprovalReportsOptions {
  approvals: Pick<Approvals, 'untold' | 'told' | 'onChange'>;
  names: NameReferences;
  /** Whether it is kept until its receipt. */
  record: (kind: EventKind) => boolean;
  log: Pick<Logger, 'debug'>;
}

export class ApprovalReports {
  readonly #options: ApprovalReportsOptions;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();
  /** A look that has not begun sees whatever comes until then. */
  #isLookWaiting = false;
  #isStopped = false;

  constructor(options: ApprovalReportsOptions) {
    this.#options = options;
    options.approvals.onChange = () => this.#lookSoon();
  }

  start(): void {
    this.#timer = setInterval(() => this.#lookSoon(), policyLimits.approvalReportPollMs).unref();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearInterval(this.#timer);
    await this.#looking;
  }

  /** Tells what was not told yet. @throws where the store does not answer */
  async look(): Promise<void> {
    const { approvals, record } = this.#options;
    const changes = await approvals.untold(policyLimits.approvalsPerReport);
    for (const change of changes) {
      if (this.#isStopped) return;
      if (!record({ $case: 'approvalReported', value: this.#reportOf(change) })) return;
      await approvals.told(change.id, change.revision);
    }
  }

  #lookSoon(): void {
    if (this.#isLookWaiting || this.#isStopped) return;
    this.#isLookWaiting = true;
    this.#looking = this.#looking
      .then(() => {
        this.#isLookWaiting = false;
        return this.look();
      })
      .catch((error: unknown) => {
        this.#options.log.debug({ err: error }, 'approvals could not be reported now');
      });
  }

  #reportOf(change: ApprovalChange): ApprovalReported {
    const { names } = this.#options;
    const { namespace, secret, other } = change.resource;
    return {
      approvalId: uuidBytes(toUuid('approval', change.id)),
      revision: change.revision,
      state: states[change.state],
      action: change.action,
      namespaceRef: namespace === '' ? none : names.namespace(namespace),
      secretRef: secret === '' ? none : names.secret(namespace, secret),
      otherRef: other === '' ? none : names.other(other),
      requesterRef: names.identity(...parted(change.requester)),
      requestedAtUnixMs: change.requestedAtMs,
      expiresAtUnixMs: change.expiresAtMs,
      requirements: change.requirements
        .slice(0, limits.approvalRequirementsMax)
        .map(({ policyId, approvers, count }) => ({
          policy: policyId,
          approvers: [...approvers],
          count,
        })),
      decisions: change.decisions
        .slice(0, limits.approvalDecisionsMax)
        .map(({ approver, verdict, atMs, decisionId }) => ({
          approverRef: names.identity(...parted(approver)),
          verdict: verdict === 'approve' ? ApprovalVerdict.APPROVE : ApprovalVerdict.DENY,
          atUnixMs: atMs,
          decisionId: decisionId === undefined ? none : uuidBytes(decisionId),
        })),
    };
  }
}

const none = Buffer.alloc(0);
const uuidBytes = (uuid: string) => Buffer.from(uuid.replaceAll('-', ''), 'hex');

/** `kind:id`, as other reports refer to the same identity. */
function parted(identity: string): [string, string] {
  const colon = identity.indexOf(':');
  return [identity.slice(0, colon), identity.slice(colon + 1)];
}

const states: Record<ApprovalChange['state'], ApprovalState> = {
  pending: ApprovalState.PENDING,
  approved: ApprovalState.APPROVED,
  denied: ApprovalState.DENIED,
  used: ApprovalState.USED,
};

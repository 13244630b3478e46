/**
 * Decisions about approvals that people made in the control plane. One is taken only where the
 * organization's own key signed it, for this vault; it is in the audit before it counts, and what became of
 * it goes up as an event. The same decision again changes nothing and is answered the same.
 */
import { X509Certificate } from 'node:crypto';
import { isApprovalDecisionSignedBy } from '@keystead/agent-protocol/approval-signature';
import {
  ApprovalDecisionOutcome,
  CommandOutcome,
  type DecideApproval,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import {
  organizationSignerUri,
  verifiedSigner,
} from '@keystead/agent-protocol/policy-set-signature';
import {
  type ApprovalDecision,
  approvalDecision,
  approvalDecisionMaxBytes,
} from '@keystead/contracts/approval-decision';
import { toId } from '@keystead/contracts/ids';
import type { Logger } from 'pino';
import { systemCaller } from '../access/caller.ts';
import type { Trail } from '../access/door.ts';
import type { EventKind } from '../durable-queue.ts';
import type { Approvals, RemoteOutcome } from './approvals.ts';
import type { PolicyTrust } from './policy-set-check.ts';

export interface ApprovalOrdersOptions {
  approvals: Pick<Approvals, 'decideRemotely'>;
  trust: () => PolicyTrust;
  /** Public id. */
  vaultId: string;
  trail: Trail;
  /** Kept for the control plane until its receipt. */
  record: (kind: EventKind) => void;
  now: () => number;
  log: Pick<Logger, 'info' | 'warn'>;
}

export class ApprovalOrders {
  readonly #options: ApprovalOrdersOptions;

  constructor(options: ApprovalOrdersOptions) {
    this.#options = options;
  }

  /** @throws where store or audit cannot be written: nothing is decided, and it is told again */
  async carryOut(command: DecideApproval): Promise<CommandOutcome> {
    const { approvalId, decisionId } = command;
    const { record, log } = this.#options;
    if (approvalId.length !== 16 || decisionId.length !== 16) return CommandOutcome.REFUSED;
    const decision = this.#read(command);
    const outcome = decision === undefined ? 'not_acceptable' : await this.#decide(decision);
    log[outcome === 'accepted' ? 'info' : 'warn'](
      { approval: decision?.approvalId, by: decision?.approver.id, outcome },
      'somebody decided about an approval in the control plane',
    );
    record({
      $case: 'approvalAnswered',
      value: { approvalId, decisionId, outcome: outcomes[outcome] },
    });
    return outcome === 'accepted' ? CommandOutcome.DONE : CommandOutcome.REFUSED;
  }

  /** Undefined where it is no decision of this organization about this vault. */
  #read(command: DecideApproval): ApprovalDecision | undefined {
    const { trust: readTrust, vaultId, now } = this.#options;
    const trust = readTrust();
    const { decision: bytes, signature, signerChain } = command;
    if (bytes.length > approvalDecisionMaxBytes || trust.organizationId === '') return undefined;
    const signer = verifiedSigner(signerChain, {
      uri: organizationSignerUri(trust.trustDomain, trust.organizationId),
      root: new X509Certificate(trust.root),
      nowMs: now(),
    });
    if (signer === undefined || !isApprovalDecisionSignedBy(bytes, signature, signer)) {
      return undefined;
    }
    const decision = parsed(bytes);
    const isOurs =
      decision?.organizationId === toId('organization', trust.organizationId) &&
      decision.vaultId === vaultId &&
      decision.approvalId === toId('approval', uuidOf(command.approvalId)) &&
      decision.decisionId === uuidOf(command.decisionId);
    return isOurs ? decision : undefined;
  }

  async #decide(decision: ApprovalDecision): Promise<RemoteOutcome> {
    const { approvals, trail, now } = this.#options;
    if (Date.parse(decision.expiresAt) <= now()) return 'expired';
    const { approver, verdict, approvalId, decisionId } = decision;
    const { identity, requestId } = systemCaller('control-plane', decisionId, now());
    const fact = {
      requestId,
      identity,
      address: '',
      action: 'approval.decide',
      operation: verdict === 'approve' ? 'approvals.approve' : 'approvals.deny',
      resource: { other: `approval:${approvalId}` },
    } as const;
    const context = {
      by: approver.id,
      name: approver.name,
      email: approver.email,
      reason: decision.reason,
    };
    await trail.record({ ...fact, phase: 'started', result: 'started', context });
    const outcome = await approvals.decideRemotely({
      id: approvalId,
      decisionId,
      verdict,
      approver,
      reason: decision.reason,
    });
    const isDone = outcome === 'accepted';
    await trail.record({
      ...fact,
      phase: 'outcome',
      result: isDone ? 'done' : 'refused',
      context: { outcome },
    });
    return outcome;
  }
}

function parsed(bytes: Uint8Array): ApprovalDecision | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return approvalDecision.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

function uuidOf(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

const outcomes: Record<RemoteOutcome, ApprovalDecisionOutcome> = {
  accepted: ApprovalDecisionOutcome.ACCEPTED,
  already_decided: ApprovalDecisionOutcome.ALREADY_DECIDED,
  expired: ApprovalDecisionOutcome.EXPIRED,
  not_an_approver: ApprovalDecisionOutcome.NOT_AN_APPROVER,
  own_request: ApprovalDecisionOutcome.OWN_REQUEST,
  unknown_approval: ApprovalDecisionOutcome.UNKNOWN_APPROVAL,
  not_acceptable: ApprovalDecisionOutcome.NOT_ACCEPTABLE,
};

/**
 * Approvals of vaults, decided from here. What waits is the vault's: its agents report it, and a decision
 * goes to them as a signed command and counts when one of them has accepted it. Who decides at the
 * vault first, decides.
 */
import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import { signApprovalDecision } from '@keystead/agent-protocol/approval-signature';
import {
  type ApprovalDecision,
  type ApprovalVerdict,
  approvalDecisionForm,
} from '@keystead/contracts/approval-decision';
import {
  approveApproval,
  denyApproval,
  type getApproval,
  listApprovals,
} from '@keystead/contracts/approvals';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Operation, Output } from '@keystead/contracts/operation';
import { type Role, roles } from '@keystead/contracts/permissions';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { databaseClock } from '../database-clock.ts';
import { AgentCommands, orderCommands } from '../deliveries/agent-commands.ts';
import { OrganizationSigners, type Signer } from '../signing/organization-signers.ts';
import {
  type ApprovalRow,
  findRows,
  requirementsOf,
  type ShownApproval,
  showApproval,
  statusOf,
  vaultNames,
} from './approval-rows.ts';

type Decide = typeof approveApproval;

/** A vault's agents share its store: the first of them that is there takes the decision. */
const agentsTold = 20;

@Injectable()
export class Approvals {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(OrganizationSigners) private readonly signers: OrganizationSigners,
    @Inject(AgentCommands) private readonly commands: AgentCommands,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listApprovals>,
  ): Promise<Output<typeof listApprovals>> {
    const { organizationId } = ctx;
    const { status, vaultId } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const now = await databaseClock(transaction);
      const page = await this.listing.page(ctx, listApprovals.id, input.query, {
        fields: { requestedAt: { read: asDate }, expiresAt: { read: asDate } },
        where: {
          organizationId,
          ...(vaultId ? { vaultId: toUuid('vault', vaultId) } : {}),
          ...(status ? { OR: status.map((each) => whereStatus(each, now)) } : {}),
        },
        fetch: (page) => findRows(transaction, page),
        valueOf: (row, sort) => row[sort as 'requestedAt'],
        idOf: (row) => row.id,
        toItem: (row) => row,
      });
      const names = await vaultNames(transaction, organizationId, page.items);
      return {
        items: page.items.map((row) => showApproval(row, names, now)),
        nextCursor: page.nextCursor,
      };
    });
  }

  async get(ctx: TenantCtx, input: Input<typeof getApproval>): Promise<ShownApproval> {
    return this.work.read(ctx, (transaction) =>
      shown(transaction, ctx, toUuid('approval', input.params.id)),
    );
  }

  approve(ctx: TenantCtx, input: Input<Decide>): Promise<ShownApproval> {
    return this.#decide(ctx, approveApproval, 'approve', input);
  }

  deny(ctx: TenantCtx, input: Input<Decide>): Promise<ShownApproval> {
    return this.#decide(ctx, denyApproval as Operation as Decide, 'deny', input);
  }

  async #decide(
    ctx: TenantCtx,
    operation: Decide,
    verdict: ApprovalVerdict,
    input: Input<Decide>,
  ): Promise<ShownApproval> {
    const { organizationId } = ctx;
    const approver = await this.#approver(ctx);
    const signer = await this.signers.current(ctx);
    let told: string[] = [];
    try {
      const answer = await this.work.write(ctx, operation, input, async (transaction, note) => {
        const id = toUuid('approval', input.params.id);
        const row = await lockApproval(transaction, ctx, id);
        const now = await databaseClock(transaction);
        const status = statusOf(row, now);
        if (status !== 'pending') {
          throw new ServiceError('conflict', { detail: `the approval is ${status}` });
        }
        if (!requirementsOf(row).some(({ approvers }) => namesOneOf(approvers, approver.roles))) {
          throw new ServiceError('permission_denied', {
            detail: 'the policy that asks for this approval names other roles',
          });
        }
        const decision: ApprovalDecision = {
          form: approvalDecisionForm,
          organizationId: toId('organization', organizationId),
          vaultId: toId('vault', row.vaultId),
          approvalId: toId('approval', id),
          decisionId: newUuid(),
          verdict,
          approver,
          reason: input.body.reason,
          decidedAt: now.toISOString(),
          expiresAt: row.expiresAt.toISOString(),
        };
        await transaction.approvalDecision.create({
          data: {
            organizationId,
            id: decision.decisionId,
            approvalId: id,
            verdict,
            reason: decision.reason,
            personId: toUuid('person', approver.id),
            personName: approver.name,
            decidedAt: now,
          },
        });
        told = await orderDecision(transaction, row, decision, signer);
        note({
          target: { kind: 'approval', id: input.params.id },
          changes: { verdict, reason: decision.reason, vault: decision.vaultId },
        });
        return shown(transaction, ctx, id);
      });
      this.commands.nudge(told.map((agentId) => ({ organizationId, agentId })));
      return answer;
    } catch (error) {
      if (isUniqueViolation(error)) {
        throw new ServiceError('conflict', { detail: 'you have decided about this already' });
      }
      throw error;
    }
  }

  /** People alone: a key of somebody's own would let them count twice. */
  async #approver(ctx: TenantCtx): Promise<ApprovalDecision['approver']> {
    const { actor, personId, role } = ctx;
    if (actor.kind !== 'person' || personId === null || role === null) {
      throw new ServiceError('permission_denied', { detail: 'approvals are decided by people' });
    }
    const person = await this.work.read(ctx, (transaction) =>
      transaction.person.findUnique({ where: { id: personId }, select: { email: true } }),
    );
    return {
      id: toId('person', personId),
      name: actor.name,
      email: person?.email ?? '',
      roles: rolesCounted(role),
    };
  }
}

/** A higher role counts as the lower ones too, the own one first. */
export const rolesCounted = (role: Role): Role[] =>
  roles.slice(0, roles.indexOf(role) + 1).reverse();

const namesOneOf = (approvers: readonly string[], held: readonly string[]) =>
  approvers.some((name) => held.includes(name));

async function orderDecision(
  transaction: Transaction,
  { organizationId, vaultId, expiresAt }: ApprovalRow,
  decision: ApprovalDecision,
  signer: Signer,
): Promise<string[]> {
  const agents = await transaction.agent.findMany({
    where: { organizationId, vaultId, deletedAt: null, revokedAt: null },
    select: { id: true },
    orderBy: { id: 'asc' },
    take: agentsTold,
  });
  const encoded = Buffer.from(JSON.stringify(decision));
  const action = {
    $case: 'decideApproval',
    value: {
      approvalId: uuidBytes(toUuid('approval', decision.approvalId)),
      decisionId: uuidBytes(decision.decisionId),
      decision: encoded,
      signature: signApprovalDecision(encoded, signer.privateKey),
      signerChain: signer.chain,
    },
  } as const;
  await orderCommands(
    transaction,
    agents.map(({ id: agentId }) => ({
      organizationId,
      agentId,
      vaultId,
      subjectId: decision.decisionId,
      action,
      expiresAt,
    })),
  );
  return agents.map(({ id }) => id);
}

const uuidBytes = (uuid: string) => Buffer.from(uuid.replaceAll('-', ''), 'hex');

/** Locked until the end of the transaction. A deleted vault's is not there any more. */
async function lockApproval(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  id: string,
): Promise<ApprovalRow> {
  await transaction.$queryRaw`
    select id from policy.approval
    where organization_id = ${organizationId}::uuid and id = ${id}::uuid for no key update`;
  const [row] = await findRows(transaction, { where: { organizationId, id } });
  const vault =
    row &&
    (await transaction.vault.findFirst({
      where: { organizationId, id: row.vaultId, deletedAt: null },
      select: { id: true },
    }));
  if (!row || !vault) throw notFound();
  return row;
}

async function shown(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  id: string,
): Promise<ShownApproval> {
  const rows = await findRows(transaction, { where: { organizationId, id } });
  const [row] = rows;
  if (!row) throw notFound();
  const names = await vaultNames(transaction, organizationId, rows);
  return showApproval(row, names, await databaseClock(transaction));
}

function whereStatus(status: ShownApproval['status'], now: Date) {
  switch (status) {
    case 'expired':
      return {
        OR: [
          { state: 'expired' },
          { state: { in: ['pending', 'approved'] }, expiresAt: { lte: now } },
        ],
      };
    case 'pending':
    case 'approved':
      return { state: status, expiresAt: { gt: now } };
    default:
      return { state: status };
  }
}

/** How far the agents' audits have come: kept once, compared with what was kept before. */

import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { RetainedEvent } from '@keystead/contracts/agent-link';
import { commandsChainOf } from '@keystead/contracts/audit-chain';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { listAuditHeads } from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import type { Trouble } from '../agent-events/reported-trouble.ts';
import { contradictionOf, type Head } from './head-contradiction.ts';

type Shown = Output<typeof listAuditHeads>['items'][number];

@Injectable()
export class AuditHeads {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  /** @returns what people are to be told: heads that contradict what was known */
  async record(transaction: Transaction, events: readonly RetainedEvent[]): Promise<Trouble[]> {
    const troubles: Trouble[] = [];
    const inOrder = events
      .filter(({ auditHead }) => auditHead !== undefined)
      .sort((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1));
    // Two gateways may bring heads of one agent at once: each sees what the other kept.
    for (const key of new Set(inOrder.map(({ agentId }) => agentId))) {
      await transaction.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${`audit-heads/${key}`}, 0))`;
    }
    for (const event of inOrder) {
      const contradiction = await recordOne(transaction, event);
      if (contradiction === undefined) continue;
      const { organizationId, agentId } = event;
      troubles.push({
        organizationId,
        agentId,
        kind: 'agent.audit_rewritten',
        reason: contradiction,
        state: 'raised',
      });
    }
    return troubles;
  }

  async list(
    ctx: TenantCtx,
    input: Input<typeof listAuditHeads>,
  ): Promise<Output<typeof listAuditHeads>> {
    const { organizationId } = ctx;
    const agentId = toUuid('agent', input.params.id);
    const { contradicting } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const agent = await transaction.agent.findFirst({
        where: { organizationId, id: agentId, deletedAt: null },
        select: { id: true },
      });
      if (!agent) throw notFound();
      return this.listing.page(ctx, `${listAuditHeads.id}:${agentId}`, input.query, {
        fields: { receivedAt: { read: asDate } },
        where: {
          organizationId,
          agentId,
          ...(contradicting
            ? { contradiction: contradicting === 'true' ? { not: null } : null }
            : {}),
        },
        fetch: (page) => transaction.auditHead.findMany(page),
        valueOf: (row) => row.receivedAt,
        idOf: (row) => row.id,
        toItem: (row) => ({
          id: toId('auditHead', row.id),
          chainId: row.chainId,
          sequence: Number(row.sequence),
          hash: row.hash,
          at: row.at.toISOString(),
          receivedAt: row.receivedAt.toISOString(),
          entriesSincePrevious: Number(row.entriesSincePrevious),
          signature: row.signature as Shown['signature'],
          signerKeyDigest: row.signerKeyDigest,
          contradiction: row.contradiction as Shown['contradiction'],
        }),
      });
    });
  }
}

const keyOf = ({ agentId, bootId, sequence }: RetainedEvent) =>
  `${agentId}/${bootId}/${String(sequence).padStart(16, '0')}`;

async function recordOne(transaction: Transaction, event: RetainedEvent) {
  const { organizationId, agentId, bootId, auditHead } = event;
  if (auditHead === undefined) return undefined;
  const of = { organizationId, agentId };
  const { chainId, hash, signerKeyDigest } = auditHead;
  const sequence = BigInt(auditHead.sequence);
  const known = await transaction.auditHead.findMany({
    where: { ...of, chainId, sequence },
    take: 10,
  });
  const furthest = await transaction.auditHead.findMany({
    where: { ...of, chainId, sequence: { gt: sequence } },
    orderBy: { sequence: 'desc' },
    take: 10,
  });
  const isKnownChain =
    known.length > 0 ||
    furthest.length > 0 ||
    (await transaction.auditHead.count({ where: { ...of, chainId } })) > 0;
  const others = isKnownChain
    ? []
    : await transaction.auditHead.findMany({
        where: of,
        distinct: ['chainId'],
        select: { chainId: true },
        take: 100,
      });
  const replaces = others.length > 0 && !others.some((other) => isBeside(chainId, other.chainId));
  const signature = await provedSignature(transaction, of, auditHead.signature, signerKeyDigest);
  const head: Head = {
    chainId,
    sequence,
    hash,
    atMs: auditHead.atMs,
    bootId,
    eventSequence: BigInt(event.sequence),
    signature,
  };
  const asHead = (row: (typeof known)[number]): Head => ({ ...row, atMs: row.at.getTime() });
  const contradiction = contradictionOf(head, {
    same: known.map(asHead),
    furthest: furthest.map(asHead),
    replaces,
  });
  await transaction.auditHead.createMany({
    data: [
      {
        ...of,
        id: newUuid(),
        chainId,
        sequence,
        hash,
        at: new Date(auditHead.atMs),
        entriesSincePrevious: BigInt(auditHead.entriesSincePrevious),
        signature,
        signerKeyDigest,
        bootId,
        eventSequence: BigInt(event.sequence),
        contradiction: contradiction ?? null,
      },
    ],
    skipDuplicates: true,
  });
  return contradiction;
}

/** A key that was the certificate's in another session was the agent's, however it comes now. */
async function provedSignature(
  transaction: Transaction,
  of: { organizationId: string; agentId: string },
  signature: string,
  signerKeyDigest: string | null,
): Promise<string> {
  if (signerKeyDigest === null) return signature;
  if (signature === 'certificate') {
    await transaction.auditHead.updateMany({
      where: { ...of, signerKeyDigest, signature: 'other_key' },
      data: { signature: 'certificate' },
    });
    return signature;
  }
  if (signature !== 'other_key') return signature;
  const proved = await transaction.auditHead.findFirst({
    where: { ...of, signerKeyDigest, signature: 'certificate' },
    select: { id: true },
  });
  return proved === null ? signature : 'certificate';
}

/** Whether one is the chain of the commands beside the agent of the other. */
function isBeside(one: string, other: string): boolean {
  const commandsOf = (chain: string) => commandsChainOf(Buffer.from(chain, 'hex')).toString('hex');
  return one === commandsOf(other) || other === commandsOf(one);
}

/** What agents report of their own life: kept once, however often it is sent. */
import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { RetainedEvent } from '@keystead/contracts/agent-link';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { listAgentEvents } from '@keystead/contracts/monitoring';
import type { Input, Output } from '@keystead/contracts/operation';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';
import { AuditHeads } from '../audit-heads/audit-heads.ts';
import { troubleOf } from './reported-trouble.ts';

@Injectable()
export class AgentEvents {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(AuditHeads) private readonly heads: AuditHeads,
    @Inject(Bus) private readonly bus: Bus,
  ) {}

  /** Answers after the commit; a replay changes nothing and is answered the same way. */
  async record(events: readonly RetainedEvent[]): Promise<{ recorded: number; known: number }> {
    if (events.length === 0) return { recorded: 0, known: 0 };
    const { fresh, told, nudges } = await this.database.acrossTenants(
      'record-agent-events',
      async (transaction) => {
        const fresh = await keepNew(transaction, events);
        const troubles = [
          ...fresh.flatMap((event) => troubleOf(event) ?? []),
          ...(await this.heads.record(transaction, fresh)),
        ];
        const usage = fresh.filter(({ operationCounts }) => operationCounts !== undefined);
        const policies = fresh.filter(
          ({ policySet, policyDecisions, policyReplay, approval, approvalAnswer }) =>
            policySet !== undefined ||
            policyDecisions !== undefined ||
            policyReplay !== undefined ||
            approval !== undefined ||
            approvalAnswer !== undefined,
        );
        const nudges = {
          usage: usage.length > 0,
          policyReports: policies.length > 0,
        };
        if (troubles.length + usage.length + policies.length === 0) {
          return { fresh, told: new Set<string>(), nudges };
        }
        const vaults = await vaultsOf(transaction, [...troubles, ...usage, ...policies]);
        await enqueueMany(
          transaction,
          'policy.reported',
          policies.flatMap(({ organizationId, agentId, ...told }) => {
            const { policySet, policyDecisions, policyReplay, approval, approvalAnswer } = told;
            const vaultId = vaults.byAgent.get(agentId);
            return vaultId
              ? [
                  {
                    organizationId,
                    payload: {
                      vaultId,
                      agentId,
                      ...(policySet ? { policySet } : {}),
                      ...(policyDecisions ? { policyDecisions } : {}),
                      ...(policyReplay ? { policyReplay } : {}),
                      ...(approval ? { approval } : {}),
                      ...(approvalAnswer ? { approvalAnswer } : {}),
                    },
                  },
                ]
              : [];
          }),
        );
        await enqueueMany(
          transaction,
          'usage.reported',
          usage.flatMap(({ organizationId, agentId, operationCounts }) => {
            const vaultId = vaults.byAgent.get(agentId);
            return vaultId && operationCounts
              ? [{ organizationId, payload: { vaultId, agentId, operationCounts } }]
              : [];
          }),
        );
        const told = await this.desk.report(
          transaction,
          vaults.now,
          troubles.flatMap((trouble) => {
            const vaultId = vaults.byAgent.get(trouble.agentId);
            return vaultId ? [{ ...trouble, vaultId }] : [];
          }),
        );
        return { fresh, told, nudges };
      },
    );
    if (told.size > 0) this.bus.nudge('notification');
    for (const id of told) this.bus.nudge('liveEvents', id);
    if (nudges.usage) this.bus.nudge('usage');
    if (nudges.policyReports) this.bus.nudge('policyReports');
    return { recorded: fresh.length, known: events.length - fresh.length };
  }

  async list(
    ctx: TenantCtx,
    input: Input<typeof listAgentEvents>,
  ): Promise<Output<typeof listAgentEvents>> {
    const { organizationId } = ctx;
    const agentId = toUuid('agent', input.params.id);
    return this.work.read(ctx, async (transaction) => {
      const agent = await transaction.agent.findFirst({
        where: { organizationId, id: agentId, deletedAt: null },
        select: { id: true },
      });
      if (!agent) throw notFound();
      return this.listing.page(ctx, `${listAgentEvents.id}:${agentId}`, input.query, {
        fields: { receivedAt: { read: asDate } },
        where: {
          organizationId,
          agentId,
          ...(input.query.kind ? { kind: { in: input.query.kind } } : {}),
        },
        fetch: (page) => transaction.agentEvent.findMany(page),
        valueOf: (row) => row.receivedAt,
        idOf: (row) => row.id,
        toItem: (row) => ({
          id: toId('agentEvent', row.id),
          kind: row.kind as 'boot',
          occurredAt: row.occurredAt.toISOString(),
          receivedAt: row.receivedAt.toISOString(),
          bootId: row.bootId,
          sequence: Number(row.sequence),
          details: row.details as Record<string, string | number | boolean | null>,
        }),
      });
    });
  }
}

/** @returns the events that were not known */
async function keepNew(
  transaction: Transaction,
  events: readonly RetainedEvent[],
): Promise<RetainedEvent[]> {
  const rows = await transaction.agentEvent.createManyAndReturn({
    data: events.map((event) => ({
      organizationId: event.organizationId,
      id: newUuid(),
      agentId: event.agentId,
      bootId: event.bootId,
      sequence: BigInt(event.sequence),
      kind: event.kind,
      occurredAt: new Date(event.occurredAtMs),
      details: event.details,
      signature: event.signature,
    })),
    skipDuplicates: true,
    select: { agentId: true, bootId: true, sequence: true },
  });
  const kept = new Set(rows.map((row) => `${row.agentId}/${row.bootId}/${row.sequence}`));
  // Once each, also where one batch holds an event twice.
  return events.filter(({ agentId, bootId, sequence }) =>
    kept.delete(`${agentId}/${bootId}/${sequence}`),
  );
}

async function vaultsOf(
  transaction: Transaction,
  agents: readonly { organizationId: string; agentId: string }[],
): Promise<{ byAgent: Map<string, string>; now: number }> {
  const rows = await transaction.$queryRaw<{ id: string; vault_id: string; now: number }[]>`
    select a.id, a.vault_id, (extract(epoch from clock_timestamp()) * 1000)::float8 as now
    from registry.agent a
    where (a.organization_id, a.id) in (
      select * from unnest(
        ${agents.map(({ organizationId }) => organizationId)}::uuid[],
        ${agents.map(({ agentId }) => agentId)}::uuid[]
      ))`;
  return {
    byAgent: new Map(rows.map((row) => [row.id, row.vault_id])),
    now: rows[0]?.now ?? 0,
  };
}

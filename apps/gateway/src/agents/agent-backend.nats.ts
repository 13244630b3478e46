/** The agent link's questions over the bus, and revocations straight from PostgreSQL. */
import { system } from '@keystead/access/authenticator';
import {
  admitAgent,
  agentSignals,
  deliverPolicies,
  enrollAgent,
  gatewayDrained,
  readPolicySet,
  recordAgentEvents,
  recordBeats,
  renewCertificate,
} from '@keystead/contracts/agent-link';
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import type { Database } from '@keystead/database/database';
import type { Bus } from '@keystead/messaging/bus';
import type { AgentBackend, Revocation } from './agent-backend.ts';

const ctx = system('agent-link');

/**
 * A revocation carries the time of its statement and is seen after its commit. This far back is
 * read again each time: longer than any transaction of ours may take.
 */
const overlapSeconds = 30;

export class NatsAgentBackend implements AgentBackend {
  readonly #bus: Pick<Bus, 'call'>;
  readonly #database: Pick<Database, 'acrossTenants'>;
  readonly #gatewayId: string;
  /** Certificates told about, with the reading that found them last. */
  readonly #told = new Map<string, number>();
  #readings = 0;

  /** @param gatewayId uuid of this process */
  constructor(
    bus: Pick<Bus, 'call'>,
    database: Pick<Database, 'acrossTenants'>,
    gatewayId: string,
  ) {
    this.#bus = bus;
    this.#database = database;
    this.#gatewayId = gatewayId;
  }

  enroll: AgentBackend['enroll'] = (request) => this.#bus.call(enrollAgent, ctx, request);

  admit: AgentBackend['admit'] = async (identities) => {
    try {
      return (await this.#bus.call(admitAgent, ctx, { identities })).results;
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code !== 'unavailable') throw error;
      return this.#admitKnown(identities);
    }
  };

  /**
   * The registry does not answer, which is no reason to take living agents for silent: its rows
   * say the same. The pace is the one monitoring keeps, and the next answered beat corrects it.
   */
  async #admitKnown(identities: Parameters<AgentBackend['admit']>[0]) {
    const rows = await this.#database.acrossTenants(
      'admit-agents',
      (transaction) => transaction.$queryRaw<
        { agent_id: string; serial_number: string; vault_id: string; interval_ms: number }[]
      >`
        select c.agent_id, c.serial_number, a.vault_id,
          coalesce(l.interval_ms, ${limits.heartbeatIntervalMinMs}::int) as interval_ms
        from unnest(
          ${identities.map(({ organizationId }) => organizationId)}::uuid[],
          ${identities.map(({ agentId }) => agentId)}::uuid[],
          ${identities.map(({ serialNumber }) => serialNumber)}::text[]
        ) as i (organization_id, agent_id, serial_number)
        join registry.certificate c
          on c.organization_id = i.organization_id and c.serial_number = i.serial_number
          and c.agent_id = i.agent_id
          and c.revoked_at is null and c.expires_at > clock_timestamp()
        join registry.agent a
          on a.organization_id = i.organization_id and a.id = i.agent_id
          and a.revoked_at is null and a.deleted_at is null
        join registry.vault v
          on v.organization_id = a.organization_id and v.id = a.vault_id and v.deleted_at is null
        left join monitoring.agent_liveness l
          on l.organization_id = a.organization_id and l.agent_id = a.id`,
    );
    const admitted = new Map(rows.map((row) => [`${row.agent_id}/${row.serial_number}`, row]));
    return identities.map(({ agentId, serialNumber }) => {
      const row = admitted.get(`${agentId}/${serialNumber}`);
      return row
        ? {
            outcome: 'admitted' as const,
            vaultId: row.vault_id,
            intervalMs: row.interval_ms,
            assignedPolicySetVersion: null,
          }
        : { outcome: 'refused' as const };
    });
  }

  beats: AgentBackend['beats'] = async ({ number, beats }) =>
    (await this.#bus.call(recordBeats, ctx, { gatewayId: this.#gatewayId, number, beats })).results;

  events: AgentBackend['events'] = async (events) => {
    await this.#bus.call(recordAgentEvents, ctx, { events });
  };

  deliver: AgentBackend['deliver'] = async (agents) =>
    (await this.#bus.call(deliverPolicies, ctx, { agents })).results;

  policySetPart: AgentBackend['policySetPart'] = (asked) =>
    this.#bus.call(readPolicySet, ctx, asked);

  renew: AgentBackend['renew'] = (identity, csr) =>
    this.#bus.call(renewCertificate, ctx, { identity, csr });

  signals: AgentBackend['signals'] = async (signals) => {
    await this.#bus.call(agentSignals, ctx, { gatewayId: this.#gatewayId, ...signals });
  };

  /** Says that this gateway stops hearing on purpose. */
  async drained(timeoutMs: number): Promise<void> {
    await this.#bus.call(gatewayDrained, ctx, { gatewayId: this.#gatewayId }, timeoutMs);
  }

  async revokedSince(cursor: string | null): Promise<{ revoked: Revocation[]; cursor: string }> {
    const { now, rows } = await this.#database.acrossTenants(
      'poll-revocations',
      async (transaction) => {
        const [clock] = await transaction.$queryRaw<{ now: string }[]>`
          select clock_timestamp()::text as now`;
        const since = cursor ?? clock?.now;
        return {
          now: clock?.now as string,
          rows: await transaction.$queryRaw<
            { agent_id: string; serial_number: string; whole: boolean }[]
          >`
            select c.agent_id, c.serial_number, a.revoked_at is not null as whole
            from registry.certificate c
            join registry.agent a on a.organization_id = c.organization_id and a.id = c.agent_id
            where c.revoked_at >= ${since}::timestamptz - make_interval(secs => ${overlapSeconds})`,
        };
      },
    );
    this.#readings += 1;
    const revoked: Revocation[] = [];
    for (const { agent_id: agentId, serial_number: serialNumber, whole } of rows) {
      const certificate = `${agentId}/${serialNumber}/${whole}`;
      if (!this.#told.has(certificate)) {
        revoked.push({ agentId, serialNumber: whole ? null : serialNumber });
      }
      this.#told.set(certificate, this.#readings);
    }
    for (const [certificate, reading] of this.#told) {
      if (reading < this.#readings) this.#told.delete(certificate);
    }
    return { revoked, cursor: now };
  }
}

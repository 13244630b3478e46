/**
 * The registry's word on a certificate when a stream opens. Revoked, deleted, expired, unknown:
 * one and the same refusal. Reads only; a batch is one statement.
 */
import type { AgentIdentity, admitAgent } from '@keystead/contracts/agent-link';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { expectedIntervalMs } from '../agents/agent-rows.ts';
import { CONFIG, type Config } from '../config.ts';

interface AdmittedRow {
  /** Position in the batch, from 1. */
  position: number;
  vault_id: string;
  interval_ms: number | null;
  assigned_policy_set: number | null;
  vault_seconds: number | null;
  tag_seconds: number | null;
  organization_seconds: number | null;
}

@Injectable()
export class Admission {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async admit(identities: readonly AgentIdentity[]): Promise<z.input<typeof admitAgent.output>> {
    const rows = await this.database.acrossTenants(
      'admit-agents',
      (transaction) => transaction.$queryRaw<AdmittedRow[]>`
        select i.position::int, a.vault_id, l.interval_ms, p.version as assigned_policy_set,
          v.offline_after_seconds as vault_seconds,
          (
            select min(t.offline_after_seconds) from monitoring.threshold_rule t
            where t.organization_id = v.organization_id and t.tag = any(v.tags)
          ) as tag_seconds,
          o.offline_after_seconds as organization_seconds
        from unnest(
          ${identities.map(({ organizationId }) => organizationId)}::uuid[],
          ${identities.map(({ agentId }) => agentId)}::uuid[],
          ${identities.map(({ serialNumber }) => serialNumber)}::text[]
        ) with ordinality as i (organization_id, agent_id, serial_number, position)
        join registry.certificate c
          on c.organization_id = i.organization_id and c.serial_number = i.serial_number
          and c.agent_id = i.agent_id
          and c.revoked_at is null and c.expires_at > clock_timestamp()
        join registry.agent a
          on a.organization_id = i.organization_id and a.id = i.agent_id
          and a.revoked_at is null and a.deleted_at is null
        join registry.vault v
          on v.organization_id = a.organization_id and v.id = a.vault_id and v.deleted_at is null
        left join auth.organization o on o.organization_id = a.organization_id
        left join monitoring.agent_liveness l
          on l.organization_id = a.organization_id and l.agent_id = a.id
        left join policy.policy_set_assignment p
          on p.organization_id = a.organization_id and p.vault_id = a.vault_id`,
    );
    const admitted = new Map(rows.map((row) => [row.position, row]));
    return {
      results: identities.map((_, index) => {
        const row = admitted.get(index + 1);
        if (!row) return { outcome: 'refused' };
        return {
          outcome: 'admitted',
          vaultId: row.vault_id,
          intervalMs:
            row.interval_ms ?? expectedIntervalMs(row, this.config.KEYSTEAD_OFFLINE_AFTER_SECONDS),
          assignedPolicySetVersion: row.assigned_policy_set,
        };
      }),
    };
  }
}

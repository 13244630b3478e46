/** Reads from the rows what a delivery is about. */
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { AlertKind, Severity } from '@keystead/contracts/monitoring';
import type { Transaction } from '@keystead/database/database';
import type { AlertView, Message } from '../delivery/message.ts';

const agentsReadMax = 2_000;
const agentsPerAlertMax = 50;

export interface DeliveryAbout {
  organization: { organizationId: string; name: string };
  id: string;
  kind: string;
  content: unknown;
  channel: { id: string; name: string; kind: string };
}

/**
 * @returns undefined where nothing is left to tell, and with the message the time the youngest of
 * its alerts opened at
 */
export async function readMessage(
  transaction: Transaction,
  delivery: DeliveryAbout,
  now: Date,
): Promise<{ message: Message; openedAt: Date | undefined } | undefined> {
  const { channel } = delivery;
  const { organizationId, name } = delivery.organization;
  const organization = { id: toId('organization', organizationId), name };
  if (delivery.kind === 'channel.test') {
    const { requestedBy } = (delivery.content ?? {}) as { requestedBy?: string };
    const message: Message = {
      type: 'channel.test',
      at: now.toISOString(),
      organization,
      channel: { id: toId('channel', channel.id), name: channel.name },
      requestedBy: requestedBy ?? 'Somebody',
    };
    return { message, openedAt: undefined };
  }
  const { alerts, alertCount } = await readAlerts(transaction, organizationId, delivery.id);
  const last = alerts.at(-1);
  if (!last) return undefined;
  // A webhook's body is the same in every attempt, so its time is the event's. People read how
  // long something has been going on when the mail is written.
  const at = channel.kind === 'webhook' ? last.openedAt : now.toISOString();
  const type = delivery.kind as AlertKind;
  return {
    message: { type, at, organization, alerts, alertCount },
    openedAt: new Date(last.openedAt),
  };
}

async function readAlerts(
  transaction: Transaction,
  organizationId: string,
  deliveryId: string,
): Promise<{ alerts: AlertView[]; alertCount: number }> {
  const rows = await transaction.$queryRaw<
    {
      id: string;
      kind: AlertKind;
      severity: Severity;
      opened_at: Date;
      silent_since: Date | null;
      outage_seconds: number | null;
      agent_count: number;
      flapping: boolean;
      reasons: string[];
      vault_id: string;
      vault_name: string;
      tags: string[];
      total: number;
    }[]
  >`
    select a.id, a.kind, a.severity, a.opened_at, a.silent_since, a.outage_seconds, a.agent_count,
      a.flapping, a.reasons, v.id as vault_id, v.name as vault_name, v.tags, (count(*) over ())::int as total
    from notification.delivery_alert t
    join monitoring.alert a on a.organization_id = t.organization_id and a.id = t.alert_id
    join registry.vault v on v.organization_id = a.organization_id and v.id = a.vault_id
    where t.organization_id = ${organizationId}::uuid and t.delivery_id = ${deliveryId}::uuid
    order by a.opened_at, v.name, a.id limit ${limits.deliveryAlertsMax}`;
  const perAlert = Math.max(
    1,
    Math.min(agentsPerAlertMax, Math.floor(agentsReadMax / (rows.length || 1))),
  );
  const agents = await transaction.$queryRaw<
    { alert_id: string; agent_id: string; agent_name: string }[]
  >`
    select k.id as alert_id, g.agent_id, g.agent_name
    from unnest(${rows.map(({ id }) => id)}::uuid[]) as k(id)
    cross join lateral (
      select agent_id, agent_name from monitoring.alert_agent
      where organization_id = ${organizationId}::uuid and alert_id = k.id
      order by agent_name, agent_id limit ${perAlert}
    ) g`;
  const byAlert = Map.groupBy(agents, ({ alert_id }) => alert_id);
  const alerts = rows.map((row) => ({
    id: toId('alert', row.id),
    kind: row.kind,
    severity: row.severity,
    vault: { id: toId('vault', row.vault_id), name: row.vault_name, tags: row.tags },
    agents: (byAlert.get(row.id) ?? []).map((agent) => ({
      id: toId('agent', agent.agent_id),
      name: agent.agent_name,
    })),
    agentCount: row.agent_count,
    openedAt: row.opened_at.toISOString(),
    silentSince: row.silent_since?.toISOString() ?? null,
    outageSeconds: row.outage_seconds === null ? null : Math.round(row.outage_seconds * 10) / 10,
    flapping: row.flapping,
    reasons: row.reasons,
  }));
  return { alerts, alertCount: rows[0]?.total ?? 0 };
}

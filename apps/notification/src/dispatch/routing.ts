/** Who is told of an alert: pure. */
import type { AlertKind } from '@keystead/contracts/monitoring';

export interface RoutedAlert {
  organizationId: string;
  id: string;
  kind: AlertKind;
  vaultTags: readonly string[];
  /** Somebody asked for silence about the vault. */
  muted: boolean;
}

export interface RoutingSubscription {
  organizationId: string;
  events: readonly string[];
  /** Empty: every vault. */
  vaultTags: readonly string[];
  channelIds: readonly string[];
}

export interface Group {
  organizationId: string;
  channelId: string;
  kind: AlertKind;
  suppressed: boolean;
  alertIds: string[];
}

/**
 * Alerts by the message they belong into: one for each channel and kind, whichever and however
 * many subscriptions lead there. In a fixed order, so that dispatchers lock alike.
 */
export function route(
  alerts: readonly RoutedAlert[],
  subscriptions: readonly RoutingSubscription[],
): Group[] {
  const byOrganization = Map.groupBy(subscriptions, ({ organizationId }) => organizationId);
  const groups = new Map<string, Group>();
  for (const alert of alerts) {
    const channels = new Set(
      (byOrganization.get(alert.organizationId) ?? [])
        .filter((subscription) => wants(subscription, alert))
        .flatMap(({ channelIds }) => channelIds),
    );
    for (const channelId of channels) {
      const { organizationId, kind, muted: suppressed } = alert;
      const key = [organizationId, channelId, kind, suppressed].join('/');
      const group = groups.get(key);
      if (group) group.alertIds.push(alert.id);
      else groups.set(key, { organizationId, channelId, kind, suppressed, alertIds: [alert.id] });
    }
  }
  return [...groups.entries()]
    .sort(([one], [other]) => (one < other ? -1 : 1))
    .map(([, group]) => group);
}

function wants({ events, vaultTags }: RoutingSubscription, alert: RoutedAlert): boolean {
  return (
    events.includes(alert.kind) &&
    (vaultTags.length === 0 || vaultTags.some((tag) => alert.vaultTags.includes(tag)))
  );
}

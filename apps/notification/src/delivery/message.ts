/** What is to be told, before it has a form: the input of rendering. Times are ISO 8601 in UTC. */
import type { AlertKind, Severity } from '@keystead/contracts/monitoring';

export interface AlertView {
  /** Public ids throughout. */
  id: string;
  kind: AlertKind;
  severity: Severity;
  vault: { id: string; name: string; tags: readonly string[] };
  /** The first of them; `agentCount` is the truth. */
  agents: readonly { id: string; name: string }[];
  agentCount: number;
  openedAt: string;
  /** The last heartbeat before the silence. */
  silentSince: string | null;
  /** For a recovery. */
  outageSeconds: number | null;
  flapping: boolean;
  /** For what agents report: words of the contract. */
  reasons: readonly string[];
}

interface Named {
  id: string;
  name: string;
}

export interface AlertsMessage {
  type: AlertKind;
  at: string;
  organization: Named;
  /** At least one; at most as many as are sent one by one. */
  alerts: readonly AlertView[];
  /** How many there are altogether. */
  alertCount: number;
}

export type NoticeMessage =
  | { type: 'channel.test'; at: string; organization: Named; channel: Named; requestedBy: string }
  | {
      type: 'channel.disabled';
      at: string;
      organization: Named;
      channel: Named;
      reason: 'failing' | 'gone';
      failingSince: string | null;
      /** What the receiver answered last, or what went wrong. */
      lastAnswer: string | null;
    }
  | {
      type: 'email.confirmation';
      at: string;
      organizationName: string;
      channelName: string;
      confirmUrl: string;
    }
  | {
      type: 'member.invitation';
      at: string;
      organizationName: string;
      invitedBy: string;
      role: string;
      acceptUrl: string;
    }
  | {
      type: 'installation.deaf';
      at: string;
      gatewayId: string;
      startedAt: string;
      endedAt: string | null;
    };

export type Message = AlertsMessage | NoticeMessage;

export function isAlerts(message: Message): message is AlertsMessage {
  return 'alerts' in message;
}

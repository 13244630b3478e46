/**
 * The words of every message, once for all channels: what happened, to what, since when, for how
 * long, what to look at. Plain text throughout; each channel escapes for itself.
 */
import { wordsOfReason } from '@keystead/contracts/monitoring';
import {
  type AlertsMessage,
  type AlertView,
  isAlerts,
  type Message,
  type NoticeMessage,
} from './message.ts';

export interface Card {
  /** One line that stands alone: a mail's subject, a notification's text. */
  subject: string;
  tone: 'critical' | 'warning' | 'good' | 'neutral';
  headline: string;
  lead: string;
  entries: { title: string; lines: string[] }[];
  /** What was not listed, e.g. "and 180 more vaults"; empty where everything was. */
  more: string;
  advice: string;
  action: { label: string; url: string } | undefined;
  footer: string;
}

export interface WordingOptions {
  /** Where people sign in; links lead there. */
  publicUrl: string;
  entriesMax: number;
}

const agentsNamed = 5;
const nameShownMax = 60;

export function wordMessage(message: Message, options: WordingOptions): Card {
  return isAlerts(message) ? wordAlerts(message, options) : wordNotice(message, options);
}

/** "4 min 30 s", "2 h 5 min", "3 days 4 h": two units at most, the second left out when zero. */
export function humanDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), whole >= 172_800 ? 'days' : 'day'],
    [Math.floor(whole / 3_600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first === -1) return '0 s';
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

/** "2026-11-21 06:24:10 UTC" */
export function humanTime(iso: string): string {
  return `${new Date(iso).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** "06:24 UTC", with the day where it is not the day of `nowIso`. */
export function shortTime(iso: string, nowIso: string): string {
  const at = new Date(iso);
  const time = `${at.toISOString().slice(11, 16)} UTC`;
  if (at.toISOString().slice(0, 10) === new Date(nowIso).toISOString().slice(0, 10)) return time;
  return `${at.getUTCDate()} ${months[at.getUTCMonth()]} ${time}`;
}

/**
 * A name as it may stand in a line: no control characters, nothing that turns the direction of
 * the text around it, not endless. A right-to-left name is isolated.
 */
export function shownName(name: string): string {
  const clean = oneLine(name);
  const short = clip(clean, nameShownMax) || '(no name)';
  return /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u.test(
    short,
  )
    ? `\u2068${short}\u2069`
    : short;
}

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** Cuts between characters as people see them, never inside an emoji. */
function clip(text: string, most: number): string {
  if (text.length <= most) return text;
  let kept = '';
  for (const { segment } of graphemes.segment(text)) {
    if (kept.length + segment.length > most - 1) break;
    kept += segment;
  }
  return `${kept}…`;
}

function plural(count: number, one: string, many = `${one}s`): string {
  return count === 1 ? `1 ${one}` : `${count.toLocaleString('en')} ${many}`;
}

function secondsBetween(fromIso: string, toIso: string): number {
  return (Date.parse(toIso) - Date.parse(fromIso)) / 1_000;
}

function sinceOf(alert: AlertView): string {
  return alert.silentSince ?? alert.openedAt;
}

function agentNames({ agents, agentCount }: AlertView): string {
  const named = agents.slice(0, agentsNamed).map(({ name }) => shownName(name));
  const rest = Math.max(agentCount, agents.length) - named.length;
  if (named.length === 0) return plural(rest, 'agent');
  return rest > 0 ? `${named.join(', ')} and ${rest} more` : named.join(', ');
}

interface AlertWords {
  subject(alert: AlertView, at: string): string;
  lead(alert: AlertView, at: string): string;
  /** What follows "200 vaults". */
  many: string;
  manyLead: string;
  advice: string;
}

const lookAtSilence =
  'Look at: whether the agent process runs, whether its machine reaches the control plane, and ' +
  "the last lines of the agent's log. A vault keeps serving its secrets without the control plane.";

const words: Record<AlertsMessage['type'], AlertWords> = {
  'vault.offline': {
    subject: (alert, at) =>
      `${shownName(alert.vault.name)} is offline: silent since ${shortTime(sinceOf(alert), at)} ` +
      `(${humanDuration(secondsBetween(sinceOf(alert), at))})`,
    lead: (alert, at) =>
      `No agent of this vault has been heard since ${humanTime(sinceOf(alert))}, ` +
      `for ${humanDuration(secondsBetween(sinceOf(alert), at))}.`,
    many: 'are offline',
    manyLead: 'No agent of these vaults is heard any more. The first fell silent',
    advice: lookAtSilence,
  },
  'vault.degraded': {
    subject: (alert, at) =>
      `${shownName(alert.vault.name)} is degraded: ${plural(alert.agentCount, 'agent')} ` +
      `silent since ${shortTime(sinceOf(alert), at)}`,
    lead: (alert, at) =>
      `${plural(alert.agentCount, 'agent')} of this vault fell silent at ` +
      `${humanTime(sinceOf(alert))}, ${humanDuration(secondsBetween(sinceOf(alert), at))} ago. ` +
      'Others still report.',
    many: 'are degraded',
    manyLead: 'Some of the agents of these vaults are not heard any more. The first fell silent',
    advice: lookAtSilence,
  },
  'vault.recovered': {
    subject: (alert) =>
      alert.outageSeconds === null
        ? `${shownName(alert.vault.name)} is back`
        : `${shownName(alert.vault.name)} is back after ${humanDuration(alert.outageSeconds)}`,
    lead: (alert) =>
      `All is well again since ${humanTime(alert.openedAt)}.` +
      (alert.outageSeconds === null
        ? ''
        : ` The silence lasted ${humanDuration(alert.outageSeconds)}.`),
    many: 'are back',
    manyLead: 'These vaults report again. The first came back',
    advice: '',
  },
  'vault.stopped': {
    subject: (alert, at) =>
      `${shownName(alert.vault.name)} was stopped at ${shortTime(alert.openedAt, at)}`,
    lead: (alert) =>
      `Its agent said goodbye at ${humanTime(alert.openedAt)}: an orderly shutdown, not a failure.`,
    many: 'were stopped',
    manyLead: 'Their agents said goodbye: orderly shutdowns, not failures. The first stopped',
    advice:
      'Nothing to do if this was meant. A vault that stays stopped is reported as offline later.',
  },
  'agent.duplicated': {
    subject: (alert) =>
      alert.agentCount === 1
        ? `Agent ${agentNames(alert)} of ${shownName(alert.vault.name)} runs twice`
        : `${plural(alert.agentCount, 'agent')} of ${shownName(alert.vault.name)} run twice`,
    lead: (alert) =>
      `Two processes report with one identity since ${humanTime(alert.openedAt)}, in turn.`,
    many: 'have agents that run twice',
    manyLead: 'Two processes report with one identity, in turn. First seen',
    advice:
      'Look at: a copied machine or data directory. Stop the copy and enrol it under its own name. If nobody made a copy, revoke the agent: somebody else has its key.',
  },
  'agent.rotation_due': reported({
    what: 'is to rotate secrets soon',
    many: 'are to rotate secrets soon',
    advice:
      'Nothing to do where the rotation runs by itself. A secret that people rotate by hand is listed by the agent.',
  }),
  'agent.rotation_failed': reported({
    what: 'could not rotate a secret',
    many: 'could not rotate secrets',
    advice:
      "Look at: the rotation's history on the agent, and whether the system whose password is rotated can be reached. The old value works on.",
  }),
  'agent.backup_failed': reported({
    what: 'has a backup that failed',
    many: 'have backups that failed',
    advice:
      "Look at: the agent's log, room at the destination, and whether it can be reached. Until one succeeds, the newest backup is an older one.",
  }),
  'agent.audit_blocked': reported({
    what: 'cannot write its audit',
    many: 'cannot write their audit',
    advice:
      'Look at: a full, slow or read-only disk under the audit. Until it can be written, the vault answers no request.',
  }),
  'agent.audit_rewritten': reported({
    what: 'has an audit that contradicts itself',
    many: 'have audits that contradict themselves',
    advice:
      'Somebody may have changed or removed what was logged. Run keystead-agent audit verify on the machine, keep its log files, and compare them with the audit heads of the agent.',
  }),
  'agent.impaired': reported({
    what: 'cannot serve as it should',
    many: 'cannot serve as they should',
    advice:
      "Look at: the database under the store, the provider of the master key, and the way to both from the agent's machine.",
  }),
  'agent.override': reported({
    what: 'was overridden by its owner',
    many: 'were overridden by their owners',
    advice:
      'Ask who did it and why. What was done meanwhile stands in the local audit of the agent.',
  }),
  'agent.security': reported({
    what: 'reports suspicious activity',
    many: 'report suspicious activity',
    advice:
      'Look at: the local audit of the agent, filtered by the time of this message. An identity that you do not trust is locked or deleted there.',
  }),
  'policy.rejected': reported({
    what: 'rejects a policy set',
    many: 'reject a policy set',
    advice:
      'The set before it goes on. Look at: the problems of its policies, and the version of the agent.',
  }),
  'policy.drifted': reported({
    what: 'holds another policy set than it should',
    many: 'hold other policy sets than they should',
    advice:
      "It is being sent again. Look at: who can write to the agent's data folder, and whether an older copy of the machine was started.",
  }),
  'policy.stale': reported({
    what: 'decides by a policy set that may be out of date',
    many: 'decide by policy sets that may be out of date',
    advice: 'Look at: whether the agent reaches the control plane, and its clock.',
  }),
  'policy.halted': reported({
    what: 'stopped a rollout of policies',
    many: 'stopped rollouts of policies',
    advice:
      'Look at the rollout: resume it when the cause is mended, or roll it back. Vaults that were not reached keep what they hold.',
  }),
  'policy.awaiting_approval': {
    subject: (alert) =>
      `A rollout of policies to ${shownName(alert.vault.name)} waits for a second person`,
    lead: (alert) =>
      `Nobody has approved it since it was begun at ${humanTime(alert.openedAt)}: ${reasonsOf(alert)}.`,
    many: 'are to get policies that nobody has approved yet',
    manyLead: 'Rollouts to these vaults wait for a second person. The first was begun',
    advice:
      'Somebody else than who began it approves it, or anybody stops it. Until then no vault is given anything.',
  },
  'approval.requested': reported({
    what: 'keeps a request waiting for approval',
    many: 'keep requests waiting for approval',
    advice:
      'Whoever holds a role that the policy names decides, here or at the vault. Undecided, it ends with its time.',
  }),
};

/** The words of what agents report themselves: which of it stands in the alert's reasons. */
function reported({
  what,
  many,
  advice,
}: {
  what: string;
  many: string;
  advice: string;
}): AlertWords {
  return {
    subject: (alert) => `${shownName(alert.vault.name)} ${what}`,
    lead: (alert) =>
      `${agentNames(alert)} reported it at ${humanTime(alert.openedAt)}: ${reasonsOf(alert)}.`,
    many,
    manyLead: 'Their agents reported it. The first did so',
    advice,
  };
}

function reasonsOf({ reasons }: AlertView): string {
  return reasons.length === 0 ? 'no reason was given' : reasons.map(wordsOfReason).join('; ');
}

function wordAlerts(message: AlertsMessage, { publicUrl, entriesMax }: WordingOptions): Card {
  const { alerts, at, organization } = message;
  const word = words[message.type];
  const first = alerts[0];
  if (!first) throw new RangeError('a message is about at least one alert');
  const count = Math.max(message.alertCount, alerts.length);
  const earliest = alerts
    .map((alert) => (message.type === 'vault.recovered' ? alert.openedAt : sinceOf(alert)))
    .reduce((one, other) => (Date.parse(other) < Date.parse(one) ? other : one));
  const many = `${plural(count, 'vault')} ${word.many}`;
  const one = count === 1;
  const subject = one
    ? word.subject(first, at)
    : `${many}, the first since ${shortTime(earliest, at)}`;
  const listed = alerts.slice(0, entriesMax);
  return {
    subject,
    tone: toneOf(message),
    headline: one ? subject : many,
    lead: one ? word.lead(first, at) : `${word.manyLead} at ${humanTime(earliest)}.`,
    entries: listed.map((alert) => ({
      title: shownName(alert.vault.name),
      lines: entryLines(alert, at),
    })),
    more: count > listed.length ? `and ${plural(count - listed.length, 'more vault')}` : '',
    advice: word.advice,
    action: one
      ? { label: 'Open the vault', url: link(publicUrl, `/vaults/${first.vault.id}`) }
      : { label: 'Open the alerts', url: link(publicUrl, '/alerts') },
    footer: `Sent by Keystead for ${shownName(organization.name)}.`,
  };
}

function toneOf({ type, alerts }: AlertsMessage): Card['tone'] {
  if (type === 'vault.recovered') return 'good';
  if (alerts.some(({ severity }) => severity === 'critical')) return 'critical';
  return alerts.some(({ severity }) => severity === 'warning') ? 'warning' : 'neutral';
}

function entryLines(alert: AlertView, at: string): string[] {
  const lines = [`${alert.agentCount === 1 ? 'Agent' : 'Agents'}: ${agentNames(alert)}`];
  if (alert.kind === 'vault.recovered') {
    lines.push(`Back since ${humanTime(alert.openedAt)}`);
    if (alert.outageSeconds !== null) lines.push(`Away for ${humanDuration(alert.outageSeconds)}`);
  } else if (alert.silentSince !== null) {
    const length = humanDuration(secondsBetween(alert.silentSince, at));
    lines.push(`Silent since ${humanTime(alert.silentSince)} (${length})`);
  } else {
    lines.push(`Since ${humanTime(alert.openedAt)}`);
  }
  if (alert.reasons.length > 0) lines.push(`What: ${reasonsOf(alert)}`);
  if (alert.vault.tags.length > 0) {
    const shown = alert.vault.tags.slice(0, 8).map(shownName);
    const rest = alert.vault.tags.length - shown.length;
    lines.push(`Tags: ${shown.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`);
  }
  if (alert.flapping) lines.push('Comes and goes: it is told again only after a calm while');
  return lines;
}

function wordNotice(message: NoticeMessage, { publicUrl }: WordingOptions): Card {
  const base = { tone: 'neutral', entries: [], more: '', advice: '', action: undefined } as const;
  switch (message.type) {
    case 'channel.test': {
      const channel = shownName(message.channel.name);
      return {
        ...base,
        entries: [],
        tone: 'good',
        subject: `Test of the channel ${channel}`,
        headline: 'This channel works',
        lead: `${shownName(message.requestedBy)} sent this test at ${humanTime(message.at)}. Alerts that are subscribed to ${channel} arrive here.`,
        action: { label: 'Open the channels', url: link(publicUrl, '/channels') },
        footer: `Sent by Keystead for ${shownName(message.organization.name)}.`,
      };
    }
    case 'channel.disabled': {
      const channel = shownName(message.channel.name);
      const since = message.failingSince
        ? ` since ${humanTime(message.failingSince)}, for ${humanDuration(secondsBetween(message.failingSince, message.at))}`
        : '';
      return {
        ...base,
        tone: 'critical',
        subject: `The channel ${channel} was disabled: alerts no longer reach it`,
        headline: `The channel ${channel} was disabled`,
        lead:
          message.reason === 'gone'
            ? 'Its receiver says that it is gone for good. Alerts no longer reach it.'
            : `Every delivery to it has failed${since}. Alerts no longer reach it.`,
        entries: message.lastAnswer
          ? [{ title: 'The last answer', lines: [clip(oneLine(message.lastAnswer), 300)] }]
          : [],
        advice:
          'Mend the receiver, enable the channel, press test, and replay the deliveries that are listed as dead.',
        action: {
          label: 'Open the channel',
          url: link(publicUrl, `/channels/${message.channel.id}`),
        },
        footer: `Sent by Keystead to the owners of ${shownName(message.organization.name)}.`,
      };
    }
    case 'email.confirmation': {
      const organization = shownName(message.organizationName);
      return {
        ...base,
        entries: [],
        subject: `Confirm that ${organization} may send you alerts`,
        headline: 'May we send you alerts?',
        lead: `${organization} named this address for alerts of its vaults (channel ${shownName(message.channelName)}). Nothing else is sent here until you confirm.`,
        advice: 'If you did not expect this, do nothing: you will not be asked about it again.',
        action: { label: 'Confirm this address', url: message.confirmUrl },
        footer: 'Sent by Keystead, once.',
      };
    }
    case 'member.invitation': {
      const organization = shownName(message.organizationName);
      return {
        ...base,
        entries: [],
        subject: `${shownName(message.invitedBy)} invites you to ${organization}`,
        headline: `You are invited to ${organization}`,
        lead: `${shownName(message.invitedBy)} invites you to look after the vaults of ${organization} with the role ${shownName(message.role)}.`,
        advice: 'The link works once. If you did not expect this, do nothing.',
        action: { label: 'Accept the invitation', url: message.acceptUrl },
        footer: 'Sent by Keystead, once.',
      };
    }
    case 'installation.deaf': {
      const ended = message.endedAt;
      const length = humanDuration(secondsBetween(message.startedAt, ended ?? message.at));
      return {
        ...base,
        tone: ended ? 'warning' : 'critical',
        subject: ended
          ? `A gateway could not hear for ${length} (until ${shortTime(ended, message.at)})`
          : `A gateway cannot hear since ${shortTime(message.startedAt, message.at)}`,
        headline: ended ? 'A gateway could not hear' : 'A gateway cannot hear',
        lead: ended
          ? `From ${humanTime(message.startedAt)} to ${humanTime(ended)} heartbeats did not reach the database through it.`
          : `Since ${humanTime(message.startedAt)} heartbeats do not reach the database through it.`,
        entries: [{ title: 'Gateway', lines: [shownName(message.gatewayId)] }],
        advice:
          'Silence in that time counts for no vault: deadlines were extended, and no alarm was raised for it. Look at: the gateway, NATS, PostgreSQL.',
        footer: 'Sent by Keystead to the operators of the installation.',
      };
    }
  }
}

function link(publicUrl: string, path: string): string {
  return publicUrl.replace(/\/+$/, '') + path;
}

/** Without line breaks, control characters, and characters that turn the direction of text. */
function oneLine(text: string): string {
  return text
    .toWellFormed()
    .replace(/[\p{Cc}\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]+/gu, ' ')
    .trim();
}

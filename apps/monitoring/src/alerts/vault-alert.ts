/**
 * The decision about one vault: given the states of its agents and the alert that is open about
 * it, what is to be told. No I/O.
 *
 * While a vault flaps, its alert stays open until the vault has been calm for a while. What people
 * were told last is then always the graver of the possible truths: a vault that dies for good
 * while it flaps has already been told.
 */
import { limits } from '@keystead/contracts/limits';
import { wordsOfReason } from '@keystead/contracts/monitoring';
import type { AgentStatus } from '@keystead/contracts/registry';

export interface VaultAgent {
  id: string;
  name: string;
  status: AgentStatus;
  lastSeenAt: number | null;
  /** Outages of this agent that were opened within the last hour, this one included. */
  recentOutages: number;
}

export interface OpenAlert {
  id: string;
  kind: 'vault.offline' | 'vault.degraded';
  flapping: boolean;
  calmAt: number | null;
}

export type VaultCondition = 'fine' | 'degraded' | 'offline';

/** `offline`: agents are gone and none serves. Stopped and pending ones neither serve nor are gone. */
export function conditionOf(agents: readonly Pick<VaultAgent, 'status'>[]): VaultCondition {
  let gone = 0;
  let serving = 0;
  for (const { status } of agents) {
    if (status === 'offline') gone += 1;
    else if (status === 'online' || status === 'late') serving += 1;
  }
  if (gone === 0) return 'fine';
  return serving === 0 ? 'offline' : 'degraded';
}

export type Decision =
  | { do: 'nothing' }
  | { do: 'raise'; kind: OpenAlert['kind']; flapping: boolean; supersedes: string | null }
  /** The alert goes on; the list of agents may have changed. */
  | { do: 'keep'; id: string }
  /** It flaps: the alert stays open, and ends by itself when nothing happens until `calmAt`. */
  | { do: 'hold'; id: string; calmAt: number }
  | { do: 'resolve'; id: string };

export function nextVaultAlert(
  agents: readonly VaultAgent[],
  open: OpenAlert | undefined,
  now: number,
): Decision {
  const condition = conditionOf(agents);
  const flaps =
    open?.flapping === true ||
    agents.some(
      ({ status, recentOutages }) =>
        status === 'offline' && recentOutages >= limits.flapOutagesPerHour,
    );
  if (condition === 'fine') {
    if (!open) return { do: 'nothing' };
    return open.flapping
      ? { do: 'hold', id: open.id, calmAt: now + limits.flapCalmSeconds * 1_000 }
      : { do: 'resolve', id: open.id };
  }
  const kind = condition === 'offline' ? 'vault.offline' : 'vault.degraded';
  if (!open) return { do: 'raise', kind, flapping: flaps, supersedes: null };
  if (open.kind === kind) return { do: 'keep', id: open.id };
  if (kind === 'vault.degraded' && open.flapping) return { do: 'keep', id: open.id };
  return { do: 'raise', kind, flapping: flaps, supersedes: open.id };
}

export interface AlertRule {
  events: readonly string[];
  vaultTags: readonly string[];
  action: string;
  severity: string | null;
}

const rank = { info: 0, warning: 1, critical: 2 } as const;
export type SeverityName = keyof typeof rank;
export const severityRank = (severity: SeverityName): number => rank[severity];

/** What the organization's rules make of an event: ignored, or raised with the gravest severity. */
export function applyRules(
  rules: readonly AlertRule[],
  kind: string,
  vaultTags: readonly string[],
  otherwise: SeverityName,
): SeverityName | 'ignored' {
  let chosen: SeverityName | undefined;
  for (const rule of rules) {
    if (!rule.events.includes(kind)) continue;
    if (rule.vaultTags.length > 0 && !rule.vaultTags.some((tag) => vaultTags.includes(tag))) {
      continue;
    }
    if (rule.action === 'ignore') return 'ignored';
    const severity = rule.severity as SeverityName | null;
    if (severity && (chosen === undefined || rank[severity] > rank[chosen])) chosen = severity;
  }
  return chosen ?? otherwise;
}

/** One line for people: what happened to which vault, and since when. */
export function summarize(
  kind: string,
  vaultName: string,
  facts: {
    agentNames: readonly string[];
    agentTotal: number;
    silentSince: number | null;
    flapping: boolean;
    outageSeconds?: number;
    reasons?: readonly string[];
  },
): string {
  const names = list(facts.agentNames);
  const since =
    facts.silentSince === null
      ? ''
      : ` since ${new Date(facts.silentSince).toISOString().slice(11, 19)} UTC`;
  const flaps = facts.flapping
    ? `; it flaps, and its recovery is told after ${Math.round(limits.flapCalmSeconds / 60)} calm minutes`
    : '';
  switch (kind) {
    case 'vault.offline':
      return `${vaultName} is offline: ${names} silent${since}${flaps}`;
    case 'vault.degraded':
      return `${vaultName} is degraded: ${names} of ${facts.agentTotal} agents silent${since}${flaps}`;
    case 'vault.recovered':
      return `${vaultName} has recovered after ${duration(facts.outageSeconds ?? 0)}: ${names} heard again`;
    case 'vault.stopped':
      return `${vaultName}: ${names} was stopped in order`;
    case 'agent.duplicated':
      return `${vaultName}: ${names} runs twice with one identity`;
    default:
      return `${vaultName}: ${names}: ${(facts.reasons ?? []).map(wordsOfReason).join('; ')}`;
  }
}

function list(names: readonly string[]): string {
  if (names.length === 0) return 'no agent';
  if (names.length <= 3) return names.join(', ');
  return `${names.slice(0, 2).join(', ')} and ${names.length - 2} more`;
}

export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
}

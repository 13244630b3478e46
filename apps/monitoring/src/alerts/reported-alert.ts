/**
 * The decision about alerts that agents report themselves, such as a blocked audit: given what is
 * open about one vault and kind and what agents say now, what is to be told. No I/O.
 *
 * One alert is open for a vault and kind. A reason that people have not been told of takes its place
 * with a new one; a reason that is taken back by every agent ends it.
 */
export interface Report {
  agentId: string;
  /** A word of the contract, never an agent's own text. */
  reason: string;
  state: 'raised' | 'cleared';
}

/** Reasons of each agent that are not taken back. */
export type ReasonsOfAgents = ReadonlyMap<string, ReadonlySet<string>>;

export interface OpenReport {
  id: string;
  agents: ReasonsOfAgents;
  /** Everything it has told, also what was taken back since. */
  told: ReadonlySet<string>;
}

export type ReportDecision =
  | { do: 'nothing' }
  /** `resolved`: it began and ended before anybody could be told. */
  | {
      do: 'raise';
      agents: ReasonsOfAgents;
      reasons: string[];
      supersedes: string | null;
      status: 'open' | 'resolved';
    }
  | { do: 'keep'; id: string; agents: ReasonsOfAgents }
  | { do: 'resolve'; id: string; agents: ReasonsOfAgents };

export function nextReportedAlert(
  open: OpenReport | undefined,
  reports: readonly Report[],
): ReportDecision {
  const agents = new Map([...(open?.agents ?? [])].map(([id, reasons]) => [id, new Set(reasons)]));
  const raised = new Map<string, Set<string>>();
  for (const { agentId, reason, state } of reports) {
    const reasons = agents.get(agentId) ?? new Set<string>();
    if (state === 'raised') {
      agents.set(agentId, reasons.add(reason));
      raised.set(agentId, (raised.get(agentId) ?? new Set()).add(reason));
    } else reasons.delete(reason);
  }
  const standing = [...agents.values()].some((reasons) => reasons.size > 0);
  const news = [...raised.values()].some((reasons) =>
    [...reasons].some((reason) => !open?.told.has(reason)),
  );
  if (news) {
    const shown = standing ? agents : raised;
    return {
      do: 'raise',
      agents: shown,
      reasons: [...new Set([...shown.values()].flatMap((reasons) => [...reasons]))].sort(),
      supersedes: open?.id ?? null,
      status: standing ? 'open' : 'resolved',
    };
  }
  if (open === undefined) return { do: 'nothing' };
  return standing ? { do: 'keep', id: open.id, agents } : { do: 'resolve', id: open.id, agents };
}

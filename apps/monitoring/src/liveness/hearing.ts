/**
 * Whether we could hear. Silence counts against an agent only while the gateway that served it
 * could have heard it: the time in which it was deaf is left out, and once in a silence an agent
 * gets an allowance to connect again. Nothing is ever reset, so a gateway that crashes in a loop,
 * or one organization's storm, delays an alert by at most the deaf time itself and one allowance.
 *
 * Times are milliseconds since 1970 by the database's clock.
 */
import { limits } from '@keystead/contracts/limits';

/** A gateway as its ticks show it. */
export interface GatewayRow {
  id: string;
  startedAt: number;
  lastTickAt: number;
  /** It said that it stops hearing. */
  drainedAt: number | null;
  goneAt: number | null;
}

/** A spell in which a gateway could not hear. A spell without length marks a hand-over. */
export interface Span {
  startedAt: number;
  endedAt: number;
}

export interface DeafnessRow extends Span {
  gatewayId: string;
}

/** The tick of a gateway after a gap: the deafness it proves, if any. */
export function deafnessBeforeTick(lastTickAt: number, now: number): Span | undefined {
  return now - lastTickAt > limits.gatewayDeafAfterMs
    ? { startedAt: lastTickAt, endedAt: now }
    : undefined;
}

/**
 * What is to be thought of a gateway that does not tick.
 * @returns `open`: it is deaf and nobody hears in its place; `ended`: its agents can be heard
 * elsewhere since `endedAt`; undefined: it hears
 */
export function silenceOfGateway(
  gateway: GatewayRow,
  others: readonly GatewayRow[],
  recorded: readonly DeafnessRow[],
  now: number,
): ({ state: 'open' | 'ended' } & Span) | undefined {
  const drained = gateway.drainedAt !== null;
  const from = gateway.drainedAt ?? gateway.lastTickAt;
  if (!drained && now - gateway.lastTickAt <= limits.gatewayDeafAfterMs) return undefined;
  let heardElsewhere = Number.POSITIVE_INFINITY;
  for (const other of others) {
    if (other.id === gateway.id) continue;
    let heard = Math.max(other.startedAt, from);
    for (const span of recorded) {
      if (span.gatewayId === other.id && span.startedAt <= heard && span.endedAt > heard) {
        heard = span.endedAt;
      }
    }
    if (heard > other.lastTickAt) continue;
    // Beside a gateway that was there already, the streams of the deaf one stay up until it
    // notices that nobody acknowledges them and lets them go. A successor finds them broken.
    if (!drained && other.startedAt <= from)
      heard = Math.max(heard, from + limits.gatewayGoneAfterMs);
    heardElsewhere = Math.min(heardElsewhere, heard);
  }
  if (heardElsewhere === Number.POSITIVE_INFINITY) {
    return { state: 'open', startedAt: from, endedAt: now };
  }
  const endedAt = heardElsewhere;
  return endedAt <= now
    ? { state: 'ended', startedAt: from, endedAt }
    : { state: 'open', startedAt: from, endedAt: now };
}

/** The deaf spells of every gateway, recorded ones and those that last. */
export class Hearing {
  readonly #spans = new Map<string, Span[]>();

  constructor(gateways: readonly GatewayRow[], recorded: readonly DeafnessRow[], now: number) {
    for (const { gatewayId, startedAt, endedAt } of recorded) {
      this.#add(gatewayId, { startedAt, endedAt });
    }
    for (const gateway of gateways) {
      if (gateway.goneAt !== null) continue;
      const silence = silenceOfGateway(gateway, gateways, recorded, now);
      if (silence) this.#add(gateway.id, silence);
    }
    for (const spans of this.#spans.values()) spans.sort((a, b) => a.startedAt - b.startedAt);
  }

  #add(gatewayId: string, { startedAt, endedAt }: Span): void {
    const spans = this.#spans.get(gatewayId);
    if (spans) spans.push({ startedAt, endedAt });
    else this.#spans.set(gatewayId, [{ startedAt, endedAt }]);
  }

  /**
   * How much of the time since `from` counts as silence of an agent of this gateway, and how much
   * more must pass before `wantedMs` of it can have counted if nothing goes wrong from now on.
   */
  silence(
    gatewayId: string | null,
    from: number,
    now: number,
    wantedMs: number,
  ): { countedMs: number; remainingMs: number } {
    let deaf = 0;
    let heardAfterFirst = 0;
    let firstEnd: number | undefined;
    let covered = from;
    for (const span of gatewayId === null ? [] : (this.#spans.get(gatewayId) ?? [])) {
      if (span.endedAt < from || span.startedAt > now) continue;
      const start = Math.max(span.startedAt, covered);
      const end = Math.min(span.endedAt, now);
      if (end > start) deaf += end - start;
      covered = Math.max(covered, end);
      firstEnd ??= end;
    }
    let allowance = 0;
    let unspent = 0;
    if (firstEnd !== undefined) {
      const deafBeforeFirstEnd = overlap(this.#spans.get(gatewayId ?? '') ?? [], from, firstEnd);
      heardAfterFirst = now - firstEnd - (deaf - deafBeforeFirstEnd);
      allowance = Math.min(limits.reconnectAllowanceMs, Math.max(0, heardAfterFirst));
      unspent = limits.reconnectAllowanceMs - allowance;
    }
    const countedMs = now - from - deaf - allowance;
    return { countedMs, remainingMs: wantedMs - countedMs + unspent };
  }
}

function overlap(spans: readonly Span[], from: number, to: number): number {
  let total = 0;
  let covered = from;
  for (const span of spans) {
    const start = Math.max(span.startedAt, covered);
    const end = Math.min(span.endedAt, to);
    if (end > start) total += end - start;
    covered = Math.max(covered, end);
  }
  return total;
}

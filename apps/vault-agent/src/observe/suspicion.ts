/**
 * What looks like somebody who should not be there (R4.5), decided from audit facts alone: many denials,
 * many different secrets read, a network or an hour that is new for an identity. No I/O; the clock comes
 * with each fact; bounded whatever comes.
 */
import type { AuditFact, AuditIdentity } from '../audit/audit-entry.ts';
import { DistinctCounter } from './distinct-counter.ts';
import { suspicionLimits } from './suspicion-limits.ts';

export type SuspicionKind = 'MANY_DENIALS' | 'BULK_READING' | 'NEW_NETWORK' | 'UNUSUAL_HOUR';

export type Response = 'off' | 'notice' | 'lock_identity' | 'lock_agent';

export interface SuspicionRules {
  manyDenials: { count: number; withinMs: number; response: Response };
  bulkReading: { secrets: number; withinMs: number; response: Response };
  newNetwork: { response: Response };
  unusualHour: { response: Response };
}

export interface Suspicion {
  kind: SuspicionKind;
  identity: AuditIdentity;
  /** How often, where it was counted; else 1. */
  count: number;
  response: Exclude<Response, 'off'>;
}

/** What is known of an identity, and kept over a restart. */
interface Familiar {
  networks: string[];
  /** Days on which it was there, for each hour of the day in UTC. */
  daysByHour: number[];
  /** The last day it was counted, for each hour. */
  lastDayByHour: number[];
  firstDay: number;
  activeDays: number;
  lastDay: number;
}

interface Reading {
  startMs: number;
  current: DistinctCounter;
  before: DistinctCounter;
  /** In both; undefined where it has to be made anew. */
  secrets: number | undefined;
}

interface Watched extends Familiar {
  identity: AuditIdentity;
  /** Times of the last denials, a ring of as many as are too many. */
  denialsAtMs: number[];
  reading: Reading | undefined;
  toldAtMs: Partial<Record<SuspicionKind, number>>;
  lastAddress: string;
}

const ruleOf = {
  MANY_DENIALS: 'manyDenials',
  BULK_READING: 'bulkReading',
  NEW_NETWORK: 'newNetwork',
  UNUSUAL_HOUR: 'unusualHour',
} as const satisfies Record<SuspicionKind, keyof SuspicionRules>;

const dayMs = 86_400_000;
const hourMs = 3_600_000;

export class SuspicionWatch {
  #rules: SuspicionRules;
  readonly #networkOf: (address: string) => string;
  readonly #watched = new Map<string, Watched>();

  constructor(rules: SuspicionRules, networkOf: (address: string) => string) {
    this.#rules = rules;
    this.#networkOf = networkOf;
  }

  /** Other rules from now on. What was counted and learned stays, and a response that is new is given at once. */
  set rules(rules: SuspicionRules) {
    const before = this.#rules;
    this.#rules = rules;
    const changed = (Object.keys(ruleOf) as SuspicionKind[]).filter(
      (kind) => before[ruleOf[kind]].response !== rules[ruleOf[kind]].response,
    );
    if (changed.length === 0) return;
    for (const { toldAtMs } of this.#watched.values()) {
      for (const kind of changed) delete toldAtMs[kind];
    }
  }

  /**
   * What this fact makes suspicious; the same of the same identity once in its window. After a lock it is
   * counted anew, so that a lock that ended or was taken away is not back with the next denial.
   */
  observe(fact: AuditFact, nowMs: number): Suspicion[] {
    const { identity } = fact;
    // The agent's own duties are what it was told to do; who has no name has no habits.
    if (identity.kind === 'system' || identity.kind === 'anonymous') return [];
    if (fact.result === 'started') return [];
    const watched = this.#find(identity, nowMs);
    const found: Suspicion[] = [];
    const suspect = (kind: SuspicionKind, response: Response, count: number, windowMs: number) => {
      const toldAtMs = watched.toldAtMs[kind];
      if (response === 'off') return;
      if (toldAtMs !== undefined && isWithin(windowMs, toldAtMs, nowMs)) return;
      watched.toldAtMs[kind] = nowMs;
      if (response !== 'notice') countAnew(watched, kind);
      found.push({ kind, identity, count, response });
    };
    const { manyDenials, bulkReading, newNetwork, unusualHour } = this.#rules;
    // Who asks whether the others have agreed by now was not denied anything.
    const isWaiting = fact.context?.reason === 'approval_pending';
    if (fact.result === 'denied' && !isWaiting && manyDenials.response !== 'off') {
      const denials = noteDenial(watched, manyDenials, nowMs);
      if (denials >= manyDenials.count) {
        suspect('MANY_DENIALS', manyDenials.response, denials, manyDenials.withinMs);
      }
    }
    if (
      fact.action === 'secret.read-value' &&
      fact.result === 'done' &&
      bulkReading.response !== 'off'
    ) {
      const { namespace = '', secret = '' } = fact.resource;
      const secrets = noteReading(watched, namespace, secret, bulkReading, nowMs);
      if (secrets >= bulkReading.secrets) {
        suspect('BULK_READING', bulkReading.response, secrets, bulkReading.withinMs);
      }
    }
    const isElsewhere = fact.address !== '' && fact.address !== watched.lastAddress;
    if (newNetwork.response !== 'off' && isElsewhere) {
      watched.lastAddress = fact.address;
      if (isNewNetwork(watched, this.#networkOf(fact.address))) {
        suspect('NEW_NETWORK', newNetwork.response, 1, 0);
      }
    }
    if (unusualHour.response !== 'off' && isUnusualHour(watched, nowMs)) {
      suspect('UNUSUAL_HOUR', unusualHour.response, 1, dayMs);
    }
    noteHour(watched, nowMs);
    return found;
  }

  /** What was learned, for the next run. */
  learned(): Record<string, Familiar> {
    return Object.fromEntries(
      [...this.#watched].map(
        ([key, { networks, daysByHour, lastDayByHour, firstDay, activeDays, lastDay }]) => [
          key,
          { networks, daysByHour, lastDayByHour, firstDay, activeDays, lastDay },
        ],
      ),
    );
  }

  /** Takes over what an earlier run learned; what has not the form is passed over. */
  recall(learned: unknown): void {
    if (typeof learned !== 'object' || learned === null) return;
    for (const [key, value] of Object.entries(learned).slice(-suspicionLimits.identities)) {
      const space = key.indexOf(' ');
      if (!isFamiliar(value) || space < 0) continue;
      const identity = {
        kind: key.slice(0, space) as AuditIdentity['kind'],
        id: key.slice(space + 1),
        name: '',
      };
      this.#watched.set(key, {
        ...value,
        identity,
        denialsAtMs: [],
        reading: undefined,
        toldAtMs: {},
        lastAddress: '',
      });
    }
  }

  #find(identity: AuditIdentity, nowMs: number): Watched {
    const key = `${identity.kind} ${identity.id}`;
    let watched = this.#watched.get(key);
    if (watched === undefined) {
      const day = Math.floor(nowMs / dayMs);
      watched = {
        identity,
        networks: [],
        daysByHour: Array.from({ length: 24 }, () => 0),
        lastDayByHour: Array.from({ length: 24 }, () => -1),
        firstDay: day,
        activeDays: 0,
        lastDay: -1,
        denialsAtMs: [],
        reading: undefined,
        toldAtMs: {},
        lastAddress: '',
      };
      const [quietest] = this.#watched.keys();
      if (this.#watched.size >= suspicionLimits.identities && quietest !== undefined) {
        this.#watched.delete(quietest);
      }
      this.#watched.set(key, watched);
    } else if (this.#watched.size >= suspicionLimits.identities) {
      // Those that were heard last stand last.
      this.#watched.delete(key);
      this.#watched.set(key, watched);
    }
    return watched;
  }
}

function countAnew(watched: Watched, kind: SuspicionKind): void {
  if (kind === 'MANY_DENIALS') watched.denialsAtMs = [];
  else if (kind === 'BULK_READING') watched.reading = undefined;
  else return;
  // However long the window is, who goes on after the lock is locked again.
  delete watched.toldAtMs[kind];
}

/** Denials within the window, this one included. */
function noteDenial(
  watched: Watched,
  { count, withinMs }: SuspicionRules['manyDenials'],
  nowMs: number,
): number {
  watched.denialsAtMs.push(nowMs);
  if (watched.denialsAtMs.length > count)
    watched.denialsAtMs.splice(0, watched.denialsAtMs.length - count);
  return watched.denialsAtMs.filter((atMs) => isWithin(withinMs, atMs, nowMs)).length;
}

/** What lies in the future is of a clock that was wrong, and neither counts nor keeps silent. */
function isWithin(windowMs: number, atMs: number, nowMs: number): boolean {
  return atMs <= nowMs && nowMs - atMs < windowMs;
}

/** Different secrets read in the half window before and the current one. */
function noteReading(
  watched: Watched,
  namespace: string,
  secret: string,
  { withinMs }: SuspicionRules['bulkReading'],
  nowMs: number,
): number {
  const halfMs = withinMs / 2;
  let { reading } = watched;
  if (reading === undefined || nowMs - reading.startMs >= 2 * halfMs || nowMs < reading.startMs) {
    reading = begunReading(nowMs, new DistinctCounter());
  } else if (nowMs - reading.startMs >= halfMs) {
    reading = begunReading(reading.startMs + halfMs, reading.current);
  }
  watched.reading = reading;
  // Most read again what they have read before.
  if (reading.current.add(namespace, secret)) reading.secrets = undefined;
  reading.secrets ??= reading.current.countWith(reading.before);
  return reading.secrets;
}

function begunReading(startMs: number, before: DistinctCounter): Reading {
  return { startMs, current: new DistinctCounter(), before, secrets: undefined };
}

/** The first network of an identity is its own. */
function isNewNetwork(watched: Watched, network: string): boolean {
  const { networks } = watched;
  if (networks.includes(network)) return false;
  networks.push(network);
  if (networks.length > suspicionLimits.networks) networks.shift();
  return networks.length > 1;
}

function isUnusualHour({ daysByHour, firstDay, activeDays }: Familiar, nowMs: number): boolean {
  const day = Math.floor(nowMs / dayMs);
  const { familiarAfterDays, familiarActiveDays } = suspicionLimits;
  if (day - firstDay < familiarAfterDays || activeDays < familiarActiveDays) return false;
  const hour = Math.floor((nowMs % dayMs) / hourMs);
  return [hour + 23, hour, hour + 1].every((near) => daysByHour[near % 24] === 0);
}

function noteHour(watched: Watched, nowMs: number): void {
  const day = Math.floor(nowMs / dayMs);
  const hour = Math.floor((nowMs % dayMs) / hourMs);
  if (watched.lastDayByHour[hour] === day) return;
  watched.lastDayByHour[hour] = day;
  watched.daysByHour[hour] = (watched.daysByHour[hour] ?? 0) + 1;
  if (watched.lastDay === day) return;
  watched.lastDay = day;
  watched.activeDays += 1;
}

function isFamiliar(value: unknown): value is Familiar {
  const familiar = value as Partial<Record<keyof Familiar, unknown>> | null;
  const numbers = (list: unknown) =>
    Array.isArray(list) && list.length === 24 && list.every((each) => Number.isSafeInteger(each));
  return (
    typeof familiar === 'object' &&
    familiar !== null &&
    Array.isArray(familiar.networks) &&
    familiar.networks.length <= suspicionLimits.networks &&
    familiar.networks.every((each) => typeof each === 'string') &&
    numbers(familiar.daysByHour) &&
    numbers(familiar.lastDayByHour) &&
    [familiar.firstDay, familiar.activeDays, familiar.lastDay].every(Number.isSafeInteger)
  );
}

/**
 * Decides anew what was decided, by a draft that decides nothing else, and counts what would be different.
 * In slices: between them the event loop has its time, and a replay never takes more than a part of it.
 */
import { setTimeout as pause } from 'node:timers/promises';
import {
  ReplayChange,
  ReplayObstacle,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { CompiledSet } from '@keystead/policy-engine/compile';
import { decide } from '@keystead/policy-engine/decide';
import type { AccessRequest } from '@keystead/policy-engine/facts';
import { namesDuties, policiesAgainstDuty } from '../duties.ts';
import { isEmpty } from '../empty-set.ts';
import { needsFacts, type ResourceFacts, type ResourceFactsReader } from '../resource-facts.ts';
import { type JournalEntry, type JournaledRequest, parseEntry } from './journal-entry.ts';
import { replayLimits } from './replay-limits.ts';

export interface ReplayOptions {
  draft: CompiledSet;
  /** Files of the journal, the newest first. */
  files: AsyncIterable<Buffer | undefined>;
  facts: Pick<ResourceFactsReader, 'read'>;
  vault: AccessRequest['resource']['vault'];
  fromMs: number;
  /** Ends it between two slices. */
  signal: AbortSignal;
  limits?: Partial<Record<'entriesMax' | 'workMs' | 'storeReadsMax', number>>;
}

/** One kind of decision that the draft makes otherwise. Names are the owner's and stay in the agent. */
export interface Difference {
  principal: { kind: string; id: string };
  action: string;
  namespace: string | undefined;
  secret: string | undefined;
  change: ReplayChange;
  count: number;
}

export interface ReplayResult {
  /** The oldest decision that was looked at; 0 where there was none. */
  fromMs: number;
  decisions: number;
  newlyDenied: number;
  newlyAllowed: number;
  newlyNeedingApproval: number;
  unchanged: number;
  unevaluated: ReadonlyMap<ReplayObstacle, number>;
  /** The most frequent ones first. */
  differences: readonly Difference[];
}

const newLine = 0x0a;
const beginning = /^\{"atMs":(\d{1,15}),/;

export async function replay(options: ReplayOptions): Promise<ReplayResult> {
  const run = new Run(options);
  for await (const file of options.files) {
    if (file === undefined) run.miss(ReplayObstacle.DAMAGED, 1);
    else await run.take(file);
  }
  return run.result();
}

class Run {
  readonly #options: ReplayOptions;
  readonly #limits: Required<NonNullable<ReplayOptions['limits']>>;
  readonly #readsFacts: boolean;
  readonly #namesDuties: boolean;
  readonly #known = new Map<string, ResourceFacts | undefined>();
  readonly #unevaluated = new Map<ReplayObstacle, number>();
  readonly #differences = new Map<string, Difference>();
  readonly #counts = { newlyDenied: 0, newlyAllowed: 0, newlyNeedingApproval: 0, unchanged: 0 };
  #fromMs = Number.POSITIVE_INFINITY;
  #entries = 0;
  #workMs = 0;
  #sliceSinceMs = performance.now();

  constructor(options: ReplayOptions) {
    this.#options = options;
    const { entriesMax, workMs, storeReadsMax } = replayLimits;
    this.#limits = { entriesMax, workMs, storeReadsMax, ...options.limits };
    this.#readsFacts = needsFacts(options.draft);
    this.#namesDuties = namesDuties(options.draft);
  }

  miss(obstacle: ReplayObstacle, count: number): void {
    this.#unevaluated.set(obstacle, (this.#unevaluated.get(obstacle) ?? 0) + count);
  }

  async take(file: Buffer): Promise<void> {
    for (let at = 0; at < file.length; ) {
      const end = file.indexOf(newLine, at);
      // Without an end it was not written whole.
      if (end < 0) break;
      const line = file.subarray(at, end);
      at = end + 1;
      if (line.length === 0) continue;
      await this.#line(line);
      await this.#rest();
    }
  }

  result(): ReplayResult {
    const missed = [...this.#unevaluated.values()].reduce((sum, count) => sum + count, 0);
    const { newlyDenied, newlyAllowed, newlyNeedingApproval, unchanged } = this.#counts;
    return {
      ...this.#counts,
      fromMs: Number.isFinite(this.#fromMs) ? this.#fromMs : 0,
      decisions: newlyDenied + newlyAllowed + newlyNeedingApproval + unchanged + missed,
      unevaluated: this.#unevaluated,
      differences: [...this.#differences.values()]
        .sort((one, other) => other.count - one.count)
        .slice(0, replayLimits.differencesTold),
    };
  }

  async #line(line: Buffer): Promise<void> {
    // Read from its first bytes: most lines may be too old to be looked at.
    const [, begun] = beginning.exec(line.toString('latin1', 0, 32)) ?? [];
    if (begun !== undefined && Number(begun) < this.#options.fromMs) return;
    const entry =
      line.length > replayLimits.lineMaxLength ? undefined : parseEntry(line.toString('utf8'));
    if (entry === undefined) {
      this.miss(ReplayObstacle.DAMAGED, 1);
      return;
    }
    this.#fromMs = Math.min(this.#fromMs, entry.atMs);
    if ('notKept' in entry) {
      this.miss(ReplayObstacle.NOT_KEPT, entry.notKept);
      return;
    }
    this.#entries += 1;
    if (this.#entries > this.#limits.entriesMax || this.#workMs > this.#limits.workMs) {
      this.miss(ReplayObstacle.COST_LIMIT, entry.count);
      return;
    }
    const request = await this.#requestOf(entry);
    if (typeof request === 'object') this.#weigh(entry, request);
    else this.miss(request, entry.count);
  }

  #weigh(entry: JournalEntry, request: AccessRequest): void {
    const after = this.#decide(request);
    if (after === undefined) {
      this.miss(ReplayObstacle.EVALUATION_FAILED, entry.count);
      return;
    }
    const { allowed: wasAllowed, needsApproval: neededApproval, count } = entry;
    if (wasAllowed === after.allowed) {
      const isSlower = after.needsApproval && wasAllowed && !neededApproval;
      this.#counts[isSlower ? 'newlyNeedingApproval' : 'unchanged'] += count;
      return;
    }
    this.#counts[after.allowed ? 'newlyAllowed' : 'newlyDenied'] += count;
    this.#note(
      request,
      after.allowed ? ReplayChange.NEWLY_ALLOWED : ReplayChange.NEWLY_DENIED,
      count,
    );
  }

  /** As the door would; undefined where the engine has no answer. */
  #decide(request: AccessRequest): { allowed: boolean; needsApproval: boolean } | undefined {
    const { draft } = this.#options;
    const isDuty = request.principal.kind === 'system';
    if (isEmpty(draft) || (isDuty && !this.#namesDuties))
      return { allowed: true, needsApproval: false };
    const decision = decide(draft, request);
    if (decision.reason === 'engine_failed') return undefined;
    return isDuty
      ? { allowed: policiesAgainstDuty(draft, decision).length === 0, needsApproval: false }
      : {
          allowed: decision.decision === 'allow',
          needsApproval: decision.obligations.some(({ kind }) => kind === 'require_approval'),
        };
  }

  async #requestOf(entry: JournalEntry): Promise<AccessRequest | ReplayObstacle> {
    const { request, isKnown } = entry;
    const { vault } = this.#options;
    const asKept = { ...request, resource: { ...request.resource, vault } };
    if (!this.#readsFacts || isKnown || request.resource.namespace === undefined) return asKept;
    const facts = await this.#factsOf(request.resource);
    if (typeof facts !== 'object') return facts;
    const { namespace, secret, useCount } = facts;
    return {
      ...asKept,
      resource: {
        vault,
        ...(namespace === undefined ? {} : { namespace }),
        ...(secret === undefined ? {} : { secret }),
      },
      context: { ...request.context, useCount },
    };
  }

  /** As the store knows the resource now. */
  async #factsOf({
    namespace,
    secret,
  }: JournaledRequest['resource']): Promise<ResourceFacts | ReplayObstacle> {
    const key = JSON.stringify([namespace?.name, secret?.name]);
    if (!this.#known.has(key)) {
      if (this.#known.size >= this.#limits.storeReadsMax) return ReplayObstacle.COST_LIMIT;
      const found = await this.#options.facts.read({
        ...(namespace === undefined ? {} : { namespace: namespace.name }),
        ...(secret === undefined ? {} : { secret: secret.name }),
      });
      const isThere =
        found.namespace?.tags !== undefined &&
        (secret === undefined || found.secret?.tags !== undefined);
      this.#known.set(key, isThere ? found : undefined);
      this.#sliceSinceMs = performance.now();
    }
    return this.#known.get(key) ?? ReplayObstacle.RESOURCE_GONE;
  }

  #note({ principal, action, resource }: AccessRequest, change: ReplayChange, count: number): void {
    const { kind, id } = principal;
    const [namespace, secret] = [resource.namespace?.name, resource.secret?.name];
    const key = JSON.stringify([kind, id, action, namespace, secret, change]);
    const known = this.#differences.get(key);
    if (known !== undefined) known.count += count;
    else if (this.#differences.size < replayLimits.differencesCounted) {
      const difference = { principal: { kind, id }, action, namespace, secret, change, count };
      this.#differences.set(key, difference);
    }
  }

  /** Gives the event loop back after each slice. @throws where the replay is to end */
  async #rest(): Promise<void> {
    const passedMs = performance.now() - this.#sliceSinceMs;
    if (passedMs < replayLimits.sliceMs) return;
    this.#workMs += passedMs;
    await pause(replayLimits.restMs, undefined, { signal: this.#options.signal });
    this.#sliceSinceMs = performance.now();
  }
}

/**
 * Replays that the control plane asks for, one after the other: the draft is fetched and checked, what was
 * decided in the last days is decided anew, and counts and keyed hashes go up. The audit says that it was
 * done; what the hashes stand for is kept here for the owner alone.
 *
 * A command comes again until its result was heard. A replay that is under way or done is not begun anew.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PolicySet } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  CommandOutcome,
  ReplayChange,
  type ReplayDecisions,
  ReplayOutcome,
  ReplayReported,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { policySetDigest, policySetMaxBytes } from '@keystead/agent-protocol/policy-set-signature';
import { toId } from '@keystead/contracts/ids';
import { policyDraftContent } from '@keystead/contracts/policy-set-content';
import { type CompiledSet, compile } from '@keystead/policy-engine/compile';
import type { Logger } from 'pino';
import { z } from 'zod';
import { makePrivateFolder, writeDurably } from '../../durable-file.ts';
import type { EventKind } from '../../durable-queue.ts';
import type { NameReferences } from '../../upward/name-references.ts';
import type { DecisionJournal } from './decision-journal.ts';
import { type ReplayOptions, type ReplayResult, replay } from './replay.ts';
import { replayLimits } from './replay-limits.ts';

export interface ReplaysOptions extends Pick<ReplayOptions, 'facts' | 'vault'> {
  folder: string;
  journal: Pick<DecisionJournal, 'read'>;
  names: Pick<NameReferences, 'decision'>;
  /** uuid, from the agent's own certificate. */
  organizationId: () => string;
  /** Undefined where it is not to be had now. */
  fetch: (draft: PolicySet, totalBytes: number) => Promise<Buffer | undefined>;
  /** Kept for the control plane until its receipt. */
  tell: (kind: EventKind) => void;
  audit: (replayId: string, facts: Record<string, number | string>) => Promise<void>;
  now: () => number;
  log: Pick<Logger, 'info' | 'warn' | 'error'>;
}

const keptResult = z.object({
  replayId: z.string(),
  atMs: z.number(),
  days: z.number(),
  draft: z.string(),
  /** What was reported, base64. */
  report: z.string(),
  differences: z.array(
    z.object({
      reference: z.string(),
      principal: z.string(),
      action: z.string(),
      namespace: z.string().nullable(),
      secret: z.string().nullable(),
      change: z.enum(['newly_denied', 'newly_allowed']),
      count: z.number(),
    }),
  ),
});
export type KeptResult = z.infer<typeof keptResult>;

const tellAgainAfterMs = 10 * 60_000;

class Rejected extends Error {}

export class Replays {
  readonly #options: ReplaysOptions;
  readonly #file: string;
  readonly #underWay = new Set<string>();
  readonly #toldAtMs = new Map<string, number>();
  readonly #stopping = new AbortController();
  #results: KeptResult[];
  #running: Promise<void> = Promise.resolve();

  constructor(options: ReplaysOptions) {
    this.#options = options;
    this.#file = join(options.folder, 'replays.json');
    this.#results = readResults(this.#file);
  }

  /** What was replayed lately, the newest first, with names. */
  get results(): readonly KeptResult[] {
    return this.#results;
  }

  /** Answers at once; the result follows as an event. */
  carryOut(command: ReplayDecisions): CommandOutcome {
    const { replayId, draft, totalBytes, days } = command;
    if (replayId.length !== 16 || draft === undefined || days < 1) return CommandOutcome.REFUSED;
    if (totalBytes === 0 || totalBytes > policySetMaxBytes) return CommandOutcome.REFUSED;
    const id = Buffer.from(replayId).toString('hex');
    if (this.#underWay.has(id)) return CommandOutcome.DONE;
    const known = this.#results.find((result) => result.replayId === id);
    if (known !== undefined) {
      this.#tellAgain(known);
      return CommandOutcome.DONE;
    }
    if (this.#underWay.size >= replayLimits.waitingMax) return CommandOutcome.FAILED;
    this.#underWay.add(id);
    this.#running = this.#running
      .then(() => this.#run(id, command, draft))
      .catch((error: unknown) => {
        if (!this.#stopping.signal.aborted) {
          this.#options.log.error({ err: error, replay: id }, 'a replay could not be carried out');
        }
      })
      .finally(() => this.#underWay.delete(id));
    return CommandOutcome.DONE;
  }

  /** What runs is given up; the control plane asks again. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** Resolves when nothing runs and nothing waits. */
  settled(): Promise<void> {
    return this.#running;
  }

  async #run(id: string, command: ReplayDecisions, draft: PolicySet): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    const { fetch, log } = this.#options;
    const content = await this.#unlessStopped(fetch(draft, command.totalBytes));
    if (content === undefined) {
      log.warn({ replay: id }, 'the draft of a replay did not arrive');
      return;
    }
    const begunMs = performance.now();
    let set: CompiledSet | undefined;
    try {
      set = await this.#compiled(content, draft.digest);
      const result = await this.#replayed(set, command.days);
      await this.#conclude(id, command, draft.digest, result, performance.now() - begunMs);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      const isRejected = error instanceof Rejected;
      log.warn({ err: error, replay: id }, 'a replay was not carried out');
      this.#keep({
        replayId: id,
        atMs: this.#options.now(),
        days: command.days,
        draft: draft.digest,
        differences: [],
        report: encoded({
          replayId: Buffer.from(command.replayId),
          outcome: isRejected ? ReplayOutcome.REJECTED : ReplayOutcome.FAILED,
        }),
      });
    } finally {
      set?.close();
    }
  }

  #unlessStopped<T>(work: Promise<T>): Promise<T | undefined> {
    const { signal } = this.#stopping;
    const stopped = Promise.withResolvers<undefined>();
    const stop = () => stopped.resolve(undefined);
    signal.addEventListener('abort', stop, { once: true });
    return Promise.race([work, stopped.promise]).finally(() =>
      signal.removeEventListener('abort', stop),
    );
  }

  async #compiled(content: Buffer, digest: string): Promise<CompiledSet> {
    if (policySetDigest(content) !== digest) throw new Rejected('it is not what was signed');
    const draft = readDraft(content);
    if (draft === undefined) throw new Rejected('it is no draft');
    if (draft.organizationId !== toId('organization', this.#options.organizationId())) {
      throw new Rejected("it is another organization's");
    }
    const compiled = await compile(draft.set);
    if (compiled.ok) return compiled.value;
    throw new Rejected(compiled.problems[0]?.what ?? 'it does not compile');
  }

  #replayed(draft: CompiledSet, days: number): Promise<ReplayResult> {
    const { journal, facts, vault, now } = this.#options;
    return replay({
      draft,
      files: journal.read(),
      facts,
      vault,
      fromMs: now() - Math.min(days, replayLimits.keepDays) * 86_400_000,
      signal: this.#stopping.signal,
    });
  }

  async #conclude(
    id: string,
    command: ReplayDecisions,
    draft: string,
    result: ReplayResult,
    durationMs: number,
  ): Promise<void> {
    const { audit, log, names, now } = this.#options;
    const { unevaluated, differences, ...counts } = result;
    const told = differences.map((difference) => ({
      ...difference,
      reference: names.decision(difference),
    }));
    const summary = { days: command.days, ...counts };
    await audit(id, { draft, ...summary });
    log.info({ replay: id, ...summary, durationMs }, 'decisions were replayed by a draft');
    this.#keep({
      replayId: id,
      atMs: now(),
      days: command.days,
      draft,
      report: encoded({
        replayId: Buffer.from(command.replayId),
        outcome: ReplayOutcome.DONE,
        fromUnixMs: result.fromMs,
        decisions: counts.decisions,
        newlyDenied: counts.newlyDenied,
        newlyAllowed: counts.newlyAllowed,
        newlyNeedingApproval: counts.newlyNeedingApproval,
        unchanged: counts.unchanged,
        unevaluated: [...unevaluated].map(([obstacle, count]) => ({ obstacle, count })),
        differences: told.map(({ reference, change, count }) => ({
          decisionRef: reference,
          change,
          count,
        })),
        durationMs: Math.min(Math.round(durationMs), 2 ** 32 - 1),
      }),
      differences: told.map(
        ({ reference, principal, action, namespace, secret, change, count }) => ({
          reference: reference.toString('hex'),
          principal: `${principal.kind}:${principal.id}`,
          action,
          namespace: namespace ?? null,
          secret: secret ?? null,
          change: change === ReplayChange.NEWLY_DENIED ? 'newly_denied' : 'newly_allowed',
          count,
        }),
      ),
    });
  }

  #keep(result: KeptResult): void {
    this.#results = [result, ...this.#results].slice(0, replayLimits.resultsKept);
    for (const id of this.#toldAtMs.keys()) {
      if (!this.#results.some(({ replayId }) => replayId === id)) this.#toldAtMs.delete(id);
    }
    try {
      makePrivateFolder(this.#options.folder);
      writeDurably(this.#file, JSON.stringify(this.#results), 0o600);
    } catch (error) {
      this.#options.log.warn({ err: error }, 'the result of a replay could not be kept');
    }
    this.#tell(result);
  }

  #tell({ replayId, report }: KeptResult): void {
    this.#toldAtMs.set(replayId, performance.now());
    this.#options.tell({
      $case: 'replayReported',
      value: ReplayReported.decode(Buffer.from(report, 'base64')),
    });
  }

  /** The control plane does not know it yet: it may be on its way, or have been lost. */
  #tellAgain(result: KeptResult): void {
    const toldAtMs = this.#toldAtMs.get(result.replayId) ?? Number.NEGATIVE_INFINITY;
    if (performance.now() - toldAtMs >= tellAgainAfterMs) this.#tell(result);
  }
}

const nothing: ReplayReported = {
  replayId: Buffer.alloc(0),
  outcome: ReplayOutcome.UNSPECIFIED,
  fromUnixMs: 0,
  decisions: 0,
  newlyDenied: 0,
  newlyAllowed: 0,
  newlyNeedingApproval: 0,
  unchanged: 0,
  unevaluated: [],
  differences: [],
  durationMs: 0,
};

function encoded(report: Partial<ReplayReported>): string {
  const bytes = ReplayReported.encode({ ...nothing, ...report }).finish();
  return Buffer.from(bytes).toString('base64');
}

function readDraft(bytes: Buffer) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return policyDraftContent.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

/** What cannot be read is gone: it was for looking up. */
function readResults(file: string): KeptResult[] {
  try {
    return z.array(keptResult).parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    return [];
  }
}

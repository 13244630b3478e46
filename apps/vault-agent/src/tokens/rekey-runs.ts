/**
 * Rekeys and upgrades in the background of an agent: one at a time, the last ones remembered. What was
 * done is in the store; a run that ends with its agent goes on when the same passwords are sent again.
 */
import type { RekeyRun } from '@keystead/contracts/agent-api/tokens';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { RekeyProgress, RekeyResult, RunOptions } from '@keystead/vault-store/rekey/rekey';
import { VaultError } from '@keystead/vault-store/vault-error';
import { tokenVaultLimits } from './token-vault-limits.ts';

export interface RunRequest {
  kind: RekeyRun['kind'];
  dryRun: boolean;
  timeoutSeconds: number | undefined;
  /** For people. */
  requestedBy: string;
  work: (options: RunOptions) => Promise<RekeyResult>;
}

interface Run {
  shown: RekeyRun;
  abort: AbortController;
  ended: Promise<void>;
}

export class RekeyRuns {
  readonly #runs = new Map<string, Run>();
  readonly #now: () => number;
  readonly #onError: (error: unknown) => void;

  /** @param onError for the log: what ended a run, without a password or a value */
  constructor(now: () => number, onError: (error: unknown) => void) {
    this.#now = now;
    this.#onError = onError;
  }

  /** @throws ServiceError `conflict` while another one runs */
  start(request: RunRequest): RekeyRun {
    const running = [...this.#runs.values()].filter(({ shown }) => shown.state === 'running');
    if (running.length >= tokenVaultLimits.runsAtOnce) {
      throw new ServiceError('conflict', {
        detail: `Run ${running[0]?.shown.id} is under way: wait for its end, or abort it`,
      });
    }
    const startedAtMs = this.#now();
    const shown: RekeyRun = {
      id: toId('rekey', newUuid(startedAtMs)),
      kind: request.kind,
      state: 'running',
      dryRun: request.dryRun,
      requestedBy: request.requestedBy,
      startedAt: new Date(startedAtMs).toISOString(),
      endedAt: null,
      resumed: false,
      examined: 0,
      total: 0,
      matched: 0,
      otherPassword: 0,
      alreadyCurrent: 0,
      corrupt: 0,
      corruptIds: [],
      changedMeanwhile: 0,
      changedIds: [],
      recordsPerSecond: 0,
      remainingSeconds: null,
      estimatedSeconds: null,
      problem: null,
    };
    const abort = new AbortController();
    const work = request.work({
      dryRun: request.dryRun,
      signal: abort.signal,
      onProgress: (progress) => showProgress(shown, progress),
      ...(request.timeoutSeconds === undefined
        ? {}
        : { timeoutMs: request.timeoutSeconds * 1_000 }),
    });
    const ended = work.then(
      (result) => this.#end(shown, result, result.outcome),
      (error: unknown) => {
        this.#onError(error);
        const partial = (error as { partial?: RekeyResult }).partial;
        shown.problem = error instanceof VaultError ? error.message : 'the run failed';
        this.#end(shown, partial, 'failed');
      },
    );
    this.#runs.set(shown.id, { shown, abort, ended });
    while (this.#runs.size > tokenVaultLimits.runsKept) {
      this.#runs.delete(this.#runs.keys().next().value as string);
    }
    return { ...shown };
  }

  list(): RekeyRun[] {
    return [...this.#runs.values()].map(({ shown }) => ({ ...shown })).reverse();
  }

  get(id: string): RekeyRun {
    const run = this.#runs.get(id);
    if (run === undefined) throw notFound();
    return { ...run.shown };
  }

  /** Answers when it has stopped. */
  async abort(id: string): Promise<RekeyRun> {
    const run = this.#runs.get(id);
    if (run === undefined) throw notFound();
    run.abort.abort();
    await run.ended;
    return { ...run.shown };
  }

  /** Ends what runs, after the transaction under way. */
  async stop(): Promise<void> {
    for (const { abort } of this.#runs.values()) abort.abort();
    await Promise.all([...this.#runs.values()].map(({ ended }) => ended));
  }

  #end(shown: RekeyRun, result: RekeyResult | undefined, state: RekeyRun['state']): void {
    shown.state = state;
    shown.endedAt = new Date(this.#now()).toISOString();
    shown.remainingSeconds = null;
    if (result === undefined) return;
    const { outcome: _, elapsedMs, estimatedMs, ...counts } = result;
    Object.assign(shown, counts);
    shown.recordsPerSecond = elapsedMs > 0 ? result.examined / (elapsedMs / 1_000) : 0;
    shown.estimatedSeconds = estimatedMs === undefined ? null : estimatedMs / 1_000;
  }
}

function showProgress(shown: RekeyRun, progress: RekeyProgress): void {
  const { remainingMs, ...counts } = progress;
  Object.assign(shown, counts);
  shown.remainingSeconds = remainingMs === undefined ? null : remainingMs / 1_000;
}

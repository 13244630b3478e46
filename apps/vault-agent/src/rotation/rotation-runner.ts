/**
 * Rotates what is due. Of several agents on one store the holder of the lease does it.
 *
 * A rotation is a row that says what is to be done next:
 *
 *   creating → applying → verifying → promoting → (done)
 *                 │           │           └ somebody else changed the secret: what works stays
 *                 └───────────┴→ rolling-back → (done, the value before in force)
 *
 * The row is written before the step that it names, so that whoever finds it after a crash does that step
 * again; every step may run twice. The new value is a pending version from before it is applied until it
 * is known that it is not in force. The row's end, the promotion of the version and the plan for the next
 * time are one transaction, under the lease.
 */
import type { RotationTrigger } from '@keystead/contracts/agent-api/rotation';
import { ServiceError } from '@keystead/contracts/errors';
import type { Queries, SqlStore } from '@keystead/vault-store/sql/sql-store';
import { type Caller, systemCaller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import { type Lease, LeaseLost, type Leases } from '../leases/leases.ts';
import type { NamespaceChange } from '../namespaces/namespace-change.ts';
import type { Alongside, Secrets } from '../secrets/secrets.ts';
import { valueBytes, valueText } from '../secrets/value-text.ts';
import {
  findRotatedSecret,
  type Problem,
  policyOf,
  type RetirementRow,
  type RotatedSecret,
  RotationJournal,
  type RotationRow,
  type RunRow,
  settingsOf,
} from './rotation-journal.ts';
import { rotationLease, rotatorLimits } from './rotation-limits.ts';
import type { Report, ReportedOutcome, RotationReport } from './rotation-report.ts';
import { retryDelayMs } from './rotation-schedule.ts';
import type { RotationSchema } from './rotation-tables.ts';
import {
  asFailure,
  RotationFailure,
  type RotationValue,
  type RotationWork,
  type Rotator,
} from './rotator.ts';
import { type RotatorPermissions, rotatorFor } from './rotators/rotators.ts';

export interface RotationRunnerOptions {
  store: SqlStore<RotationSchema>;
  secrets: Secrets;
  leases: Leases;
  door: Pick<Door, 'perform'>;
  allowed: () => RotatorPermissions;
  report: Report;
  /** Told of what went wrong in the background. */
  onError?: (error: unknown) => void;
  now?: () => number;
  /** From 0 to 1, for jitter. */
  random: () => number;
  /** Called between steps; tests end the process there. */
  onStep?: (step: RunnerStep) => void | Promise<void>;
  verifyPausesMs?: readonly number[];
}

export const runnerSteps = [
  'begun',
  'created',
  'pending',
  'applied',
  'verified',
  'promoted',
  'reported',
  'rolling-back',
  'rolled-back',
  'abandoned',
  'retiring',
  'retired',
] as const;
export type RunnerStep = (typeof runnerSteps)[number];

const waitForOpenRunMs = 60_000;
const lookAtDeletedMs = 3_600_000;

/** What one run needs while it goes on. */
interface Running {
  lease: Lease;
  journal: RotationJournal;
  caller: Caller;
  secret: RotatedSecret;
  rotator: Rotator;
}

export class RotationRunner {
  readonly #options: RotationRunnerOptions;
  readonly #now: () => number;
  readonly #stopping = new AbortController();
  /** By secret; bounded by `concurrentMax`. */
  readonly #underWay = new Map<string, Promise<void>>();
  #loop: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #usesLookedAtMs = Number.NEGATIVE_INFINITY;
  /** Rotations are looked at in turn, whether a clock that was wrong put them off. */
  #mendedTo = '';

  constructor(options: RotationRunnerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Something may be due: looks at once where this agent is the runner. */
  poke(): void {
    this.#wake?.();
  }

  /** What is under way is left as it is after its current step; whoever runs next goes on with it. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake?.();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { leases } = this.#options;
    while (!this.#stopping.signal.aborted) {
      try {
        await leases.hold(rotationLease, rotatorLimits.leaseTtlMs, async (lease) => {
          while (!lease.signal.aborted && !this.#stopping.signal.aborted) {
            await this.#turn(lease);
            await this.#pause(rotatorLimits.pollMs, lease.signal);
          }
          await Promise.all(this.#underWay.values());
        });
      } catch (error) {
        if (!(error instanceof LeaseLost)) this.#options.onError?.(error);
      }
      await this.#pause(rotatorLimits.standbyMs, this.#stopping.signal);
    }
  }

  /** One look at everything, under a lease that somebody else renews; ends when all of it has ended. */
  async runOnce(lease: Lease): Promise<void> {
    await this.#turn(lease);
    await Promise.all(this.#underWay.values());
  }

  async #turn(lease: Lease): Promise<void> {
    const journal = new RotationJournal({
      store: this.#options.store,
      lease,
      now: this.#now,
      random: this.#options.random,
    });
    const begin = (secretId: string, work: () => Promise<void>) => {
      if (this.#underWay.size >= rotatorLimits.concurrentMax || this.#underWay.has(secretId)) {
        return;
      }
      const going = work()
        .catch((error) => {
          if (!(error instanceof LeaseLost)) this.#options.onError?.(error);
        })
        .finally(() => {
          this.#underWay.delete(secretId);
          this.poke();
        });
      this.#underWay.set(secretId, going);
    };
    for (const run of await journal.unreported()) await this.#reportRun(journal, run);
    for (const row of await journal.due()) {
      begin(row.secret_id, () => this.#lookAt(lease, journal, row));
    }
    const nowMs = this.#now();
    if (Math.abs(nowMs - this.#usesLookedAtMs) >= rotatorLimits.usesPollMs) {
      this.#usesLookedAtMs = nowMs;
      for (const row of await journal.used()) {
        begin(row.secret_id, () => this.#rotate(lease, journal, row, 'uses', 1));
      }
      this.#mendedTo = await journal.mend(this.#mendedTo);
    }
    for (const row of await journal.retirementsDue()) {
      begin(row.secret_id, () => this.#retire(lease, journal, row));
    }
  }

  async #lookAt(lease: Lease, journal: RotationJournal, row: RotationRow): Promise<void> {
    const nowMs = this.#now();
    if (row.open_run_id !== null) return this.#resume(lease, journal, row, row.open_run_id);
    if (row.requested_at_ms !== null) return this.#rotate(lease, journal, row, 'request', 1);
    if (row.is_paused === 1) return;
    if (row.retry_at_ms !== null) {
      if (row.retry_at_ms > nowMs) return;
      return this.#rotate(lease, journal, row, row.retry_trigger ?? 'interval', row.failures + 1);
    }
    if (row.next_due_ms === null) return;
    if (row.next_due_ms <= nowMs) {
      return this.#rotate(lease, journal, row, this.#dueTrigger(row), 1);
    }
    await this.#notice(journal, row);
  }

  #dueTrigger(row: RotationRow): RotationTrigger {
    return policyOf(row).everySeconds === null ? 'schedule' : 'interval';
  }

  async #notice(journal: RotationJournal, row: RotationRow): Promise<void> {
    const secret = await journal.secret(row.secret_id);
    if (secret === undefined) return journal.forget(row.secret_id);
    await this.#tell({
      id: `${row.secret_id}-${row.next_due_ms}`,
      namespace: secret.namespace,
      secret: secret.name,
      outcome: 'due-soon',
      attempt: 0,
      rotator: policyOf(row).rotator.kind,
      nextDueMs: row.next_due_ms,
      problem: null,
      atMs: this.#now(),
    });
    await journal.noticed(row);
  }

  async #rotate(
    lease: Lease,
    journal: RotationJournal,
    row: RotationRow,
    trigger: RotationTrigger,
    attempt: number,
  ): Promise<void> {
    const secret = await journal.secret(row.secret_id);
    if (secret === undefined) return journal.forget(row.secret_id);
    if (secret.isDeleted) return journal.lookAgain(row, this.#now() + lookAtDeletedMs);
    const run = await journal.begin(secret, trigger, attempt);
    if (run === undefined) return;
    await this.#step('begun');
    await this.#carryOut(lease, journal, secret, run);
  }

  async #resume(
    lease: Lease,
    journal: RotationJournal,
    row: RotationRow,
    runId: string,
  ): Promise<void> {
    const [run, secret] = await Promise.all([journal.run(runId), journal.secret(row.secret_id)]);
    if (secret === undefined) return journal.forget(row.secret_id);
    if (run !== undefined) await this.#carryOut(lease, journal, secret, run);
  }

  /** Through the door: decided and audited like everything that is done in the vault. */
  async #carryOut(
    lease: Lease,
    journal: RotationJournal,
    secret: RotatedSecret,
    run: RunRow,
  ): Promise<void> {
    const caller = systemCaller('rotation', run.id, this.#now());
    let ended: RunRow | undefined;
    const errand = {
      action: 'secret.rotate',
      operation: 'rotation.run',
      resource: { namespace: secret.namespace, secret: secret.name },
      effect: 'write',
    } as const;
    try {
      await this.#options.door.perform(caller, errand, async () => {
        ended = await this.#advance({ lease, journal, caller, secret }, run);
        // For the audit; what went wrong is in the history.
        if (ended.outcome !== 'succeeded') throw new RotationFailure('failed', 'not rotated');
      });
    } catch (error) {
      if (ended === undefined && isDenied(error) && run.new_version === null) {
        // Nothing was done yet: it failed, as any other attempt.
        const failure = new RotationFailure('denied', 'A policy forbids to rotate it now');
        const refused = await journal.enter(run, 'rolling-back', { step: 'begin', failure });
        ended = await this.#abandon({ lease, journal, caller, secret }, refused);
      }
      if (ended === undefined) throw await this.#later(journal, run, error);
    }
    if (ended?.ended_at_ms != null) await this.#reportRun(journal, ended);
  }

  /** The store or the audit is away: the run stays open, and is looked at again in a moment. */
  async #later(journal: RotationJournal, run: RunRow, error: unknown): Promise<unknown> {
    if (error instanceof LeaseLost) return error;
    const row = await journal.find(run.secret_id);
    if (row !== undefined) await journal.lookAgain(row, this.#now() + rotatorLimits.standbyMs);
    return error;
  }

  async #advance(given: Omit<Running, 'rotator'>, begun: RunRow): Promise<RunRow> {
    let run = begun;
    let next: RotationValue | undefined;
    const { journal } = given;
    let running: Running;
    try {
      const rotator = rotatorFor(settingsOf(run), this.#options.allowed());
      running = { ...given, rotator };
    } catch (error) {
      // What vault.yaml no longer allows cannot be rolled back either; before it was applied it can end.
      const failure = asFailure(error, given.lease.signal);
      const problem = { step: 'begin', failure };
      if (run.new_version === null)
        return this.#abandon(given, await journal.enter(run, 'rolling-back', problem));
      return this.#postpone(given, run, problem);
    }
    while (run.ended_at_ms === null) {
      this.#requireGoingOn(given.lease);
      const phase = run.phase;
      if (phase === 'creating') {
        ({ run, next } = await this.#create(running, run));
      } else if (phase === 'applying') {
        run = await this.#attempt(running, run, 'apply', 'verifying', async (work) =>
          running.rotator.apply(work, await this.#nextOf(running, run, next)),
        );
        if (run.phase === 'verifying') await this.#step('applied');
      } else if (phase === 'verifying') {
        run = await this.#verify(running, run, next);
        if (run.phase === 'promoting') await this.#step('verified');
      } else if (phase === 'promoting') {
        run = await this.#promote(running, run);
      } else {
        const before = run.rollbacks;
        run = await this.#rollBack(running, run, next);
        // Looked at again when it is time; both values are kept until then.
        if (run.rollbacks > before) return run;
      }
    }
    return run;
  }

  async #create(
    running: Running,
    run: RunRow,
  ): Promise<{ run: RunRow; next: RotationValue | undefined }> {
    const { journal, caller, secret, rotator } = running;
    let made: RotationValue;
    try {
      made = await this.#timed(running, run, (work) => rotator.create(work));
    } catch (error) {
      const problem = this.#problem(running, 'create', error);
      return {
        run: await this.#abandon(running, await journal.enter(run, 'rolling-back', problem)),
        next: undefined,
      };
    }
    await this.#step('created');
    const bytes = valueBytes(made.value, made.encoding, Number.MAX_SAFE_INTEGER);
    let entered = run;
    try {
      await this.#options.secrets.beginVersion(
        caller,
        secret.namespace,
        secret.name,
        { value: bytes, encoding: made.encoding },
        { expectedVersion: run.old_version },
        this.#along(running, async (queries, version) => {
          entered = await journal.enterIn(queries, run, {
            phase: 'applying',
            new_version: version,
          });
        }),
      );
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code === 'unavailable') throw error;
      const failure = new RotationFailure(
        error.code.replaceAll('_', '-'),
        error.code === 'precondition_failed'
          ? 'The secret was changed meanwhile'
          : 'The new version could not be stored',
      );
      const problem = { step: 'create', failure };
      return {
        run: await this.#abandon(running, await journal.enter(run, 'rolling-back', problem)),
        next: undefined,
      };
    } finally {
      bytes.fill(0);
    }
    await this.#step('pending');
    return { run: entered, next: made };
  }

  /** One step outside; what fails there is rolled back. */
  async #attempt(
    running: Running,
    run: RunRow,
    step: string,
    then: 'verifying' | 'promoting',
    call: (work: RotationWork) => Promise<void>,
  ): Promise<RunRow> {
    try {
      await this.#timed(running, run, call);
    } catch (error) {
      const problem = this.#problem(running, step, error);
      return running.journal.enter(run, 'rolling-back', problem);
    }
    return running.journal.enter(run, then);
  }

  /** What was applied may take a moment until it works everywhere. */
  async #verify(running: Running, run: RunRow, next: RotationValue | undefined): Promise<RunRow> {
    const pauses = this.#options.verifyPausesMs ?? rotatorLimits.verifyPausesMs;
    return this.#attempt(running, run, 'verify', 'promoting', async () => {
      let failure: unknown;
      for (const pauseMs of pauses) {
        await this.#pause(pauseMs, running.lease.signal, false);
        try {
          const value = await this.#nextOf(running, run, next);
          return await this.#timed(running, run, (work) => running.rotator.verify(work, value));
        } catch (error) {
          failure = error;
          this.#requireGoingOn(running.lease);
        }
      }
      throw failure;
    });
  }

  async #promote(running: Running, run: RunRow): Promise<RunRow> {
    const { journal, caller, secret } = running;
    const version = run.new_version as number;
    let ended = run;
    const promote = (expected: { expectedVersion?: number }) =>
      this.#options.secrets.promoteVersion(
        caller,
        secret.namespace,
        secret.name,
        version,
        expected,
        this.#along(running, async (queries) => {
          const now = await findRotatedSecret(queries, secret.id);
          ended = await journal.succeedIn(queries, run, now ?? secret);
        }),
      );
    try {
      await promote({ expectedVersion: run.old_version });
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code === 'unavailable') throw error;
      if (error.code !== 'precondition_failed') {
        const failure = new RotationFailure(
          error.code.replaceAll('_', '-'),
          'The new version could not be made the current one',
        );
        return journal.enter(run, 'rolling-back', { step: 'promote', failure });
      }
      // Somebody wrote another value meanwhile. Where that one works, it is what was wanted last.
      const now = await journal.secret(secret.id);
      if (now !== undefined && (await this.#currentWorks(running, run))) {
        return this.#abandon(running, run, 'overtaken', now.currentVersion);
      }
      await promote({});
    }
    await this.#step('promoted');
    return ended;
  }

  async #currentWorks(running: Running, run: RunRow): Promise<boolean> {
    const now = await running.journal.secret(running.secret.id);
    if (now === undefined) return false;
    try {
      const value = await this.#valueOf(running.secret, now.currentVersion);
      await this.#timed(running, run, (work) => running.rotator.verify(work, value));
      return true;
    } catch {
      this.#requireGoingOn(running.lease);
      return false;
    }
  }

  /** Back to what readers get now: the value before, or what somebody wrote meanwhile. */
  async #rollBack(running: Running, run: RunRow, next: RotationValue | undefined): Promise<RunRow> {
    if (run.new_version === null) return this.#abandon(running, run);
    await this.#step('rolling-back');
    const { rotator, journal } = running;
    const version = (await journal.secret(run.secret_id))?.currentVersion ?? run.old_version;
    const isOvertaken = version !== run.old_version;
    if (isOvertaken && (await this.#currentWorks(running, run))) {
      return this.#abandon(running, run, 'overtaken', version);
    }
    let value: RotationValue;
    try {
      value = await this.#nextOf(running, run, next);
      await this.#timed(running, run, (work) => rotator.rollBack(work, value), version);
      await this.#timed(running, run, (work) => rotator.verify(work, work.current), version);
    } catch (error) {
      const problem = this.#problem(running, 'rollBack', error);
      // Where the value before cannot be had back and the new one works, the new one it is.
      try {
        value = await this.#nextOf(running, run, next);
        await this.#timed(running, run, (work) => rotator.verify(work, value), version);
      } catch {
        this.#requireGoingOn(running.lease);
        return this.#postpone(running, run, problem);
      }
      return journal.enter(run, 'promoting');
    }
    await this.#step('rolled-back');
    return this.#abandon(running, run, isOvertaken ? 'overtaken' : 'failed', version);
  }

  async #postpone(
    { journal, secret }: Omit<Running, 'rotator'>,
    run: RunRow,
    problem: Problem,
  ): Promise<RunRow> {
    const row = await journal.find(run.secret_id);
    const { retry, rotator } = row === undefined ? defaults : policyOf(row);
    const delayMs = retryDelayMs(retry, run.rollbacks + 1, this.#options.random());
    const changed = await journal.postponeRollback(run, delayMs, problem);
    // Told once: nobody knows which of the two values is in force.
    if (changed.rollbacks === retry.attempts) {
      await this.#tell({
        id: `${run.id}-stuck`,
        namespace: secret.namespace,
        secret: secret.name,
        outcome: 'gave-up',
        attempt: run.attempt,
        rotator: rotator.kind,
        nextDueMs: null,
        problem: {
          step: problem.step,
          code: problem.failure.code,
          message: problem.failure.message,
        },
        atMs: this.#now(),
      });
    }
    return changed;
  }

  async #abandon(
    running: Omit<Running, 'rotator'>,
    run: RunRow,
    outcome: 'failed' | 'overtaken' = 'failed',
    /** What is in force; where somebody has written another since, the run goes on as it is. */
    inForce?: number,
  ): Promise<RunRow> {
    const { journal, caller, secret } = running;
    let ended = run;
    if (run.new_version === null) {
      ended = await journal.write((queries) => journal.failIn(queries, run, secret, outcome));
    } else {
      await this.#options.secrets
        .abandonVersion(
          caller,
          secret.namespace,
          secret.name,
          run.new_version,
          this.#along(running, async (queries) => {
            const now = await findRotatedSecret(queries, secret.id);
            if (inForce !== undefined && now !== undefined && now.currentVersion !== inForce) {
              throw new Overtaken();
            }
            ended = await journal.failIn(queries, run, now ?? secret, outcome);
          }),
        )
        .catch((error: unknown) => {
          if (!(error instanceof Overtaken)) throw error;
        });
    }
    if (ended.ended_at_ms !== null) await this.#step('abandoned');
    return ended;
  }

  async #retire(lease: Lease, journal: RotationJournal, row: RetirementRow): Promise<void> {
    const [rotation, secret] = await Promise.all([
      journal.find(row.secret_id),
      journal.secret(row.secret_id),
    ]);
    if (secret === undefined) return journal.forget(row.secret_id);
    const drop = () => journal.write((queries) => journal.retiredIn(queries, row));
    if (rotation === undefined || secret.currentVersion === row.version) return drop();
    // A rotation under way may be giving the retired user its next password.
    if (rotation.open_run_id !== null) {
      return journal.postponeRetirement(row, this.#now() + waitForOpenRunMs, false);
    }
    const caller = systemCaller('rotation', `${row.secret_id}-${row.version}`, this.#now());
    const errand = {
      action: 'secret.rotate',
      operation: 'rotation.retire',
      resource: { namespace: secret.namespace, secret: secret.name },
      effect: 'write',
    } as const;
    const { retry, rotator: settings } = policyOf(rotation);
    await this.#step('retiring');
    try {
      await this.#options.door.perform(caller, errand, async () => {
        const rotator = rotatorFor(settings, this.#options.allowed());
        const retired = await this.#valueOf(secret, row.version);
        const current = await this.#valueOf(secret, secret.currentVersion);
        await this.#withSignal(lease, rotator.timeoutMs, (signal) =>
          rotator.retire(this.#work(caller, secret, current, signal), retired),
        );
        await this.#options.secrets.retireVersion(
          caller,
          secret.namespace,
          secret.name,
          row.version,
          'deleted',
          this.#along({ journal }, (queries) => journal.retiredIn(queries, row)),
        );
      });
    } catch (error) {
      if (error instanceof LeaseLost) throw error;
      // It is gone already.
      if (error instanceof ServiceError && (error.code === 'not_found' || error.code === 'gone')) {
        return drop();
      }
      this.#requireGoingOn(lease);
      const delayMs = retryDelayMs(retry, row.failures + 1, this.#options.random());
      await journal.postponeRetirement(row, this.#now() + delayMs, true);
      if (row.failures + 1 === retry.attempts) {
        const failure = asFailure(error, lease.signal);
        await this.#tell({
          id: `${row.secret_id}-${row.version}-retire`,
          namespace: secret.namespace,
          secret: secret.name,
          outcome: 'gave-up',
          attempt: row.failures + 1,
          rotator: settings.kind,
          nextDueMs: rotation.next_due_ms,
          problem: { step: 'retire', code: failure.code, message: failure.message },
          atMs: this.#now(),
        });
      }
      return;
    }
    await this.#step('retired');
  }

  /** Whether it was told; what cannot be told holds nothing up. */
  async #tell(report: RotationReport): Promise<boolean> {
    try {
      await this.#options.report(report);
      return true;
    } catch (error) {
      this.#options.onError?.(error);
      return false;
    }
  }

  async #reportRun(journal: RotationJournal, run: RunRow): Promise<void> {
    const [row, secret] = await Promise.all([
      journal.find(run.secret_id),
      journal.secret(run.secret_id),
    ]);
    if (secret !== undefined) {
      const isTold = await this.#tell({
        id: run.id,
        namespace: secret.namespace,
        secret: secret.name,
        outcome: outcomeOf(run),
        attempt: run.attempt,
        rotator: settingsOf(run).kind,
        nextDueMs: row?.next_due_ms ?? null,
        problem:
          run.problem_code === null
            ? null
            : {
                step: run.problem_step ?? '',
                code: run.problem_code,
                message: run.problem_text ?? '',
              },
        atMs: run.ended_at_ms ?? this.#now(),
      });
      if (!isTold) return;
    }
    await journal.reported(run);
    await this.#step('reported');
  }

  /** A step of the rotator with the values it needs, within its time. */
  async #timed<T>(
    { caller, lease, rotator, secret }: Running,
    run: RunRow,
    call: (work: RotationWork) => Promise<T>,
    currentVersion: number = run.old_version,
  ): Promise<T> {
    const current = await this.#currentOf(secret, currentVersion);
    return this.#withSignal(lease, rotator.timeoutMs, (signal) =>
      call(this.#work(caller, secret, current, signal)),
    );
  }

  async #withSignal<T>(
    lease: Lease,
    timeoutMs: number,
    call: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signal = AbortSignal.any([
      lease.signal,
      this.#stopping.signal,
      AbortSignal.timeout(timeoutMs),
    ]);
    try {
      return await call(signal);
    } catch (error) {
      // Not the rotator's fault: whoever runs next does the step again.
      this.#requireGoingOn(lease);
      // Nor is it that the store or the audit is away.
      if (error instanceof ServiceError && error.code === 'unavailable') throw error;
      throw asFailure(error, signal);
    }
  }

  #work(
    caller: Caller,
    secret: RotatedSecret,
    current: RotationValue,
    signal: AbortSignal,
  ): RotationWork {
    return {
      secret: { namespace: secret.namespace, name: secret.name },
      current,
      signal,
      readSecret: async ({ namespace, secret: name }) => {
        const errand = {
          action: 'secret.read-value',
          operation: 'rotation.read-secret',
          resource: { namespace, secret: name },
          effect: 'read',
        } as const;
        const { secrets, door } = this.#options;
        try {
          return await door.perform(caller, errand, async () => {
            const facts = await secrets.get(namespace, name);
            if (facts.state !== 'active') throw new ServiceError('gone');
            const { value } = await secrets.versionBytes(namespace, name, facts.version);
            const text = value.toString('utf8');
            value.fill(0);
            return text;
          });
        } catch (error) {
          if (error instanceof ServiceError && error.code === 'unavailable') throw error;
          throw new RotationFailure(
            'no-credential',
            `The secret ${name} in ${namespace} cannot be read`,
          );
        }
      },
    };
  }

  /** What was in force when the run began; where somebody removed that version, what is in force now. */
  async #currentOf(secret: RotatedSecret, version: number): Promise<RotationValue> {
    try {
      return await this.#valueOf(secret, version);
    } catch (error) {
      if (!(error instanceof ServiceError) || !/^(?:not_found|gone)$/.test(error.code)) throw error;
      const facts = await this.#options.secrets.get(secret.namespace, secret.name);
      return this.#valueOf(secret, facts.version);
    }
  }

  async #valueOf(secret: RotatedSecret, version: number): Promise<RotationValue> {
    const { value, encoding } = await this.#options.secrets.versionBytes(
      secret.namespace,
      secret.name,
      version,
    );
    try {
      return { value: valueText(value, encoding), encoding };
    } finally {
      value.fill(0);
    }
  }

  async #nextOf(
    { secret }: Running,
    run: RunRow,
    known: RotationValue | undefined,
  ): Promise<RotationValue> {
    return known ?? this.#valueOf(secret, run.new_version as number);
  }

  #problem({ lease }: Running, step: string, error: unknown): Problem {
    if (error instanceof LeaseLost) throw error;
    if (error instanceof ServiceError && error.code === 'unavailable') throw error;
    if (error instanceof ServiceError) {
      const failure = new RotationFailure(
        error.code.replaceAll('_', '-'),
        'A version of the secret cannot be read',
      );
      return { step, failure };
    }
    return { step, failure: asFailure(error, lease.signal) };
  }

  /** For the transaction of a version: the lease first, then the journal. */
  #along(
    { journal }: Pick<Running, 'journal'>,
    work: (queries: Queries<RotationSchema>, version: number) => Promise<void>,
  ): Alongside {
    return async (change: NamespaceChange, version: number) => {
      const queries = change.queries as unknown as Queries<RotationSchema>;
      await journal.fence(queries);
      await work(queries, version);
    };
  }

  #requireGoingOn(lease: Lease): void {
    if (lease.signal.aborted || this.#stopping.signal.aborted) throw new LeaseLost(rotationLease);
  }

  async #step(step: RunnerStep): Promise<void> {
    await this.#options.onStep?.(step);
  }

  #pause(ms: number, signal: AbortSignal, isWoken = true): Promise<void> {
    if (ms === 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        if (this.#wake === end) this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      timer.unref();
      signal.addEventListener('abort', end, { once: true });
      if (isWoken) this.#wake = end;
    });
  }
}

/** Somebody wrote a value between the proof of another and the end of the run. */
class Overtaken extends Error {}

function isDenied(error: unknown): boolean {
  return error instanceof ServiceError && error.code === 'permission_denied';
}

const defaults = {
  retry: { attempts: 5, firstDelaySeconds: 30, longestDelaySeconds: 3_600 },
  rotator: { kind: 'generated' },
} as const;

function outcomeOf(run: RunRow): ReportedOutcome {
  if (run.outcome === 'succeeded') return 'succeeded';
  if (run.outcome === 'overtaken') return 'rolled-back';
  return run.has_given_up === 1 ? 'gave-up' : 'failed';
}

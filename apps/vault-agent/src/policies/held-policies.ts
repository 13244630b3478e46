/**
 * The policy set that decides in this agent. A set that arrives is checked wholly before anything
 * changes, is on the disk before it decides, and takes over between two decisions. The one before it
 * stays, on the disk and in memory.
 *
 * Fails closed: a set that was held and cannot be read any more is replaced by the one before it, and
 * where that is gone too, by a set that permits nothing. So is one that is older than the store says was
 * made active: somebody has put it back.
 */
import {
  PolicySetOutcome,
  PolicySetProblem,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { AgentConfiguration, Staleness } from '@keystead/contracts/policy-set-content';
import { type CompiledSet, refusingSet } from '@keystead/policy-engine/compile';
import type { Logger } from 'pino';
import type { EventKind } from '../durable-queue.ts';
import type { AnchoredSet, PolicyAnchor } from './policy-anchor.ts';
import {
  type ArrivedSet,
  type CheckedSet,
  checkSet,
  type PolicyTrust,
} from './policy-set-check.ts';
import { type Pointer, PolicySetFiles, type SignedSet } from './policy-set-files.ts';
import type { EffectiveConfiguration } from './rolled-out-configuration.ts';

export interface HeldPoliciesOptions {
  folder: string;
  /** What the store says of the set that was made active last. */
  anchor: Pick<PolicyAnchor, 'read' | 'write'>;
  /** Read for each set: certificates are renewed. */
  trust: () => PolicyTrust;
  now: () => number;
  monotonicMs?: () => number;
  /** Takes over what the set says of the agent's configuration, all of it at once; it was checked before. */
  configure?: (configuration: AgentConfiguration) => void;
  /** What holds now, also after vault.yaml was read again. */
  configured?: () => Pick<EffectiveConfiguration, 'digest' | 'unknownDestinations'> | undefined;
  /** For the owner's audit: what became of a set, in words, and whether it decides. */
  audit?: (number: number, isTaken: boolean, facts: Record<string, string>) => void;
  /** Kept for the control plane until its receipt. Never throws: what is reported has happened. */
  record: (kind: EventKind) => void;
  log: Pick<Logger, 'info' | 'warn' | 'error'>;
}

export interface ActiveSet {
  number: number;
  digest: string;
  compiled: CompiledSet;
  configuration: AgentConfiguration;
  staleness: Staleness | null;
  /** When it was signed. */
  createdAtMs?: number;
}

export type Receipt = { outcome: 'active' } | { outcome: 'rejected'; problem: PolicySetProblem };

/** The set that is meant decides then. */
const soundOutcomes: ReadonlySet<PolicySetOutcome> = new Set([
  PolicySetOutcome.ACTIVE,
  PolicySetOutcome.STALE,
  PolicySetOutcome.FRESH,
]);
const heardWrittenEveryMs = 60_000;
/** Clocks differ, and are corrected. */
const clockToleranceMs = 60_000;

export class HeldPolicies {
  readonly #options: HeldPoliciesOptions;
  readonly #files: PolicySetFiles;
  #pointer: Pointer | undefined;
  /** What was made active last, where the files do not have it any more. */
  #lost: AnchoredSet | undefined;
  /** What the store is still to be told: the newest alone. */
  #unanchored: AnchoredSet | undefined;
  /** The store is told one after the other: an older set must not come after a newer one. */
  #anchoring: Promise<void> | undefined;
  #active: ActiveSet | undefined;
  #previous: ActiveSet | undefined;
  #heardAtMs = 0;
  /** Whoever sets the clock back makes no silence shorter. */
  #heardMonotonicMs = 0;
  #heardWrittenAtMs = 0;
  #isStale = false;
  /** Sets are taken one after the other. */
  #taking: Promise<unknown> = Promise.resolve();

  private constructor(options: HeldPoliciesOptions) {
    this.#options = options;
    this.#files = new PolicySetFiles(options.folder);
  }

  /** Reads what is held. Never throws: what cannot be read denies everything, and is told. */
  static async open(options: HeldPoliciesOptions): Promise<HeldPolicies> {
    const held = new HeldPolicies(options);
    await held.#load();
    held.#configure();
    return held;
  }

  /** What decides; undefined while no set was ever assigned. */
  get active(): ActiveSet | undefined {
    return this.#active;
  }

  /** The set before it, for comparing decisions; undefined where there is none in memory. */
  get previous(): ActiveSet | undefined {
    return this.#previous;
  }

  /** What a heartbeat says; undefined where nothing is held, or nothing that is sound. */
  get held(): { version: number; digest: string } | undefined {
    const active = this.#active;
    return active === undefined || active.digest === ''
      ? undefined
      : { version: active.number, digest: active.digest };
  }

  /** What a set says about silence, while it lasts. */
  get staleness(): Staleness['afterwards'] | undefined {
    return this.#isStale ? (this.#active?.staleness?.afterwards ?? undefined) : undefined;
  }

  /** A time that is surely past: something was heard then, or a set was signed. */
  get surelyPastMs(): number {
    return Math.max(this.#heardAtMs, this.#active?.createdAtMs ?? 0);
  }

  /** What time it is at the control plane, when it is heard. */
  onTimeTold: (unixMs: number) => void = () => undefined;

  /** Checks a set, keeps it, and lets it decide. */
  receive(arrived: ArrivedSet): Promise<Receipt> {
    const taken = this.#taking.then(() => this.#take(arrived));
    this.#taking = taken.catch(() => undefined);
    return taken;
  }

  /**
   * The control plane was heard: a heartbeat was recorded.
   * @param toldMs what time it is there
   */
  heard(toldMs?: number): void {
    const nowMs = this.#options.now();
    this.#noteHeard(nowMs);
    if (toldMs !== undefined) this.onTimeTold(toldMs);
    if (nowMs - this.#heardWrittenAtMs >= heardWrittenEveryMs && this.#active !== undefined) {
      this.#heardWrittenAtMs = nowMs;
      try {
        this.#files.writeHeardAtMs(nowMs);
      } catch (error) {
        this.#options.log.warn({ err: error }, 'when we were heard could not be written down');
      }
    }
    this.tick();
  }

  /** Called now and then: says when a set has become stale, and when it is no longer. */
  tick(): void {
    if (this.#unanchored !== undefined && this.#anchoring === undefined) void this.#tellAnchor();
    const { number, digest, staleness } = this.#active ?? {};
    if (number === undefined || digest === undefined) return;
    const silentMs = Math.max(
      this.#options.now() - this.#heardAtMs,
      this.#monotonicMs() - this.#heardMonotonicMs,
    );
    const isStale = staleness != null && silentMs > staleness.afterSeconds * 1_000;
    if (isStale === this.#isStale) return;
    this.#isStale = isStale;
    this.#options.log.warn(
      { number, afterwards: staleness?.afterwards },
      isStale ? 'the policy set may be out of date' : 'the policy set is up to date again',
    );
    this.#report(
      { number, digest },
      isStale ? PolicySetOutcome.STALE : PolicySetOutcome.FRESH,
      PolicySetProblem.UNSPECIFIED,
    );
  }

  async #take(arrived: ArrivedSet): Promise<Receipt> {
    const { number, digest } = arrived;
    const held = this.#pointer?.active ?? this.#lost;
    const isHeld = held?.digest === digest && held.number === number;
    // A set that is held and damaged on the disk is taken again as it is.
    const checked = await checkSet(
      arrived,
      this.#options.trust(),
      isHeld ? undefined : held,
      this.#options.now(),
    );
    if (!checked.ok) return this.#reject(arrived, checked.problem);
    const signed: SignedSet = {
      number,
      digest,
      signature: Buffer.from(arrived.signature).toString('base64'),
      chain: arrived.chain.map((certificate) => Buffer.from(certificate).toString('base64')),
    };
    const pointer: Pointer = {
      active: signed,
      predecessor: isHeld ? (this.#pointer?.predecessor ?? null) : (this.#pointer?.active ?? null),
    };
    try {
      this.#files.switchTo(pointer, arrived.content);
    } catch (error) {
      this.#options.log.error({ err: error }, 'a policy set could not be kept');
      return this.#reject(arrived, PolicySetProblem.STORE);
    }
    this.#pointer = pointer;
    this.#lost = undefined;
    // After the files: a store that is behind them is brought up, one that is ahead denies everything.
    await this.#anchor({ number, digest });
    const before = this.#active;
    if (!isHeld) {
      this.#previous?.compiled.close();
      this.#previous = before;
    }
    this.#active = asActive(signed, checked.value);
    this.#configure();
    this.#noteHeard(this.#options.now());
    this.#options.log.info({ number, digest }, 'a policy set decides from now on');
    this.#report(arrived, PolicySetOutcome.ACTIVE, PolicySetProblem.UNSPECIFIED);
    this.tick();
    return { outcome: 'active' };
  }

  /** Resolves when the store was told, or could not be. */
  async #anchor(set: AnchoredSet): Promise<void> {
    this.#unanchored = set;
    await this.#anchoring;
    await this.#tellAnchor();
  }

  #tellAnchor(): Promise<void> {
    this.#anchoring ??= this.#writeAnchor().finally(() => {
      this.#anchoring = undefined;
    });
    return this.#anchoring;
  }

  async #writeAnchor(): Promise<void> {
    const set = this.#unanchored;
    if (set === undefined) return;
    try {
      await this.#options.anchor.write(set);
      if (this.#unanchored === set) this.#unanchored = undefined;
    } catch (error) {
      this.#options.log.warn(
        { err: error, number: set.number },
        'the store could not be told which policy set is active: it is tried again',
      );
    }
  }

  /** Whether the files hold what was made active last, or something newer. */
  async #isRolledBack(pointer: Pointer | undefined): Promise<boolean> {
    const { anchor, log } = this.#options;
    const held = pointer?.active;
    let anchored: AnchoredSet | undefined;
    try {
      anchored = await anchor.read();
    } catch (error) {
      log.error({ err: error }, 'which policy set was made active last is not known');
      this.#lost = held ?? { number: 0, digest: '' };
      return true;
    }
    const isSound =
      anchored === undefined ||
      (held !== undefined &&
        (held.number > anchored.number ||
          (held.number === anchored.number && held.digest === anchored.digest)));
    if (isSound) {
      if (held !== undefined && held.number !== anchored?.number)
        await this.#anchor({ number: held.number, digest: held.digest });
      return false;
    }
    this.#lost = anchored;
    log.error(
      { number: anchored?.number, found: held?.number ?? null },
      'an older policy set was put in the place of the one that was made active: everything is denied',
    );
    return true;
  }

  #configure(): void {
    this.#options.configure?.(this.#active?.configuration ?? {});
  }

  #noteHeard(atMs: number): void {
    this.#heardAtMs = atMs;
    this.#heardMonotonicMs = this.#monotonicMs();
  }

  #monotonicMs(): number {
    return this.#options.monotonicMs?.() ?? performance.now();
  }

  #reject(arrived: ArrivedSet, problem: PolicySetProblem): Receipt {
    this.#options.log.warn(
      { number: arrived.number, problem: nameOfProblem(problem) },
      'a policy set was rejected: the one before it goes on',
    );
    this.#report(arrived, PolicySetOutcome.REJECTED, problem);
    return { outcome: 'rejected', problem };
  }

  #report(
    { number, digest }: { number: number; digest: string },
    outcome: PolicySetOutcome,
    problem: PolicySetProblem,
  ): void {
    this.#options.audit?.(number, soundOutcomes.has(outcome), {
      digest,
      outcome: nameOfOutcome(outcome),
      ...(problem === PolicySetProblem.UNSPECIFIED ? {} : { problem: nameOfProblem(problem) }),
    });
    const configured = this.#options.configured?.();
    this.#options.record({
      $case: 'policySetReported',
      value: {
        policySet: { version: number, digest },
        outcome,
        problem,
        configurationDigest: configured?.digest ?? '',
        unknownDestinations: configured?.unknownDestinations.length ?? 0,
      },
    });
  }

  async #load(): Promise<void> {
    const nowMs = this.#options.now();
    const heardAtMs = this.#files.readHeardAtMs() || nowMs;
    // Heard in the future: the clock was set back meanwhile, and nobody knows for how long it was silent.
    this.#noteHeard(heardAtMs > nowMs + clockToleranceMs ? 0 : heardAtMs);
    let pointer: Pointer | undefined;
    let isReadable = true;
    try {
      pointer = this.#files.readPointer();
    } catch (error) {
      isReadable = false;
      this.#options.log.error({ err: error }, 'the policy set that was held cannot be read');
    }
    if (isReadable && (await this.#isRolledBack(pointer))) {
      const lost = this.#lost ?? { number: 0, digest: '' };
      this.#active = refusing(lost.number);
      this.#report(lost, PolicySetOutcome.ROLLED_BACK, PolicySetProblem.UNSPECIFIED);
      return;
    }
    if (isReadable && pointer === undefined) return;
    this.#pointer = pointer;
    const active = pointer && (await this.#read(pointer.active));
    const predecessor = pointer?.predecessor ? await this.#read(pointer.predecessor) : undefined;
    if (active !== undefined) {
      this.#active = active;
      this.#previous = predecessor;
      return;
    }
    this.#active = predecessor ?? refusing(pointer?.active.number ?? 0);
    if (pointer === undefined) return;
    this.#options.log.error(
      { number: pointer.active.number, instead: predecessor?.number ?? null },
      'the policy set that was held is damaged',
    );
    this.#report(pointer.active, PolicySetOutcome.DAMAGED, PolicySetProblem.UNSPECIFIED);
  }

  async #read(signed: SignedSet): Promise<ActiveSet | undefined> {
    try {
      const checked = await checkSet(
        {
          number: signed.number,
          digest: signed.digest,
          content: this.#files.readSet(signed),
          signature: Buffer.from(signed.signature, 'base64'),
          chain: signed.chain.map((certificate) => Buffer.from(certificate, 'base64')),
        },
        this.#options.trust(),
        undefined,
      );
      if (checked.ok) return asActive(signed, checked.value);
      this.#options.log.error(
        { number: signed.number, problem: nameOfProblem(checked.problem) },
        'a policy set on the disk is not sound',
      );
    } catch (error) {
      this.#options.log.error({ err: error }, 'a policy set on the disk cannot be read');
    }
    return undefined;
  }
}

function refusing(number: number): ActiveSet {
  return {
    number,
    digest: '',
    compiled: refusingSet('corrupt_set'),
    configuration: {},
    staleness: null,
  };
}

function asActive({ number, digest }: SignedSet, { content, compiled }: CheckedSet): ActiveSet {
  const { configuration, staleness } = content;
  const createdAtMs = Date.parse(content.createdAt);
  return { number, digest, compiled, configuration, staleness, createdAtMs };
}

export const nameOfProblem = (problem: PolicySetProblem) => nameIn(PolicySetProblem, problem);
const nameOfOutcome = (outcome: PolicySetOutcome) => nameIn(PolicySetOutcome, outcome);

function nameIn(names: Record<string, number | string>, value: number): string {
  const found = Object.entries(names).find(([, each]) => each === value);
  return (found?.[0] ?? 'unknown').toLowerCase();
}

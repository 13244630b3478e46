/**
 * To whom the audit is sent on: the receivers that vault.yaml has on, and those it lets a policy set turn
 * on. Nobody else is sent anything, whatever a set says.
 *
 * A receiver that is turned on goes on where it was, and begins with the oldest entry that is kept where it
 * was never on: an audit with a gap in it is what whoever turns receivers off and on would want.
 */
import type { Logger } from 'pino';
import { AuditForwarder } from './audit-forwarder.ts';
import type { DeclaredDestination } from './declared-destinations.ts';
import { forwardingLimits } from './forwarding-limits.ts';
import type { DestinationOfLog } from './named-destinations.ts';

export interface AuditForwardingOptions {
  /** The last entry of the agent's own log that is on the disk. */
  through?: () => number | undefined;
  everyMs?: number;
}

export class AuditForwarding {
  readonly #destinations: readonly DestinationOfLog[];
  readonly #log: Logger;
  readonly #options: AuditForwardingOptions;
  /** By the file of the position, which two must not write. */
  readonly #running = new Map<string, AuditForwarder>();
  readonly #ending = new Map<string, Promise<void>>();
  #on: ReadonlySet<string> = new Set();
  #told = '';
  #state: 'new' | 'running' | 'stopped' = 'new';

  constructor(
    destinations: readonly DestinationOfLog[],
    log: Logger,
    options: AuditForwardingOptions = {},
  ) {
    this.#destinations = destinations;
    this.#log = log;
    this.#options = options;
  }

  /** Those that a policy set can turn on, or that are on and have a name. */
  get declared(): DeclaredDestination[] {
    return this.#destinations.flatMap(({ name, isOn, source }) =>
      name === undefined || source !== 'agent' ? [] : [{ name, isOn }],
    );
  }

  /** Whether anything is sent to anybody, or can be turned on. */
  get isPossible(): boolean {
    return this.#destinations.length > 0;
  }

  /** Those that are on. */
  get forwarders(): readonly AuditForwarder[] {
    return [...this.#running.values()];
  }

  start(): void {
    this.#state = 'running';
    this.#settle();
  }

  /**
   * @param names that are on from now on, beside what vault.yaml has on
   * @param unknown that were to be on and are not in vault.yaml
   */
  turnOn(names: readonly string[], unknown: readonly string[]): void {
    this.#on = new Set(names);
    const told = unknown.join(' ');
    if (told !== this.#told && told !== '') {
      this.#log.warn(
        { destinations: unknown },
        'the policy set names receivers of the audit that vault.yaml does not: nothing is sent to them',
      );
    }
    this.#told = told;
    if (this.#state === 'running') this.#settle();
  }

  async stop(): Promise<void> {
    this.#state = 'stopped';
    const ended = [...this.#running.values()].map((forwarder) => forwarder.stop());
    await Promise.all([...ended, ...this.#ending.values()]);
  }

  #settle(): void {
    if (this.#state !== 'running') return;
    const wanted = new Map(
      this.#destinations
        .filter(({ name, isOn }) => isOn || (name !== undefined && this.#on.has(name)))
        .map((each) => [each.positionFile, each]),
    );
    for (const [file, forwarder] of this.#running) {
      if (wanted.has(file)) continue;
      this.#running.delete(file);
      this.#log.info({ destination: forwarder.name }, 'the audit is no longer forwarded there');
      // What is under way ends first, so that a later position is not overwritten with an earlier one.
      const ended = forwarder.stop(forwardingLimits.sendWithinMs).finally(() => {
        this.#ending.delete(file);
        this.#settle();
      });
      this.#ending.set(file, ended);
    }
    const { everyMs, through } = this.#options;
    for (const [file, { logFile, source, positionFile, open, isOn }] of wanted) {
      if (this.#running.has(file) || this.#ending.has(file)) continue;
      const destination = open();
      const forwarder = new AuditForwarder({
        logFile,
        source,
        positionFile,
        destination,
        log: this.#log,
        through: source === 'agent' ? through : undefined,
        ...(everyMs === undefined ? {} : { everyMs }),
      });
      this.#running.set(file, forwarder);
      forwarder.start();
      if (isOn) continue;
      this.#log.info(
        { destination: destination.name },
        'the audit is forwarded there because the policy set says so',
      );
    }
  }
}

/**
 * One run of the agent: its vault, its HTTP, its queue, its link to the control plane. Everything here
 * works without a control plane.
 */

import { dirname, join } from 'node:path';
import {
  ConfigurationSection,
  Degradation,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { parseEndpoint, parseFingerprint } from '@keystead/agent-protocol/link-client';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import { newUuid } from '@keystead/contracts/ids';
import type { AgentConfiguration } from '@keystead/contracts/policy-set-content';
import type { Logger } from 'pino';
import { Registry } from 'prom-client';
import { AgentDuties } from './agent-duties.ts';
import { AgentHttp } from './agent-http.ts';
import { AgentReporting } from './agent-reporting.ts';
import {
  type Configuration,
  durationMs,
  type LoadedConfiguration,
  type SectionName,
  sectionNames,
} from './configuration.ts';
import { ControlLink } from './control-link.ts';
import { DurableQueue } from './durable-queue.ts';
import { GuardedVault, rotatorsOf } from './guarded-vault.ts';
import { hostFacts, ProcessGauges } from './host.ts';
import type { HealthSource } from './http/health.http.ts';
import { agentIdOf, IdentityStore } from './identity-store.ts';
import type { ReadVariable } from './key-management.ts';
import { addLinkMetrics } from './link-metrics.ts';
import { ApprovalOrders } from './policies/approval-orders.ts';
import { ApprovalReports } from './policies/approval-reports.ts';
import { HeldPolicies } from './policies/held-policies.ts';
import { policyTrustOf } from './policies/policy-trust.ts';
import { DecisionJournal } from './policies/replays/decision-journal.ts';
import { Replays } from './policies/replays/replays.ts';
import { effectiveConfiguration } from './policies/rolled-out-configuration.ts';
import type { Circuit } from './store/store-breaker.ts';
import { NameReferences } from './upward/name-references.ts';
import { agentVersion } from './version.ts';

/** As the control plane knows them; what it does not know shows in the digest alone. */
const sections: Partial<Record<SectionName, ConfigurationSection>> = {
  server: ConfigurationSection.SERVER,
  storage: ConfigurationSection.STORAGE,
  encryption: ConfigurationSection.ENCRYPTION,
  authentication: ConfigurationSection.AUTHENTICATION,
  audit: ConfigurationSection.AUDIT,
  backup: ConfigurationSection.BACKUP,
  monitoring: ConfigurationSection.MONITORING,
  control_plane: ConfigurationSection.CONTROL_PLANE,
};

export class VaultAgent implements HealthSource {
  readonly bootId = newUuid();
  readonly #log: Logger;
  readonly #readVariable: ReadVariable;
  #loaded: LoadedConfiguration;
  readonly #startedAtUnixMs = Date.now();
  readonly #gauges = new ProcessGauges();
  #queue: DurableQueue | undefined;
  #link: ControlLink | undefined;
  #guarded: GuardedVault | undefined;
  #http: AgentHttp | undefined;
  #duties: AgentDuties | undefined;
  #reporting: AgentReporting | undefined;
  #approvalReports: ApprovalReports | undefined;
  #journal: DecisionJournal | undefined;
  #replays: Replays | undefined;
  #ids = { agentId: '', vaultId: '', organizationId: '', vaultName: '', agentName: '' };
  #serving = false;
  #fromSet: AgentConfiguration = {};

  constructor(loaded: LoadedConfiguration, log: Logger, readVariable: ReadVariable) {
    this.#loaded = loaded;
    this.#readVariable = readVariable;
    this.#log = log.child({ bootId: this.bootId });
  }

  /** @throws with one line that says what is wrong: configuration, identity, queue, keys, store, port */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      // What is open already would keep the process, or its locks, alive.
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  async #start(): Promise<void> {
    const { configuration, locate } = this.#loaded;
    const { server, control_plane: controlPlane } = configuration;
    const identities = new IdentityStore({
      certificate: locate(controlPlane.certificate_path),
      privateKey: locate(controlPlane.private_key_path),
      root: locate(controlPlane.ca_path),
    });
    if (controlPlane.enabled) {
      identities.load();
      if (controlPlane.ca_fingerprint !== undefined) {
        identities.checkRoot(parseFingerprint(controlPlane.ca_fingerprint));
      }
      this.#ids = { ...identities.describe(), agentId: agentIdOf(identities.current) };
    }
    const queue = new DurableQueue(
      locate(controlPlane.queue_path),
      {
        bootId: this.bootId,
        startedAtUnixMs: this.#startedAtUnixMs,
        configuration: this.#loaded.digests,
      },
      controlPlane.queue_max_events,
    );
    this.#queue = queue;
    const guarded = await GuardedVault.open({
      loaded: this.#loaded,
      readVariable: this.#readVariable,
      log: this.#log,
    });
    this.#guarded = guarded;
    if (await guarded.apiKeys.isEmpty()) {
      this.#log.warn('nobody has a key yet: "keystead-agent init" makes the first one');
    }
    const registry = new Registry();
    const reporting = new AgentReporting({
      loaded: this.#loaded,
      readVariable: this.#readVariable,
      guarded,
      queue,
      identities,
      registry,
      log: this.#log,
      onQueued: () => this.#link?.wake(),
    });
    this.#reporting = reporting;
    reporting.start();
    guarded.vault.store.breaker.onChange((isAvailable) =>
      reporting.upward.notice(isAvailable ? 'STORE_AVAILABLE' : 'STORE_UNAVAILABLE'),
    );
    guarded.vault.keys.onProviderChange((isAvailable) => {
      if (isAvailable) return this.#log.info('the key provider answers again');
      this.#log.warn('the key provider does not give the master key out');
      reporting.upward.notice('KEY_UNAVAILABLE');
      return undefined;
    });
    // Before anything is served: without it roles would decide alone.
    const policies = controlPlane.enabled
      ? await HeldPolicies.open({
          folder: join(dirname(locate(controlPlane.queue_path)), 'policies'),
          anchor: guarded.policies.anchorOf(this.#ids.agentId),
          trust: () => policyTrustOf(identities.current),
          configure: (fromSet) => this.#configure(fromSet),
          configured: () => guarded.policies.configuration,
          audit: (number, isTaken, facts) => guarded.policies.auditSet(number, isTaken, facts),
          now: Date.now,
          record: (kind) => reporting.upward.tell(kind),
          log: this.#log,
        })
      : undefined;
    guarded.policies.held = policies;
    const replays = controlPlane.enabled
      ? this.#openReplays(guarded, identities, reporting)
      : undefined;
    guarded.policies.onNotice = (notice) => {
      if (notice.kind === 'alert') reporting.upward.notice('POLICY_ALERT', notice);
      else if (notice.isActive) reporting.upward.notice('EMERGENCY_OVERRIDE');
    };
    if (controlPlane.enabled) this.#reportApprovals(guarded, queue);
    this.#duties = new AgentDuties({
      loaded: this.#loaded,
      readVariable: this.#readVariable,
      guarded,
      upward: reporting.upward,
      holder: this.bootId,
      log: this.#log,
    });
    this.#http = new AgentHttp({
      loaded: this.#loaded,
      guarded,
      source: this,
      registry,
      log: this.#log,
      onLock: (kind, guesses, keyPrefix) => {
        this.#log.warn({ kind, guesses, keyPrefix }, 'somebody guesses credentials');
        if (keyPrefix === undefined) reporting.upward.notice('GUESSING', { count: guesses });
        else {
          const identity = { kind: 'api_key', id: keyPrefix };
          reporting.upward.notice('GUESSING', { identity, count: guesses });
        }
      },
    });
    // What the set says of the rate of requests waited for them.
    this.#configure(this.#fromSet);
    addLinkMetrics(registry, this);
    const port = await this.#http.listen(server.host, server.port);
    this.#serving = true;
    this.#log.info(
      { version: agentVersion, host: server.host, port, ...this.#ids, queued: queue.waiting },
      'serving',
    );
    this.#tellBoot(queue);
    this.#duties.start();
    if (policies === undefined || controlPlane.endpoint === undefined) return;
    const orders = new ApprovalOrders({
      approvals: guarded.policies.approvals,
      trust: () => policyTrustOf(identities.current),
      vaultId: this.#ids.vaultId,
      trail: guarded.trail,
      record: (kind) => {
        queue.append(kind, Date.now());
        this.#link?.wake();
      },
      now: Date.now,
      log: this.#log,
    });
    this.#link = new ControlLink({
      endpoint: parseEndpoint(controlPlane.endpoint),
      identities,
      queue,
      vaultId: this.#ids.vaultId,
      bootId: this.bootId,
      agentVersion,
      configurationDigest: this.#loaded.digest,
      host: hostFacts(),
      gauges: this.#gauges,
      policies,
      handlers: {
        ...(replays === undefined
          ? {}
          : { replayDecisions: async ({ value }) => replays.carryOut(value) }),
        decideApproval: ({ value }) => orders.carryOut(value),
      },
      log: this.#log,
      startedAtUnixMs: this.#startedAtUnixMs,
      firstIntervalMs: durationMs(controlPlane.heartbeat_interval),
      now: () => ({ unixMs: Date.now(), monotonicMs: performance.now() }),
      random: Math.random,
    });
    this.#link.start();
  }

  /** Says goodbye and ends within two seconds: what is not done by then is left for the next run. */
  async stop(): Promise<void> {
    this.#serving = false;
    await Promise.all([
      this.#http?.close(300),
      within(this.#duties?.stop(), 600),
      within(this.#replays?.stop(), 600),
      within(this.#approvalReports?.stop(), 600),
    ]);
    await Promise.all([within(this.#journal?.stop(), 600), within(this.#reporting?.stop(), 600)]);
    this.#note((queue) =>
      queue.append(
        { $case: 'shutDown', value: { uptimeSeconds: Math.floor(process.uptime()) } },
        Date.now(),
      ),
    );
    await this.#link?.stop();
    this.#note((queue) => queue.endCleanly());
    await this.#guarded?.close();
    this.#gauges.stop();
    this.#queue?.close();
  }

  /**
   * Takes over what can be changed while requests are answered. Answers the sections that need a new
   * start. @throws ConfigurationError, and nothing has changed
   */
  reload(loaded: LoadedConfiguration): SectionName[] {
    const before = this.#loaded;
    this.#http?.reload(loaded);
    this.#configure(this.#fromSet, loaded);
    if (this.#guarded !== undefined) this.#guarded.rotators = rotatorsOf(loaded);
    this.#guarded?.vault.keys.askProviderAgain();
    this.#log.level = loaded.configuration.monitoring.log_level;
    const changed = sectionNames.filter((name) => before.digests[name] !== loaded.digests[name]);
    this.#loaded = loaded;
    if (changed.length === 0) return [];
    this.#note((queue) =>
      queue.append(
        {
          $case: 'configurationChanged',
          value: {
            previousDigest: before.digest,
            digest: loaded.digest,
            sections: sectionsOf(changed),
          },
        },
        Date.now(),
      ),
    );
    return changed.filter((name) => needsRestart(name, before, loaded));
  }

  /** Of what is done already: a disk that is full undoes nothing, and holds up nothing that follows. */
  #note(write: (queue: DurableQueue) => void): void {
    try {
      if (this.#queue !== undefined) write(this.#queue);
    } catch (error) {
      this.#log.error({ error: String(error) }, 'an event could not be written down');
    }
  }

  /** Takes over what the policy set says of the configuration and the file does not. */
  #configure(fromSet: AgentConfiguration, loaded: LoadedConfiguration = this.#loaded): void {
    this.#fromSet = fromSet;
    // Receivers are those that this run began with, also after vault.yaml was read again.
    const effective = effectiveConfiguration(loaded, fromSet, this.#reporting?.forwarding.declared);
    const { settings } = effective;
    this.#reporting?.configure(effective);
    const guarded = this.#guarded;
    if (guarded !== undefined) {
      guarded.vault.secrets.maxVersionsDefault =
        settings.secretMaxVersions.value ?? secretLimits.maxVersionsDefault;
      guarded.rotations.intervalDefaultSeconds =
        settings.rotationIntervalSeconds.value ?? undefined;
      guarded.tokens.ttlDefaultSeconds = settings.tokenTtlSeconds.value ?? undefined;
      guarded.trail.retentionDays =
        settings.auditRetentionDays.value ?? loaded.configuration.audit.retention_days;
      guarded.policies.configuration = effective;
    }
    const perSecond = settings.requestsPerSecondPerIdentity.value;
    if (this.#http !== undefined && perSecond !== null) this.#http.requestsPerSecond = perSecond;
  }

  /** What waits for approval here can be decided in the control plane as well. */
  #reportApprovals({ policies, vault }: GuardedVault, queue: DurableQueue): void {
    const names = vault.keys.derive('name-references');
    this.#approvalReports = new ApprovalReports({
      approvals: policies.approvals,
      names: new NameReferences(names.bytes),
      record: (kind) => {
        const isKept = queue.append(kind, Date.now());
        this.#link?.wake();
        return isKept;
      },
      log: this.#log,
    });
    names.wipe();
    this.#approvalReports.start();
  }

  /** What is decided here from now on can be decided anew by a draft. */
  #openReplays(
    { policies, vault }: GuardedVault,
    identities: IdentityStore,
    reporting: AgentReporting,
  ): Replays | undefined {
    const { configuration, locate } = this.#loaded;
    const folder = join(dirname(locate(configuration.control_plane.queue_path)), 'replays');
    try {
      this.#journal = new DecisionJournal({ folder, now: Date.now, log: this.#log });
    } catch (error) {
      // Deciding goes on without it.
      this.#log.warn({ err: error }, 'decisions cannot be kept for replays');
      return undefined;
    }
    this.#journal.start();
    policies.journal = this.#journal;
    const names = vault.keys.derive('name-references');
    this.#replays = new Replays({
      folder,
      journal: this.#journal,
      names: new NameReferences(names.bytes),
      facts: policies.facts,
      vault: policies.subject,
      organizationId: () => policyTrustOf(identities.current).organizationId,
      fetch: (draft, totalBytes) =>
        this.#link?.fetchDraft(draft, totalBytes) ?? Promise.resolve(undefined),
      tell: (kind) => reporting.upward.tell(kind),
      audit: (id, facts) => policies.auditReplay(id, facts),
      now: Date.now,
      log: this.#log,
    });
    names.wipe();
    return this.#replays;
  }

  obstacles(): string[] {
    const { vault, trail } = this.#guarded ?? {};
    return [
      ...(this.#serving ? [] : ['the agent starts or stops']),
      ...(vault?.store.breaker.isAvailable === false ? ['the store is not available'] : []),
      ...(trail?.blocked === undefined ? [] : ['the audit cannot be written']),
    ];
  }

  /** Of what the agent depends on. */
  get circuits(): Record<'store' | 'key_provider' | 'control_plane', Circuit> {
    const { store, keys } = this.#guarded?.vault ?? {};
    return {
      store: store?.breaker.circuit ?? 'closed',
      key_provider: keys?.providerCircuit ?? 'closed',
      control_plane: this.#link?.circuit ?? 'closed',
    };
  }

  get cacheHitPercent(): number {
    const { hits = 0, misses = 0 } = this.#guarded?.vault.cache ?? {};
    return hits + misses === 0 ? 0 : (100 * hits) / (hits + misses);
  }

  get counters(): ControlLink['counters'] & { eventsRefused: number } {
    const none = { eventsRefused: this.#queue?.refused ?? 0 };
    return { ...(this.#link?.counters ?? zeroCounters), ...none };
  }

  health() {
    const link = this.#link;
    // Reported to the control plane as a notice. Readiness is not concerned: what is open stays open.
    const isKeyAway = this.#guarded?.vault.keys.isProviderAvailable === false;
    const degradations = [
      ...(link?.degradations ?? []).map((value) => degradationNames.get(value) ?? 'unknown'),
      ...(isKeyAway ? ['key_provider_unavailable'] : []),
      // Until it is started with the new one, which it needs from then on.
      ...(this.#guarded?.vault.keys.isMoved ? ['key_provider_changed'] : []),
    ];
    const state = link?.status.state ?? 'disabled';
    return {
      status:
        degradations.length === 0 && (state === 'connected' || state === 'disabled')
          ? 'ok'
          : 'degraded',
      version: agentVersion,
      ...this.#ids,
      bootId: this.bootId,
      startedAt: new Date(this.#startedAtUnixMs).toISOString(),
      uptimeSeconds: Math.floor(process.uptime()),
      degradations,
      policySet: this.#policyHealth(),
      controlPlane: { ...zeroStatus, ...(link?.status ?? {}), state },
      queue: { waiting: this.#queue?.waiting ?? 0, refused: this.#queue?.refused ?? 0 },
    };
  }

  /** Numbers and digests alone: nobody has to say who they are to read them. */
  #policyHealth() {
    const { held, configuration, decides } = this.#guarded?.policies ?? {};
    return {
      decides: decides ?? null,
      staleness: held?.staleness ?? null,
      number: held?.held?.version ?? null,
      digest: held?.held?.digest ?? null,
      configurationDigest: configuration?.digest ?? null,
    };
  }

  #tellBoot(queue: DurableQueue): void {
    const { previousRun } = queue;
    const { digest, digests } = this.#loaded;
    queue.append(
      {
        $case: 'booted',
        value: {
          agentVersion,
          previousBootId: previousRun?.bootId ?? '',
          previousRunEndedCleanly: previousRun?.endedCleanly ?? false,
          configurationDigest: digest,
        },
      },
      Date.now(),
    );
    if (previousRun === undefined) return;
    const changed = sectionNames.filter(
      (name) => previousRun.configuration[name] !== digests[name],
    );
    if (changed.length === 0) return;
    this.#log.info({ sections: changed }, 'the configuration changed since the last run');
    queue.append(
      {
        $case: 'configurationChanged',
        value: {
          previousDigest: '',
          digest,
          sections: sectionsOf(changed),
        },
      },
      Date.now(),
    );
  }
}

const sectionsOf = (names: readonly SectionName[]) =>
  names.map((name) => sections[name]).filter((section) => section !== undefined);

/** Whether a section holds something that only a new start takes over. */
function needsRestart(
  name: SectionName,
  { configuration: before }: LoadedConfiguration,
  { configuration: after }: LoadedConfiguration,
): boolean {
  const rest = (configuration: Configuration) => {
    // Whether clients are asked for a certificate is settled when the server starts to listen.
    if (name === 'authentication') {
      return configuration.authentication.methods.includes('certificate');
    }
    if (name === 'rotation') return {};
    const section: Record<string, unknown> = { ...configuration[name] };
    if (name === 'monitoring') {
      delete section.log_level;
      delete section.suspicious_activity;
    }
    if (name === 'server') {
      const { cert_file: _cert, key_file: _key, crl_file: _crl, ...tls } = configuration.server.tls;
      section.tls = tls;
      delete section.rate_limit;
    }
    return section;
  };
  return JSON.stringify(rest(before)) !== JSON.stringify(rest(after));
}

const degradationNames = new Map<number, string>(
  Object.entries(Degradation).map(([name, value]) => [value, name.toLowerCase()]),
);

const zeroCounters = {
  heartbeatsSent: 0,
  heartbeatsRecorded: 0,
  heartbeatsNotRecorded: 0,
  heartbeatsUnanswered: 0,
  eventsSent: 0,
  eventsReceipted: 0,
  sessionsOpened: 0,
  attemptsFailed: 0,
  certificatesRenewed: 0,
};

const zeroStatus: Partial<ControlLink['status']> = {};

async function within(work: Promise<void> | undefined, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work?.catch(() => undefined), late]);
  clearTimeout(timer);
}

/**
 * One run of the agent: its queue, its link to the control plane, its local server. Everything here
 * works without a control plane.
 */

import {
  ConfigurationSection,
  Degradation,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { parseEndpoint, parseFingerprint } from '@keystead/agent-protocol/link-client';
import { newUuid } from '@keystead/contracts/ids';
import type { Logger } from 'pino';
import {
  durationMs,
  type LoadedConfiguration,
  type SectionName,
  sectionNames,
} from './configuration.ts';
import { ControlLink } from './control-link.ts';
import { DurableQueue } from './durable-queue.ts';
import { hostFacts, ProcessGauges } from './host.ts';
import { agentIdOf, IdentityStore } from './identity-store.ts';
import { LocalServer } from './local-server.http.ts';
import { agentVersion } from './version.ts';

const sections: Record<SectionName, ConfigurationSection> = {
  server: ConfigurationSection.SERVER,
  storage: ConfigurationSection.STORAGE,
  encryption: ConfigurationSection.ENCRYPTION,
  authentication: ConfigurationSection.AUTHENTICATION,
  audit: ConfigurationSection.AUDIT,
  backup: ConfigurationSection.BACKUP,
  monitoring: ConfigurationSection.MONITORING,
  control_plane: ConfigurationSection.CONTROL_PLANE,
};

export class VaultAgent {
  readonly bootId = newUuid();
  readonly #log: Logger;
  readonly #loaded: LoadedConfiguration;
  readonly #startedAtUnixMs = Date.now();
  readonly #gauges = new ProcessGauges();
  #queue: DurableQueue | undefined;
  #link: ControlLink | undefined;
  #local: LocalServer | undefined;
  #ids = { agentId: '', vaultId: '', organizationId: '', vaultName: '', agentName: '' };
  #serving = false;

  constructor(loaded: LoadedConfiguration, log: Logger) {
    this.#loaded = loaded;
    this.#log = log.child({ bootId: this.bootId });
  }

  /** @throws with one line that says what is wrong: configuration, identity, queue or port */
  async start(): Promise<void> {
    const { configuration, locate } = this.#loaded;
    const { server, monitoring, control_plane: controlPlane } = configuration;
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
    this.#local = new LocalServer(
      this,
      monitoring.metrics_enabled ? monitoring.prometheus_endpoint : undefined,
    );
    const port = await this.#local.listen(server.host, server.port);
    this.#serving = true;
    this.#log.info(
      { version: agentVersion, host: server.host, port, ...this.#ids, queued: queue.waiting },
      'serving',
    );
    this.#tellBoot(queue);
    if (!controlPlane.enabled || controlPlane.endpoint === undefined) return;
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
      log: this.#log,
      startedAtUnixMs: this.#startedAtUnixMs,
      firstIntervalMs: durationMs(controlPlane.heartbeat_interval),
      now: () => ({ unixMs: Date.now(), monotonicMs: performance.now() }),
      random: Math.random,
    });
    this.#link.start();
  }

  /** Says goodbye and ends within two seconds. */
  async stop(): Promise<void> {
    this.#serving = false;
    this.#queue?.append(
      { $case: 'shutDown', value: { uptimeSeconds: Math.floor(process.uptime()) } },
      Date.now(),
    );
    await this.#link?.stop();
    this.#queue?.endCleanly();
    await Promise.race([
      this.#local?.close(),
      new Promise((resolve) => setTimeout(resolve, 300).unref()),
    ]);
    this.#gauges.stop();
    this.#queue?.close();
  }

  get isReady(): boolean {
    return this.#serving;
  }

  get counters(): ControlLink['counters'] & { eventsRefused: number } {
    const none = { eventsRefused: this.#queue?.refused ?? 0 };
    return { ...(this.#link?.counters ?? zeroCounters), ...none };
  }

  health() {
    const link = this.#link;
    const degradations = link?.degradations ?? [];
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
      degradations: degradations.map((value) => degradationNames.get(value) ?? 'unknown'),
      controlPlane: { ...zeroStatus, ...(link?.status ?? {}), state },
      queue: { waiting: this.#queue?.waiting ?? 0, refused: this.#queue?.refused ?? 0 },
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
          sections: changed.map((name) => sections[name]),
        },
      },
      Date.now(),
    );
  }
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

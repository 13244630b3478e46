/** Facts and gauges of the machine and the process. Nothing of the vault's content. */
import { arch, availableParallelism, hostname, platform, release, totalmem } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type {
  HeartbeatMetrics,
  HostFacts,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';

export function hostFacts(): HostFacts {
  return {
    hostname: hostname().slice(0, 128),
    platform: platform(),
    release: release().slice(0, 64),
    architecture: arch(),
    cpuCount: availableParallelism(),
    memoryBytes: totalmem(),
    runtime: process.version,
  };
}

/** Gauges since the previous reading. */
export class ProcessGauges {
  readonly #lag = monitorEventLoopDelay({ resolution: 20 });
  #cpu = process.cpuUsage();
  #atMs = performance.now();

  constructor() {
    this.#lag.enable();
  }

  read(): Pick<
    HeartbeatMetrics,
    'uptimeSeconds' | 'residentKibibytes' | 'cpuPermille' | 'eventLoopLagMs'
  > {
    const nowMs = performance.now();
    const used = process.cpuUsage(this.#cpu);
    const elapsedMs = Math.max(1, nowMs - this.#atMs);
    this.#cpu = process.cpuUsage();
    this.#atMs = nowMs;
    const lagMs = this.#lag.max / 1e6;
    this.#lag.reset();
    return {
      uptimeSeconds: Math.floor(process.uptime()),
      residentKibibytes: Math.floor(process.memoryUsage.rss() / 1024),
      cpuPermille: Math.round((used.user + used.system) / elapsedMs),
      eventLoopLagMs: Math.round(Math.max(0, lagMs - 20)),
    };
  }

  stop(): void {
    this.#lag.disable();
  }
}

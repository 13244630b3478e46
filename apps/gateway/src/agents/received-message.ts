/**
 * What agents send, checked and put into the contract's words. Every text has a form and a bound
 * here, so that nothing of an agent's choosing gets further.
 */

import {
  ConfigurationSection,
  ContactLossReason,
  type Event,
  Health,
  type Heartbeat,
  type Hello,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { AgentFacts, Beat, RetainedEvent } from '@keystead/contracts/agent-link';

/** A text where the value is wrong: it goes into the status of the stream. */
export type Checked<T> = { value: T } | { wrong: string };

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const versionPattern = /^[0-9A-Za-z.+-]{1,64}$/;
const plainPattern = /^[\x20-\x7e]{0,64}$/;
const hostnamePattern = /^[\p{L}\p{N}._-]{0,255}$/u;
const digestPattern = /^(?:[0-9a-f]{64})?$/;
const serialPattern = /^[0-9a-f]{1,64}$/;

export function isBootId(text: string): boolean {
  return uuidPattern.test(text);
}

export function factsOf(hello: Hello): Checked<AgentFacts> {
  const { host } = hello;
  if (!versionPattern.test(hello.agentVersion)) return { wrong: 'hello.agent_version' };
  if (!digestPattern.test(hello.configurationDigest))
    return { wrong: 'hello.configuration_digest' };
  if (host === undefined) return { wrong: 'hello.host' };
  if (!hostnamePattern.test(host.hostname)) return { wrong: 'hello.host.hostname' };
  for (const field of ['platform', 'architecture', 'runtime', 'release'] as const) {
    if (!plainPattern.test(host[field])) return { wrong: `hello.host.${field}` };
  }
  return {
    value: {
      version: hello.agentVersion,
      hostname: host.hostname,
      platform: host.platform,
      architecture: host.architecture,
      runtime: host.runtime,
    },
  };
}

export function healthOf(heartbeat: Heartbeat): Beat['health'] | undefined {
  switch (heartbeat.health) {
    case Health.HEALTHY:
      return 'healthy';
    case Health.DEGRADED:
      return 'degraded';
    case Health.FAILING:
      return 'failing';
    case Health.UNSPECIFIED:
      return undefined;
    // A newer agent has a word for it that this gateway does not know.
    default:
      return 'degraded';
  }
}

type Details = RetainedEvent['details'];
type Told = { kind: RetainedEvent['kind']; details: Details };

/** Kind, time and details of a retained event. */
export function eventOf(event: Event): Checked<Told & { occurredAtMs: number }> {
  const occurredAtMs = event.occurredAtUnixMs;
  if (!isInstant(occurredAtMs)) return { wrong: 'event.occurred_at_unix_ms' };
  const told = toldBy(event);
  return typeof told === 'string' ? { wrong: told } : { value: { ...told, occurredAtMs } };
}

function toldBy({ kind }: Event): Told | string {
  switch (kind?.$case) {
    case 'booted': {
      const { agentVersion, previousBootId, previousRunEndedCleanly, configurationDigest } =
        kind.value;
      if (!versionPattern.test(agentVersion)) return 'booted.agent_version';
      if (previousBootId !== '' && !isBootId(previousBootId)) return 'booted.previous_boot_id';
      if (!digestPattern.test(configurationDigest)) return 'booted.configuration_digest';
      return {
        kind: 'boot',
        details: {
          version: agentVersion,
          previousBootId: previousBootId || null,
          previousRunEndedCleanly,
          configurationDigest: configurationDigest || null,
        },
      };
    }
    case 'shutDown':
      return { kind: 'shutdown', details: { uptimeSeconds: kind.value.uptimeSeconds } };
    case 'configurationChanged': {
      const { previousDigest, digest, sections } = kind.value;
      if (!digestPattern.test(previousDigest)) return 'configuration_changed.previous_digest';
      if (!digestPattern.test(digest)) return 'configuration_changed.digest';
      if (sections.length > 16) return 'configuration_changed.sections';
      return {
        kind: 'configuration_changed',
        details: {
          previousDigest: previousDigest || null,
          digest: digest || null,
          sections: [...new Set(sections)]
            .map((section) => nameOf(ConfigurationSection, section))
            .join(','),
        },
      };
    }
    case 'certificateRenewed': {
      const { previousSerial, serial, notAfterUnixMs } = kind.value;
      if (!serialPattern.test(previousSerial)) return 'certificate_renewed.previous_serial';
      if (!serialPattern.test(serial)) return 'certificate_renewed.serial';
      if (!isInstant(notAfterUnixMs)) return 'certificate_renewed.not_after_unix_ms';
      return {
        kind: 'certificate_renewed',
        details: {
          previousSerialNumber: previousSerial,
          serialNumber: serial,
          expiresAt: new Date(notAfterUnixMs).toISOString(),
        },
      };
    }
    case 'clockJumped':
      return { kind: 'clock_jump', details: { jumpMs: kind.value.jumpMs } };
    case 'contactLost': {
      const { lastContactUnixMs, reason } = kind.value;
      if (!isInstant(lastContactUnixMs)) return 'contact_lost.last_contact_unix_ms';
      return {
        kind: 'contact_lost',
        details: {
          lastContactAt: lastContactUnixMs === 0 ? null : new Date(lastContactUnixMs).toISOString(),
          reason: nameOf(ContactLossReason, reason),
        },
      };
    }
    case 'contactRegained': {
      const { lostAtUnixMs, gapMs, attempts, reason } = kind.value;
      if (!isInstant(lostAtUnixMs)) return 'contact_regained.lost_at_unix_ms';
      return {
        kind: 'contact_regained',
        details: {
          lostAt: new Date(lostAtUnixMs).toISOString(),
          gapMs,
          attempts,
          reason: nameOf(ContactLossReason, reason),
        },
      };
    }
    case 'queueOverflowed': {
      const { count, firstAtUnixMs, lastAtUnixMs } = kind.value;
      if (!isInstant(firstAtUnixMs) || !isInstant(lastAtUnixMs)) return 'queue_overflowed';
      return {
        kind: 'queue_overflow',
        details: {
          count,
          firstAt: new Date(firstAtUnixMs).toISOString(),
          lastAt: new Date(lastAtUnixMs).toISOString(),
        },
      };
    }
    default:
      return 'event.kind';
  }
}

/** What ISO 8601 can write with four digits of year. */
function isInstant(ms: number): boolean {
  return Number.isInteger(ms) && ms >= 0 && ms < 253_402_300_800_000;
}

function nameOf(names: Record<string, number>, value: number): string {
  const found = Object.entries(names).find(([, number]) => number === value);
  return (found?.[0] ?? 'UNRECOGNIZED').toLowerCase();
}

/**
 * What of an agent's configuration a policy set may say, and what holds of it here. A short list, of which
 * nothing opens anything: what vault.yaml itself says goes before the set, and the audit is never kept for
 * a shorter time because of a set. No I/O.
 */
import { createHash } from 'node:crypto';
import { rotationLimits } from '@keystead/contracts/agent-api/rotation-limits';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import type { AgentConfiguration } from '@keystead/contracts/policy-set-content';
import type { LoadedConfiguration } from '../configuration.ts';

export const settingNames = [
  'requestsPerSecondPerIdentity',
  'rotationIntervalSeconds',
  'secretMaxVersions',
  'auditRetentionDays',
  'tokenTtlSeconds',
] as const satisfies readonly (keyof AgentConfiguration)[];
export type SettingName = (typeof settingNames)[number];

export interface Setting {
  /** null: nothing is limited or set. */
  value: number | null;
  /** Whose word it is. */
  source: 'set' | 'file' | 'default';
}

export interface EffectiveConfiguration {
  settings: Readonly<Record<SettingName, Setting>>;
  /** SHA-256 of the settings, in hexadecimal. */
  digest: string;
}

type Local = Pick<LoadedConfiguration, 'configuration' | 'written'>;

export function effectiveConfiguration(
  { configuration, written }: Local,
  fromSet: AgentConfiguration,
): EffectiveConfiguration {
  const local = (path: string, value: number): Setting => ({
    value,
    source: written.has(path) ? 'file' : 'default',
  });
  const filed: Record<SettingName, Setting> = {
    requestsPerSecondPerIdentity: local(
      'server.rate_limit.requests_per_second',
      configuration.server.rate_limit.requests_per_second,
    ),
    rotationIntervalSeconds: { value: null, source: 'default' },
    secretMaxVersions: { value: secretLimits.maxVersionsDefault, source: 'default' },
    auditRetentionDays: local('audit.retention_days', configuration.audit.retention_days),
    tokenTtlSeconds: { value: null, source: 'default' },
  };
  const settings = Object.fromEntries(
    settingNames.map((name) => [name, settled(name, filed[name], fromSet[name])]),
  ) as Record<SettingName, Setting>;
  return { settings, digest: digestOf(settings) };
}

function settled(name: SettingName, filed: Setting, said: number | undefined): Setting {
  if (said === undefined || filed.source === 'file') return filed;
  // Nobody shortens the owner's history from afar.
  if (name === 'auditRetentionDays' && said < (filed.value ?? 0)) return filed;
  return { value: said, source: 'set' };
}

/** Why this agent cannot take a configuration over, or undefined. Nothing of it is taken over then. */
export function problemOfConfiguration(configuration: AgentConfiguration): string | undefined {
  const { secretMaxVersions = 1, rotationIntervalSeconds } = configuration;
  if (secretMaxVersions > secretLimits.maxVersionsMost) {
    return `secretMaxVersions: at most ${secretLimits.maxVersionsMost} here`;
  }
  if (
    rotationIntervalSeconds !== undefined &&
    (rotationIntervalSeconds < rotationLimits.intervalMinSeconds ||
      rotationIntervalSeconds > rotationLimits.intervalMaxSeconds)
  ) {
    return 'rotationIntervalSeconds: no interval that rotations have here';
  }
  return undefined;
}

function digestOf(settings: Record<SettingName, Setting>): string {
  const values = settingNames.map((name) => [name, settings[name].value]);
  return createHash('sha256').update(JSON.stringify(values)).digest('hex');
}

/**
 * What of an agent's configuration a policy set may say, and what holds of it here. A short list, of which
 * nothing opens anything: what vault.yaml itself says goes before the set, and the audit is never kept for
 * a shorter time because of a set. No I/O.
 */
import { createHash } from 'node:crypto';
import { rotationLimits } from '@keystead/contracts/agent-api/rotation-limits';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import type { AgentConfiguration } from '@keystead/contracts/policy-set-content';
import {
  type DeclaredDestination,
  declaredDestinations,
} from '../audit/forwarding/declared-destinations.ts';
import type { LoadedConfiguration } from '../configuration.ts';
import { effectiveSuspicion, type SuspicionSettings } from './rolled-out-suspicion.ts';

export const settingNames = [
  'requestsPerSecondPerIdentity',
  'rotationIntervalSeconds',
  'secretMaxVersions',
  'auditRetentionDays',
  'tokenTtlSeconds',
] as const satisfies readonly (keyof AgentConfiguration)[];
export type SettingName = (typeof settingNames)[number];

export interface Setting<Value = number | null> {
  /** null: nothing is limited or set. */
  value: Value;
  /** Whose word it is. */
  source: 'set' | 'file' | 'default';
}

export interface EffectiveConfiguration {
  settings: Readonly<Record<SettingName, Setting>>;
  suspicion: SuspicionSettings;
  /** Receivers of the audit that vault.yaml names, with whether they are on. */
  forwarding: Readonly<Record<string, Setting<boolean>>>;
  /** Receivers that the set names and vault.yaml does not: nothing is sent there. */
  unknownDestinations: readonly string[];
  /** SHA-256 of what holds, in hexadecimal. */
  digest: string;
}

type Local = Pick<LoadedConfiguration, 'configuration' | 'written'>;

/** @param declared the receivers of the audit that can be turned on, where they are not the file's */
export function effectiveConfiguration(
  { configuration, written }: Local,
  fromSet: AgentConfiguration,
  declared: readonly DeclaredDestination[] = declaredDestinations(configuration.audit),
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
  const wanted = fromSet.auditForwarding ?? [];
  const names = declared.map(({ name }) => name);
  const effective = {
    settings,
    suspicion: effectiveSuspicion({ configuration, written }, fromSet.suspiciousActivity),
    forwarding: Object.fromEntries(
      declared.map(({ name, isOn }): [string, Setting<boolean>] => [
        name,
        !isOn && wanted.includes(name)
          ? { value: true, source: 'set' }
          : { value: isOn, source: 'file' },
      ]),
    ),
  };
  return {
    ...effective,
    unknownDestinations: wanted.filter((name) => !names.includes(name)),
    digest: digestOf(settingsShown(effective)),
  };
}

/** What vault.yaml itself settles, whatever a set says. */
export function settledByFile(effective: EffectiveConfiguration): string[] {
  return Object.entries(settingsShown(effective))
    .filter(([, { value, source }]) => source === 'file' && value !== false)
    .map(([name]) => name);
}

/** All of them under one name each, for people to see. */
export function settingsShown({
  settings,
  suspicion,
  forwarding,
}: Pick<EffectiveConfiguration, 'settings' | 'suspicion' | 'forwarding'>): Record<
  string,
  Setting<number | string | boolean | null>
> {
  const under = <Value>(prefix: string, shown: Readonly<Record<string, Setting<Value>>>) =>
    Object.fromEntries(Object.entries(shown).map(([name, each]) => [`${prefix}.${name}`, each]));
  return {
    ...settings,
    ...under<number | string>('suspiciousActivity', { ...suspicion }),
    ...under('auditForwarding', forwarding),
  };
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

function digestOf(shown: ReturnType<typeof settingsShown>): string {
  const values = Object.entries(shown)
    .map(([name, { value }]) => [name, value] as const)
    .sort(([one], [other]) => (one < other ? -1 : 1));
  return createHash('sha256').update(JSON.stringify(values)).digest('hex');
}

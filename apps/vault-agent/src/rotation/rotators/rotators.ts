/** The rotator of a policy's settings, with what the owner's vault.yaml allows. */
import type { RotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { problemOfRules } from '../generated-value.ts';
import { RotationFailure, type Rotator } from '../rotator.ts';
import { customRotator, type RotatorModule } from './custom-rotator.ts';
import { databaseRotator, problemOfDatabase } from './database-rotator.ts';
import { generatedRotator } from './generated-rotator.ts';
import { httpRotator, problemOfUrl } from './http-rotator.ts';
import { mysqlUser } from './mysql-user.ts';
import { postgresqlUser } from './postgresql-user.ts';
import { type ScriptDefinition, scriptRotator } from './script-rotator.ts';

export interface RotatorPermissions {
  /** By name. */
  scripts: Readonly<Record<string, ScriptDefinition>>;
  /** By name. */
  modules: Readonly<Record<string, RotatorModule>>;
  /** Hosts that may be spoken to without TLS, beside this machine. */
  httpHosts: readonly string[];
}

/** What is wrong with settings, before they are stored; or undefined. */
export function problemOfRotator(
  settings: RotatorSettings,
  allowed: RotatorPermissions,
): string | undefined {
  const rules = problemOfRules(settings.rules);
  if (rules !== undefined) return rules;
  switch (settings.kind) {
    case 'script':
      return Object.hasOwn(allowed.scripts, settings.script)
        ? undefined
        : `vault.yaml has no rotation.scripts.${settings.script}`;
    case 'custom':
      return Object.hasOwn(allowed.modules, settings.rotator)
        ? undefined
        : `vault.yaml has no rotation.rotators.${settings.rotator}`;
    case 'http':
      return problemOfUrl(settings.url, allowed.httpHosts);
    case 'postgresql':
    case 'mysql':
      return problemOfDatabase(settings);
    case 'generated':
      return undefined;
  }
}

/** @throws RotationFailure `not-allowed` where vault.yaml no longer has what the settings name */
export function rotatorFor(settings: RotatorSettings, allowed: RotatorPermissions): Rotator {
  const problem = problemOfRotator(settings, allowed);
  if (problem !== undefined) throw new RotationFailure('not-allowed', problem);
  switch (settings.kind) {
    case 'generated':
      return generatedRotator(settings);
    case 'script':
      return scriptRotator(settings, allowed.scripts[settings.script] as ScriptDefinition);
    case 'http':
      return httpRotator(settings, allowed.httpHosts);
    case 'postgresql':
      return databaseRotator(settings, postgresqlUser);
    case 'mysql':
      return databaseRotator(settings, mysqlUser);
    case 'custom':
      return customRotator(settings, allowed.modules[settings.rotator] as RotatorModule);
  }
}

/** Settings that send the value somewhere: whoever sets them can read it. */
export function sendsValues(settings: RotatorSettings): boolean {
  return settings.kind === 'http' || settings.kind === 'postgresql' || settings.kind === 'mysql';
}

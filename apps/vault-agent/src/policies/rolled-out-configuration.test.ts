import { agentConfiguration } from '@keystead/contracts/policy-set-content';
import { expect, test } from 'vitest';
import { parseConfiguration, writtenKeys } from '../configuration.ts';
import {
  effectiveConfiguration,
  problemOfConfiguration,
  settingsShown,
  settledByFile,
} from './rolled-out-configuration.ts';
import { suspicionRulesOf } from './rolled-out-suspicion.ts';

const plain = 'control_plane: { enabled: false }\n';
const local = (text: string) => ({
  configuration: parseConfiguration(plain + text),
  written: writtenKeys(plain + text),
});

test('a set says what the file does not say; what the file says holds', () => {
  const fromSet = {
    requestsPerSecondPerIdentity: 7,
    rotationIntervalSeconds: 86_400,
    secretMaxVersions: 3,
    auditRetentionDays: 1_000,
    tokenTtlSeconds: 3_600,
  };
  expect(effectiveConfiguration(local(''), fromSet).settings).toEqual({
    requestsPerSecondPerIdentity: { value: 7, source: 'set' },
    rotationIntervalSeconds: { value: 86_400, source: 'set' },
    secretMaxVersions: { value: 3, source: 'set' },
    auditRetentionDays: { value: 1_000, source: 'set' },
    tokenTtlSeconds: { value: 3_600, source: 'set' },
  });
  const file =
    'server: { rate_limit: { requests_per_second: 90 } }\naudit: { retention_days: 30 }\n';
  expect(effectiveConfiguration(local(file), fromSet).settings).toMatchObject({
    requestsPerSecondPerIdentity: { value: 90, source: 'file' },
    auditRetentionDays: { value: 30, source: 'file' },
    secretMaxVersions: { value: 3, source: 'set' },
  });
});

test('no set shortens the time for which the audit is kept', () => {
  const { settings } = effectiveConfiguration(local(''), { auditRetentionDays: 1 });
  expect(settings.auditRetentionDays).toEqual({ value: 365, source: 'default' });
});

test('the digest is of what holds, whoever said it', () => {
  const one = effectiveConfiguration(local(''), { requestsPerSecondPerIdentity: 90 });
  const file = 'server: { rate_limit: { requests_per_second: 90 } }\n';
  expect(effectiveConfiguration(local(file), {}).digest).toBe(one.digest);
  expect(effectiveConfiguration(local(''), {}).digest).not.toBe(one.digest);
});

test('what an agent cannot take over is named', () => {
  expect(problemOfConfiguration({})).toBeUndefined();
  expect(problemOfConfiguration({ secretMaxVersions: 101 })).toContain('secretMaxVersions');
});

const suspicious = (rules: string) =>
  local(rules === '' ? '' : `monitoring: { suspicious_activity: { ${rules} } }\n`);

test('what a set says of suspicious activity holds where the file has nothing of the rule', () => {
  const fromSet = {
    suspiciousActivity: {
      manyDenials: { count: 5, withinSeconds: 60, response: 'lock_identity' },
      bulkReading: { secrets: 8_000, withinSeconds: 1 },
      newNetwork: { response: 'lock_agent' },
      lockSeconds: 60,
    },
  } as const;
  const { suspicion } = effectiveConfiguration(suspicious(''), fromSet);
  expect(suspicion).toEqual({
    'manyDenials.count': { value: 5, source: 'set' },
    'manyDenials.withinSeconds': { value: 60, source: 'set' },
    'manyDenials.response': { value: 'lock_identity', source: 'set' },
    'bulkReading.secrets': { value: 8_000, source: 'set' },
    'bulkReading.withinSeconds': { value: 1, source: 'set' },
    'bulkReading.response': { value: 'notice', source: 'default' },
    'newNetwork.response': { value: 'lock_agent', source: 'set' },
    'unusualHour.response': { value: 'notice', source: 'default' },
    lockSeconds: { value: 60, source: 'set' },
  });
  expect(suspicionRulesOf(suspicion).manyDenials).toEqual({
    count: 5,
    withinMs: 60_000,
    response: 'lock_identity',
  });
});

test('what the file says of a rule holds, also against a stricter set; what it leaves open is only sharpened', () => {
  const fromSet = (changes: { count: number; withinSeconds: number }) => ({
    suspiciousActivity: {
      manyDenials: { ...changes, response: 'lock_agent' as const },
      newNetwork: { response: 'notice' as const },
      lockSeconds: 60,
    },
  });
  const file = suspicious(
    'many_denials: { response: lock_identity }, new_network: { response: "off" }',
  );
  const dull = effectiveConfiguration(file, fromSet({ count: 10_000, withinSeconds: 1 }));
  expect(dull.suspicion).toMatchObject({
    'manyDenials.count': { value: 50, source: 'default' },
    'manyDenials.withinSeconds': { value: 300, source: 'default' },
    'manyDenials.response': { value: 'lock_identity', source: 'file' },
    'newNetwork.response': { value: 'off', source: 'file' },
    lockSeconds: { value: 900, source: 'default' },
  });
  const sharp = effectiveConfiguration(file, fromSet({ count: 3, withinSeconds: 3_600 }));
  expect(sharp.suspicion).toMatchObject({
    'manyDenials.count': { value: 3, source: 'set' },
    'manyDenials.withinSeconds': { value: 3_600, source: 'set' },
  });
  const written = suspicious('many_denials: { count: 90, within: "1m" }, lock_duration: "5m"');
  expect(
    effectiveConfiguration(written, fromSet({ count: 3, withinSeconds: 3_600 })).suspicion,
  ).toMatchObject({
    'manyDenials.count': { value: 90, source: 'file' },
    'manyDenials.withinSeconds': { value: 60, source: 'file' },
    'manyDenials.response': { value: 'lock_agent', source: 'set' },
    lockSeconds: { value: 300, source: 'file' },
  });
});

test('a set turns on receivers that the file names, none off, and no others', () => {
  const file = local(
    'audit: { syslog: { name: local }, forward: [{ type: file, path: a, name: on }, { type: file, path: b, name: siem, enabled: false }, { type: file, path: c, enabled: false }] }\n',
  );
  const effective = effectiveConfiguration(file, { auditForwarding: ['siem', 'elsewhere', 'on'] });
  expect(effective.forwarding).toEqual({
    local: { value: false, source: 'file' },
    on: { value: true, source: 'file' },
    siem: { value: true, source: 'set' },
  });
  expect(effective.unknownDestinations).toEqual(['elsewhere']);
  expect(settingsShown(effective)).toMatchObject({
    'auditForwarding.siem': { value: true, source: 'set' },
    'suspiciousActivity.manyDenials.count': { value: 50, source: 'default' },
    tokenTtlSeconds: { value: null, source: 'default' },
  });
  const without = effectiveConfiguration(file, {});
  expect(without.forwarding).toMatchObject({ siem: { value: false }, on: { value: true } });
  expect(without.digest).not.toBe(effective.digest);
  expect(settledByFile(without)).toEqual(['auditForwarding.on']);
});

test.each([
  [{ suspiciousActivity: { manyDenials: { response: 'off' } } }, 'no set switches a rule off'],
  [{ suspiciousActivity: { manyDenials: { count: 1 } } }, '>=2'],
  [{ suspiciousActivity: { unusualHours: {} } }, '"unusualHours"'],
  [{ auditForwarding: ['https://logs.example.com'] }, 'never an address'],
  [{ auditForwarding: ['a', 'a'] }, 'must not name a destination twice'],
])('what a set must not say is refused with its reason: %j', (configuration, reason) => {
  const { error } = agentConfiguration.safeParse(configuration);
  expect(error?.issues.map(({ message }) => message).join()).toContain(reason);
});

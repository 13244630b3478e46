import { expect, test } from 'vitest';
import { parseConfiguration, writtenKeys } from '../configuration.ts';
import { effectiveConfiguration, problemOfConfiguration } from './rolled-out-configuration.ts';

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

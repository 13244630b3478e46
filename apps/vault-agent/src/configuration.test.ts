import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  ConfigurationError,
  durationMs,
  freshConfiguration,
  loadConfiguration,
  parseConfiguration,
} from './configuration.ts';

const fresh = freshConfiguration({
  port: 8200,
  controlPlane: {
    endpoint: 'agents.example.com:8443',
    caFingerprint: 'ab'.repeat(32),
    vaultName: 'a "quoted" name: with\nsurprises',
  },
});

function problemsOf(text: string): string[] {
  try {
    parseConfiguration(text);
  } catch (error) {
    if (error instanceof ConfigurationError) return error.problems;
    throw error;
  }
  return [];
}

test('the file that enrolment writes is complete and valid, whatever the vault is called', () => {
  const configuration = parseConfiguration(fresh);
  expect(configuration.server).toMatchObject({ host: '127.0.0.1', port: 8200 });
  expect(configuration.control_plane.endpoint).toBe('agents.example.com:8443');
  for (const section of [
    'server',
    'storage',
    'encryption',
    'authentication',
    'audit',
    'backup',
    'monitoring',
    'control_plane',
  ]) {
    expect(fresh).toMatch(new RegExp(`^${section}:`, 'm'));
  }
});

test('an unknown key is an error that names its line, column and place', () => {
  const text = 'server:\n  port: 1\n  prot: 2\ncontrol_plane:\n  enabled: false\nextra: 1\n';
  expect(problemsOf(text)).toEqual([
    'vault.yaml:3:3 server.prot: is not a key here',
    'vault.yaml:6:1 extra: is not a key here',
  ]);
});

test.each([
  ['a port that is none', 'server:\n  port: 70000\n', 'vault.yaml:2:3 server.port'],
  ['a wrong type', 'audit:\n  enabled: "yes"\n', 'vault.yaml:2:3 audit.enabled'],
  ['a section of the wrong kind', 'backup: 3\n', 'vault.yaml:1:1 backup'],
  ['a duration without unit', 'encryption:\n  rotation_interval: "90"\n', 'vault.yaml:2:3'],
  ['an unknown destination', 'backup:\n  destinations:\n    - type: ftp\n', 'vault.yaml:3:7'],
  [
    'a destination with a key too many',
    'backup:\n  destinations:\n    - type: local\n      path: a\n      x: 1\n',
    'vault.yaml:5:7 backup.destinations.0.x',
  ],
  [
    'an endpoint without TLS',
    'control_plane:\n  endpoint: http://x\n',
    'vault.yaml:2:3 control_plane.endpoint: must be HOST:PORT',
  ],
  [
    'a server without its address',
    'storage:\n  type: mysql\n',
    'vault.yaml:1:1 storage: needs either connection_string',
  ],
  [
    'plain HTTP for others',
    'server:\n  host: 0.0.0.0\n',
    'vault.yaml:2:3 server.host: without TLS it must be a loopback address',
  ],
  ['TLS without its files', 'server:\n  tls:\n    enabled: true\n', 'server.tls: needs cert_file'],
  [
    'a connection string of another database',
    'storage:\n  type: postgresql\n  connection_string: "mysql://u:p@h/d"\n',
    'vault.yaml:3:3 storage.connection_string: must begin with postgres://',
  ],
  [
    'an HSM that is not described',
    'encryption:\n  key_management: hsm\n',
    'vault.yaml:1:1 encryption: needs a section named as key_management says',
  ],
  ['an audit that is off', 'audit:\n  enabled: false\n', 'the audit cannot be switched off'],
  [
    'two receivers of the audit with one name',
    'audit:\n  syslog: { name: siem }\n  forward:\n    - type: file\n      path: a\n      name: siem\n',
    'vault.yaml:6:7 audit.forward.0.name: siem is the name of another receiver',
  ],
  [
    'a token algorithm with a shared secret',
    'authentication:\n  jwt:\n    issuers:\n      - issuer: x\n        audience: y\n        jwks_file: z\n        algorithms: [HS256]\n',
    'vault.yaml:7:22 authentication.jwt.issuers.0.algorithms.0',
  ],
  [
    'keys of an issuer over plain HTTP',
    'authentication:\n  jwt:\n    issuers:\n      - issuer: x\n        audience: y\n        jwks_url: "http://issuer.example/keys"\n',
    'must be https, or http on a loopback address',
  ],
  [
    'client certificates without their CA',
    'authentication:\n  certificate:\n    identities:\n      - { subject: "CN=x", roles: [reader] }\n',
    'needs server.tls.ca_file',
  ],
  ['a key given twice', 'server:\n  port: 1\n  port: 2\n', 'vault.yaml:3:3'],
  ['a tab', 'server:\n\tport: 1\n', 'vault.yaml:2:1'],
  ['an open bracket', 'server: {port: 1\n', 'vault.yaml:'],
  ['no endpoint', 'server: {}\n', 'vault.yaml:1:1 control_plane: needs an endpoint'],
  ['a list', '- a\n', 'vault.yaml:1:1 the file'],
])('%s is named with its line', (_what, text, expected) => {
  expect(problemsOf(text).join('\n')).toContain(expected);
});

test('a URL of the agent link is its host and port', () => {
  const endpoint = (text: string) =>
    parseConfiguration(`control_plane:\n  endpoint: "${text}"\n`).control_plane.endpoint;
  expect(endpoint('https://control.example.com')).toBe('control.example.com:443');
  expect(endpoint('https://control.example.com:8443/')).toBe('control.example.com:8443');
  expect(endpoint('control.example.com:8443')).toBe('control.example.com:8443');
  for (const wrong of ['https://', 'https://u:p@x', 'https://x/path', 'https://x?y']) {
    expect(() => endpoint(wrong), wrong).toThrow('must be HOST:PORT');
  }
});

test('without a control plane the file that init writes is complete and valid', () => {
  const alone = parseConfiguration(freshConfiguration({ port: 8200 }));
  expect(alone.control_plane.enabled).toBe(false);
  expect(alone.authentication.methods).toEqual(['api_key']);
});

test('too large a file, an alias bomb and any other text are problems, not crashes', () => {
  expect(problemsOf(`# ${'x'.repeat(300_000)}`)).toHaveLength(1);
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghij'
    .split('')
    .map(
      (name, index) => `${name}: &${name} [${Array(9).fill(`*${'abcdefghi'[index]}`).join(',')}]`,
    )
    .join('\n')}\n`;
  expect(problemsOf(bomb).length).toBeGreaterThan(0);
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
      problemsOf(text);
    }),
  );
});

test('a change is told by section, and the connection string leaves no trace', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-configuration-'));
  const load = (text: string) => {
    const file = join(folder, 'vault.yaml');
    writeFileSync(file, text);
    return loadConfiguration(file);
  };
  const one = load(fresh);
  const other = load(fresh.replace('8200', '8300'));
  expect(other.digests.server).not.toBe(one.digests.server);
  expect(other.digests.audit).toBe(one.digests.audit);
  expect(load(`${fresh}# a comment\n`).digest).toBe(one.digest);
  const secret = load(fresh.replace('type: "sqlite"', 'type: "sqlite"\n  connection_string: "p"'));
  expect(secret.digest).toBe(one.digest);
  expect(one.locate('identity/agent.key')).toBe(join(folder, 'identity/agent.key'));
});

test('durations are read in their units', () => {
  expect(['250ms', '30s', '15m', '24h', '90d'].map(durationMs)).toEqual([
    250, 30_000, 900_000, 86_400_000, 7_776_000_000,
  ]);
});

test('every piece of vault.yaml in the documentation of its settings is in order, each guard of the key among them', () => {
  const docs = readFileSync(
    join(import.meta.dirname, '../../../docs/agent-configuration.md'),
    'utf8',
  );
  const pieces = [...docs.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, piece = '']) => piece);
  expect(pieces.map((piece) => problemsOf(`${piece}control_plane: { enabled: false }\n`))).toEqual(
    pieces.map(() => []),
  );
  const guards = pieces.flatMap((piece) => piece.match(/key_management: "(\w+)"/)?.[1] ?? []);
  expect([...new Set(guards)].sort()).toEqual(
    ['cloud_kms', 'command', 'environment', 'file', 'hsm', 'passphrase'].sort(),
  );
});

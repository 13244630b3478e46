import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { certificateFingerprint } from '@keystead/agent-protocol/link-client';
import { type Issued, TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { beforeEach, expect, test } from 'vitest';
import { agentIdOf, IdentityStore } from './identity-store.ts';

const authority = await TestAuthority.create();
const ids = { organizationId: newUuid(), agentId: newUuid() };
const first = await authority.issueAgent(ids);
const second = await authority.issueAgent(ids);
const described = {
  organizationId: toId('organization', ids.organizationId),
  vaultId: toId('vault', newUuid()),
  agentId: toId('agent', ids.agentId),
  vaultName: 'v',
  agentName: 'a',
};
let folder: string;

const paths = () => ({
  certificate: join(folder, 'agent.crt'),
  privateKey: join(folder, 'agent.key'),
  root: join(folder, 'root.crt'),
});
const chainOf = ({ certificate }: Issued) =>
  [certificate, authority.intermediate].map((pem) => new X509Certificate(pem).raw);
const open = () => {
  const store = new IdentityStore(paths());
  store.load();
  return store;
};
const serialOf = ({ certificate }: Issued) =>
  new X509Certificate(certificate).serialNumber.toLowerCase();

beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'keystead-identity-')), 'identity');
  new IdentityStore(paths()).create(first.key, chainOf(first), authority.rootDer, described);
});

test('an identity is there after a restart, its key for the owner alone', () => {
  const store = open();
  expect(store.current.serialNumber).toBe(serialOf(first));
  expect(agentIdOf(store.current)).toBe(described.agentId);
  expect(store.describe()).toEqual(described);
  expect(statSync(paths().privateKey).mode & 0o777).toBe(0o600);
  store.checkRoot(certificateFingerprint(authority.rootDer));
  expect(() => store.checkRoot('ab'.repeat(32))).toThrow('does not have the fingerprint');
});

test('a renewed pair waits beside the current one until it proved itself', () => {
  const store = open();
  store.keepPending(second.key, chainOf(second));
  expect(statSync(`${paths().privateKey}.pending`).mode & 0o777).toBe(0o600);
  const later = open();
  expect(later.current.serialNumber).toBe(serialOf(first));
  expect(later.pending?.serialNumber).toBe(serialOf(second));
  later.promote();
  expect(open().current.serialNumber).toBe(serialOf(second));
  expect(open().pending).toBeUndefined();
});

test('a renewed pair that was refused leaves the current one', () => {
  const store = open();
  store.keepPending(second.key, chainOf(second));
  store.dropPending();
  expect(open().current.serialNumber).toBe(serialOf(first));
  expect(open().pending).toBeUndefined();
});

test('a crash between the two files of a change is mended at the next start', () => {
  open().keepPending(second.key, chainOf(second));
  writeFileSync(paths().privateKey, second.privateKey);
  const store = open();
  expect(store.current.serialNumber).toBe(serialOf(second));
  expect(existsSync(`${paths().privateKey}.pending`)).toBe(false);
  expect(createPrivateKey(readFileSync(paths().privateKey)).equals(second.key)).toBe(true);
});

test('a crash after both files, before the pending one is gone, changes nothing', () => {
  open().keepPending(second.key, chainOf(second));
  writeFileSync(paths().privateKey, second.privateKey);
  writeFileSync(paths().certificate, second.certificateChain);
  expect(open().current.serialNumber).toBe(serialOf(second));
  expect(open().pending).toBeUndefined();
});

test.each([
  ['for another key', async () => [first.key, chainOf(second)] as const],
  [
    'for another agent',
    async () => {
      const other = await authority.issueAgent();
      return [other.key, chainOf(other)] as const;
    },
  ],
  [
    'of another authority',
    async () => {
      const stranger = await TestAuthority.create();
      const other = await stranger.issueAgent(ids);
      const chain = [other.certificate, stranger.intermediate].map(
        (pem) => new X509Certificate(pem).raw,
      );
      return [other.key, chain] as const;
    },
  ],
  ['without its issuer', async () => [second.key, chainOf(second).slice(0, 1)] as const],
  ['that is none', async () => [second.key, []] as const],
])('a renewed certificate %s is not kept', async (_what, make) => {
  const [key, chain] = await make();
  const store = open();
  expect(() => store.keepPending(key, [...chain])).toThrow();
  expect(existsSync(`${paths().privateKey}.pending`)).toBe(false);
});

test.each([
  ['a missing key', () => writeFileSync(paths().privateKey, '')],
  ['a key of somebody else', () => writeFileSync(paths().privateKey, second.privateKey)],
  ['a certificate that is garbage', () => writeFileSync(paths().certificate, 'garbage')],
])('%s is one line that says so', (_what, damage) => {
  damage();
  expect(open).toThrow(/are not a pair/);
});

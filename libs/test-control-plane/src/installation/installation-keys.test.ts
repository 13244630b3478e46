import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ensureInstallationKeys } from './installation-keys.ts';

let parent: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'keystead-keys-'));
});
afterEach(() => rmSync(parent, { recursive: true }));

const everyFile = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

test('every key is readable by its user alone', () => {
  const { folder } = ensureInstallationKeys(join(parent, 'keys'));
  expect(statSync(folder).mode & 0o777).toBe(0o700);
  for (const file of everyFile(folder)) expect(statSync(file).mode & 0o777, file).toBe(0o600);
});

test('a second start finds the same keys', () => {
  const first = ensureInstallationKeys(join(parent, 'keys'));
  const contents = () => everyFile(first.folder).map((file) => readFileSync(file, 'utf8'));
  const before = contents();
  const second = ensureInstallationKeys(join(parent, 'keys'));
  expect([first.created, second.created]).toEqual([true, false]);
  expect(contents()).toEqual(before);
});

test('what a service signs is verified by the public key the others read', () => {
  const keys = ensureInstallationKeys(join(parent, 'keys'));
  const words = Buffer.from('who calls');
  const signature = sign(
    null,
    words,
    createPrivateKey(readFileSync(keys.signingKeyFile('gateway'), 'utf8')),
  );
  const publicKey = (service: string) =>
    createPublicKey(readFileSync(join(keys.publicKeysFolder, `${service}.pem`), 'utf8'));
  expect(verify(null, words, publicKey('gateway'), signature)).toBe(true);
  expect(verify(null, words, publicKey('auth'), signature)).toBe(false);
});

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { keyProviderConfiguration } from '../key-provider-configuration.ts';
import { generateKey } from '../keys.ts';
import { openKeyProvider } from '../open-key-provider.ts';
import { openCommandKey } from './command.ts';
import { openEnvironmentKey } from './environment.ts';
import { openFileKey } from './file.ts';
import { keyProviderSuite, refusal } from './key-provider-suite.fixture.ts';
import { openPassphrase } from './passphrase.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-keys-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const fresh = (name: string) => join(folder, randomBytes(6).toString('hex'), name);
const cheap = { memoryKib: 8 * 1024, passes: 1, parallelism: 1 };
const context = { purpose: 'test' };

keyProviderSuite('file', async () => {
  const path = fresh('key');
  return {
    open: () => openFileKey({ path, create: true }),
    openAnother: () => openFileKey({ path: fresh('key'), create: true }),
    dispose: () => undefined,
  };
});

keyProviderSuite('passphrase', async () => ({
  open: async () =>
    openPassphrase({ passphrase: 'correct horse battery', location: 'a test', cost: cheap }),
  openAnother: async () =>
    openPassphrase({ passphrase: 'incorrect horse battery', location: 'a test', cost: cheap }),
  dispose: () => undefined,
}));

keyProviderSuite('environment', async () => {
  const value = randomBytes(32).toString('base64');
  return {
    open: async () => openEnvironmentKey({ name: 'KEY', value }),
    openAnother: async () =>
      openEnvironmentKey({ name: 'KEY', value: randomBytes(32).toString('hex') }),
    dispose: () => undefined,
  };
});

keyProviderSuite('command', async () => {
  const print = (text: string) =>
    openCommandKey({ command: [process.execPath, '-e', `console.log('${text}')`] });
  const value = randomBytes(32).toString('hex');
  return {
    open: () => print(value),
    openAnother: () => print(randomBytes(32).toString('base64')),
    dispose: () => undefined,
  };
});

// File

test('the first start makes the file for its owner alone', async () => {
  const path = fresh('key');
  const provider = await openFileKey({ path, create: true });
  expect(provider.isNew).toBe(true);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(join(path, '..')).mode & 0o777).toBe(0o700);
  expect(Buffer.from(readFileSync(path, 'utf8'), 'base64')).toHaveLength(32);
  expect(readdirSync(join(path, '..'))).toEqual(['key']);
  expect((await openFileKey({ path, create: true })).isNew).toBe(false);
});

test('what a start made is taken back, and nothing that somebody put in its place or that was there', async () => {
  const path = fresh('key');
  const made = await openFileKey({ path, create: true });
  await made.close();
  made.takeBack();
  expect(existsSync(path)).toBe(false);
  const again = await openFileKey({ path, create: true });
  const restored = `${randomBytes(32).toString('base64')}\n`;
  writeFileSync(path, restored);
  again.takeBack();
  expect(readFileSync(path, 'utf8')).toBe(restored);
  (await openFileKey({ path, create: true })).takeBack();
  expect(readFileSync(path, 'utf8')).toBe(restored);
});

test('where a missing file may not be made it is missed', async () => {
  const path = fresh('key');
  expect(await refusal(openFileKey({ path, create: false }))).toBe('key_not_found');
  expect(existsSync(path)).toBe(false);
});

test.each([0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])(
  'a file of mode %o is refused',
  async (mode) => {
    const path = fresh('key');
    await openFileKey({ path, create: true });
    chmodSync(path, mode);
    expect(await refusal(openFileKey({ path, create: true }))).toBe('misconfigured');
  },
);

test.each([
  ['nothing', ''],
  ['too little', `${randomBytes(31).toString('base64')}\n`],
  ['too much', `${randomBytes(33).toString('base64')}\n`],
  ['no base64', '!'.repeat(44)],
  ['two keys', `${randomBytes(32).toString('base64')}\n${randomBytes(32).toString('base64')}\n`],
  ['a long text', 'A'.repeat(100_000)],
])('a file with %s in it is no key, and is not overwritten', async (_, content) => {
  const path = fresh('key');
  mkdirSync(join(path, '..'));
  writeFileSync(path, content, { mode: 0o600 });
  expect(await refusal(openFileKey({ path, create: true }))).toBe('misconfigured');
  expect(readFileSync(path, 'utf8')).toBe(content);
});

test('a folder and a pipe are no key, and nothing waits for them', async () => {
  const path = fresh('key');
  mkdirSync(path, { recursive: true });
  expect(await refusal(openFileKey({ path, create: true }))).toBe('misconfigured');
  const pipe = join(path, 'pipe');
  expect(spawnSync('mkfifo', ['-m', '600', pipe]).status).toBe(0);
  expect(await refusal(openFileKey({ path: pipe, create: true }))).toBe('misconfigured');
});

test('a mounted secret is read through its links, and by the mode of what they lead to', async () => {
  const path = fresh('key');
  await openFileKey({ path, create: true });
  const link = `${path}.link`;
  symlinkSync(path, link);
  expect((await openFileKey({ path: link, create: true })).isNew).toBe(false);
  chmodSync(path, 0o644);
  expect(await refusal(openFileKey({ path: link, create: true }))).toBe('misconfigured');
});

test('of many that start at once one makes the key and all have it', async () => {
  const path = fresh('key');
  const script = `
    import { openFileKey } from ${JSON.stringify(join(import.meta.dirname, 'file.ts'))};
    const provider = await openFileKey({ path: ${JSON.stringify(path)}, create: true });
    console.log(provider.describe().keyId, provider.isNew);`;
  const { spawn } = await import('node:child_process');
  const outputs = await Promise.all(
    Array.from({ length: 4 }, () => {
      const child = spawn(process.execPath, [
        '--conditions=keystead-source',
        '--input-type=module',
        '-e',
        script,
      ]);
      let output = '';
      child.stdout.on('data', (bytes) => {
        output += bytes;
      });
      return new Promise<string>((resolve) => child.on('close', () => resolve(output.trim())));
    }),
  );
  expect(new Set(outputs.map((line) => line.split(' ')[0])).size).toBe(1);
  expect(outputs[0]).toMatch(/^[0-9a-f]{32} /);
  expect(outputs.filter((line) => line.endsWith('true'))).toHaveLength(1);
});

// Passphrase

test('a passphrase that is too short is refused where it is set', async () => {
  expect(
    await refusal((async () => openPassphrase({ passphrase: 'short', location: 'x' }))()),
  ).toBe('misconfigured');
});

test('a wrapped key that asks for a terabyte is refused before any memory is taken', async () => {
  const provider = openPassphrase({
    passphrase: 'correct horse battery',
    location: 'x',
    cost: cheap,
  });
  const wrapped = await provider.wrap(generateKey(), context);
  const bytes = Buffer.from(wrapped.bytes);
  bytes.writeUInt32BE(2 ** 30, 1);
  const startedAt = performance.now();
  expect(await refusal(provider.unwrap({ ...wrapped, bytes }, context))).toBe('corrupt');
  expect(performance.now() - startedAt).toBeLessThan(100);
});

test('what was wrapped at another cost still opens', async () => {
  const options = { passphrase: 'correct horse battery', location: 'x' };
  const before = openPassphrase({ ...options, cost: cheap });
  const after = openPassphrase({ ...options, cost: { ...cheap, passes: 2 } });
  const key = generateKey();
  expect((await after.unwrap(await before.wrap(key, context), context)).equals(key)).toBe(true);
});

// Environment

test.each([undefined, '', '   ', 'abc', 'z'.repeat(64), randomBytes(16).toString('hex')])(
  'a variable with %j is no key, and the error does not repeat it',
  async (value) => {
    const error = await (async () => openEnvironmentKey({ name: 'THE_KEY', value }))().catch(
      (caught: Error) => caught,
    );
    expect(String(error)).toContain('THE_KEY');
    if (value?.trim()) expect(String(error)).not.toContain(value);
  },
);

// Command

const node = process.execPath;
test.each<[string, [string, ...string[]], string]>([
  ['is missing', [join(folder, 'nowhere')], 'misconfigured'],
  ['fails', [node, '-e', 'process.exit(3)'], 'unavailable'],
  ['writes nothing', [node, '-e', ''], 'misconfigured'],
  ['writes no key', [node, '-e', 'console.log("hello")'], 'misconfigured'],
  [
    'writes without end',
    [node, '-e', 'for (;;) process.stdout.write("a".repeat(9999))'],
    'misconfigured',
  ],
  ['does not end', [node, '-e', 'setTimeout(() => {}, 60_000)'], 'timed_out'],
])('a program that %s is no key', async (_, command, reason) => {
  expect(await refusal(openCommandKey({ command, timeoutMs: 1_000 }))).toBe(reason);
});

test('no shell looks at the arguments', async () => {
  const marker = join(folder, 'marker');
  const key = randomBytes(32).toString('hex');
  const provider = await openCommandKey({
    command: [
      node,
      '-e',
      'console.log(process.argv[1])',
      key,
      `$(touch ${marker})`,
      `; touch ${marker}`,
    ],
  });
  expect(existsSync(marker)).toBe(false);
  expect(JSON.stringify(provider.describe())).not.toContain(key);
});

test('children of a program that takes too long end with it', async () => {
  const pidFile = join(folder, 'child.pid');
  const script = `
    const child = require('child_process').spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)'], { stdio: 'inherit' });
    require('fs').writeFileSync(${JSON.stringify(pidFile)}, String(child.pid));
    setTimeout(() => {}, 60000);`;
  expect(await refusal(openCommandKey({ command: [node, '-e', script], timeoutMs: 1_500 }))).toBe(
    'timed_out',
  );
  const pid = Number(readFileSync(pidFile, 'utf8'));
  await expect
    .poll(
      () => {
        try {
          process.kill(pid, 0);
          return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
        } catch {
          return true;
        }
      },
      { timeout: 5_000 },
    )
    .toBe(true);
});

// Configuration

test('a configuration opens what it names', async () => {
  const path = fresh('key');
  const passphraseFile = fresh('passphrase');
  mkdirSync(join(passphraseFile, '..'));
  writeFileSync(passphraseFile, 'correct horse battery\n');
  const variables: Record<string, string> = {
    KEY: randomBytes(32).toString('base64'),
    PASSPHRASE: 'correct horse battery',
  };
  const configurations = [
    { provider: 'file', path },
    { provider: 'environment', variable: 'KEY' },
    { provider: 'passphrase', from: { variable: 'PASSPHRASE' } },
    { provider: 'passphrase', from: { file: passphraseFile } },
    { provider: 'command', command: ['cat', path] },
  ];
  for (const written of configurations) {
    const configuration = keyProviderConfiguration.parse(written);
    const provider = await openKeyProvider(configuration, (name) => variables[name]);
    const key = generateKey();
    const wrapped = await provider.wrap(key, context);
    expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
    expect(provider.kind).toBe(configuration.provider);
    await provider.close();
  }
});

test.each([
  {},
  { provider: 'magic' },
  { provider: 'file' },
  { provider: 'file', path: '/x', mode: '0644' },
  { provider: 'passphrase', passphrase: 'in the clear' },
  { provider: 'passphrase', from: {} },
  { provider: 'passphrase', from: { variable: 'A', file: '/b' } },
  { provider: 'command', command: [] },
  { provider: 'command', command: 'cat key' },
  { provider: 'aws-kms', keyId: 'alias/x', region: 'eu central' },
  { provider: 'azure-key-vault', vaultUrl: 'http://x.vault.azure.net', keyName: 'k' },
])('a configuration that means nothing is refused: %j', (written) => {
  expect(keyProviderConfiguration.safeParse(written).success).toBe(false);
});

/** Against SoftHSM 2, a token in software with the interface of the hardware. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  canInstallPackages,
  findProgram,
  installPackages,
} from '@keystead/test-control-plane/infrastructure/programs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { generateKey } from '../keys.ts';
import { keyProviderSuite, refusal } from './key-provider-suite.fixture.ts';
import { openPkcs11, type Pkcs11Options } from './pkcs11.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-hsm-'));
const context = { purpose: 'test' };
const pin = '918273';
let prepared: Promise<string> | undefined;

/** Once for the file: the library reads its configuration when it is initialized. */
function prepare(): Promise<string> {
  prepared ??= (async () => {
    if (findProgram('softhsm2-util') === undefined) {
      if (!canInstallPackages()) {
        throw new Error('SoftHSM is missing: install Debian\'s "softhsm2"');
      }
      await installPackages(['softhsm2'], () => undefined);
    }
    const library = [
      '/usr/lib/softhsm/libsofthsm2.so',
      '/usr/local/lib/softhsm/libsofthsm2.so',
      '/opt/homebrew/lib/softhsm/libsofthsm2.so',
    ].find((path) => existsSync(path));
    if (library === undefined) throw new Error('the library of SoftHSM was not found');
    mkdirSync(join(folder, 'tokens'));
    const configuration = join(folder, 'softhsm2.conf');
    writeFileSync(
      configuration,
      `directories.tokendir = ${join(folder, 'tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`,
    );
    process.env.SOFTHSM2_CONF = configuration;
    for (const label of ['first', 'twin', 'twin']) {
      execFileSync(findProgram('softhsm2-util') as string, [
        '--init-token',
        '--free',
        '--label',
        label,
        '--pin',
        pin,
        '--so-pin',
        '564738',
      ]);
    }
    return library;
  })();
  return prepared;
}

async function open(more: Partial<Pkcs11Options> = {}) {
  const library = await prepare();
  return openPkcs11({
    library,
    tokenLabel: 'first',
    keyLabel: 'agent',
    pin,
    create: true,
    ...more,
  });
}

beforeAll(async () => {
  await prepare();
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

keyProviderSuite('PKCS #11', async () => ({
  open: () => open(),
  openAnother: () => open({ keyLabel: 'other' }),
  dispose: () => undefined,
}));

test('the key is made once, and only where that is allowed', async () => {
  expect(await refusal(open({ keyLabel: 'once', create: false }))).toBe('key_not_found');
  const first = await open({ keyLabel: 'once' });
  expect(first.isNew).toBe(true);
  const second = await open({ keyLabel: 'once', create: false });
  expect(second.isNew).toBe(false);
  expect(second.describe()).toEqual(first.describe());
  await first.close();
  await second.close();
});

test('a wrong PIN, a missing token, two tokens of one name and a wrong library are told apart', async () => {
  expect(await refusal(open({ pin: '000000' }))).toBe('denied');
  await expect(open({ pin: '000000' })).rejects.toThrow('the token refuses the PIN');
  expect(await refusal(open({ pin: '' }))).toBe('misconfigured');
  expect(await refusal(open({ tokenLabel: 'nowhere' }))).toBe('key_not_found');
  expect(await refusal(open({ tokenLabel: 'twin' }))).toBe('misconfigured');
  expect(await refusal(open({ library: import.meta.filename }))).toBe('misconfigured');
  expect(await refusal(open({ library: join(folder, 'nothing.so') }))).toBe('misconfigured');
});

test('a failed attempt leaves nothing open: the right PIN works after a wrong one', async () => {
  expect(await refusal(open({ pin: '000000' }))).toBe('denied');
  const provider = await open();
  const key = generateKey();
  const wrapped = await provider.wrap(key, context);
  expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
  await provider.close();
});

test('neither a description nor an error holds the PIN', async () => {
  const provider = await open();
  const error = await open({ pin: '000111' }).catch((caught: Error) => caught);
  expect(`${JSON.stringify(provider.describe())}${String(error)}`).not.toMatch(/918273|000111/);
  await provider.close();
});

test('the key stays in the token: two hundred wrappings, sixteen at once', async () => {
  const provider = await open();
  const key = generateKey();
  for (let round = 0; round < 13; round += 1) {
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        const wrapped = await provider.wrap(key, context);
        expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
      }),
    );
  }
  await provider.close();
});

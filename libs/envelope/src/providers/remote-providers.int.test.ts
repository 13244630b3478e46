import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generateKey } from '../keys.ts';
import { FakeAwsKms } from './aws-kms.fixture.ts';
import { type AwsKmsOptions, openAwsKms } from './aws-kms.ts';
import { FakeAzureKeyVault } from './azure-key-vault.fixture.ts';
import { openAzureKeyVault } from './azure-key-vault.ts';
import { crc32c } from './crc32c.ts';
import { FakeGcpKms } from './gcp-kms.fixture.ts';
import { openGcpKms } from './gcp-kms.ts';
import { refusal, remoteProviderSuite } from './key-provider-suite.fixture.ts';

const call = { timeoutMs: 500, maxAttempts: 3, firstPauseMs: 5, maxPauseMs: 20 };
const context = { purpose: 'test' };

async function awsSubject() {
  const service = new FakeAwsKms();
  const endpoint = await service.start();
  const keyId = service.addKey('agent');
  const otherId = service.addKey('other');
  const { region, accessKeyId, secretAccessKey } = service;
  const credentials = { accessKeyId, secretAccessKey };
  const open = (more: Partial<AwsKmsOptions> = {}) =>
    openAwsKms({ keyId, region, endpoint, credentials, call, ...more });
  return {
    service,
    keyId,
    otherId,
    credentials,
    openWith: open,
    open: () => open(),
    openAnother: () => open({ keyId: otherId }),
    dispose: () => service.stop(),
  };
}

remoteProviderSuite('AWS KMS', awsSubject);

remoteProviderSuite('Google Cloud KMS', async () => {
  const service = new FakeGcpKms();
  const folder = mkdtempSync(join(tmpdir(), 'keystead-gcp-'));
  const endpoint = await service.start();
  const keyFile = service.writeKeyFile(folder, endpoint);
  const keyName = service.addKey('agent');
  const otherName = service.addKey('other');
  return {
    service,
    open: () => openGcpKms({ keyName, endpoint, keyFile, call }),
    openAnother: () => openGcpKms({ keyName: otherName, endpoint, keyFile, call }),
    dispose: async () => {
      await service.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
});

remoteProviderSuite('Azure Key Vault', async () => {
  const service = new FakeAzureKeyVault();
  const { vaultUrl, certificate } = await service.open();
  service.addKey('agent');
  service.addKey('other');
  const open = (keyName: string) =>
    openAzureKeyVault({
      vaultUrl,
      keyName,
      credential: service.credential(),
      certificateAuthority: certificate,
      trustAnyVaultName: true,
      call,
    });
  return {
    service,
    open: () => open('agent'),
    openAnother: () => open('other'),
    dispose: () => service.stop(),
  };
});

test('AWS: an alias names the key, and the ciphertext the key behind it', async () => {
  const subject = await awsSubject();
  const provider = await subject.openWith({ keyId: 'alias/agent' });
  const key = generateKey();
  const wrapped = await provider.wrap(key, context);
  expect(wrapped.keyId).toBe(subject.keyId);
  expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
  await subject.dispose();
});

test('AWS: wrong credentials, another region and an unknown key are told apart', async () => {
  const subject = await awsSubject();
  const attempt = async (more: Partial<AwsKmsOptions>) => {
    const provider = await subject.openWith(more);
    return refusal(provider.wrap(generateKey(), context));
  };
  const secretAccessKey = 'another';
  expect(await attempt({ credentials: { ...subject.credentials, secretAccessKey } })).toBe(
    'denied',
  );
  expect(await attempt({ credentials: { ...subject.credentials, accessKeyId: 'AKIDOTHER' } })).toBe(
    'denied',
  );
  expect(await attempt({ region: 'us-east-1' })).toBe('denied');
  expect(await attempt({ keyId: 'alias/nothing' })).toBe('key_not_found');
  expect(await attempt({ keyId: subject.keyId.replace('eu-central-1', 'us-east-1') })).toBe(
    'key_not_found',
  );
  await subject.dispose();
});

test('AWS: an error names the key and the region, and no credential', async () => {
  const subject = await awsSubject();
  subject.service.fail('denied');
  const provider = await subject.open();
  const error = await provider.wrap(generateKey(), context).catch((caught: Error) => caught);
  expect(String(error)).toContain('eu-central-1');
  expect(String(error)).toContain('AccessDeniedException');
  expect(JSON.stringify(error)).not.toContain(subject.credentials.secretAccessKey);
  await subject.dispose();
});

test('Google: what was damaged on the way is noticed, both ways', async () => {
  const service = new FakeGcpKms();
  const folder = mkdtempSync(join(tmpdir(), 'keystead-gcp-'));
  const endpoint = await service.start();
  const keyName = service.addKey('agent');
  const provider = await openGcpKms({
    keyName,
    endpoint,
    keyFile: service.writeKeyFile(folder, endpoint),
    call,
  });
  const wrapped = await provider.wrap(generateKey(), context);
  expect(wrapped.version).toBe('3');
  service.damages = true;
  expect(await refusal(provider.wrap(generateKey(), context))).toBe('unavailable');
  expect(await refusal(provider.unwrap(wrapped, context))).toBe('unavailable');
  await service.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('Google: credentials that are refused, missing or unreadable are told as denied', async () => {
  const service = new FakeGcpKms();
  const folder = mkdtempSync(join(tmpdir(), 'keystead-gcp-'));
  const endpoint = await service.start();
  const keyName = service.addKey('agent');
  const keyFile = service.writeKeyFile(folder, endpoint, 'a token that is not accepted');
  const provider = await openGcpKms({ keyName, endpoint, keyFile, call });
  expect(await refusal(provider.wrap(generateKey(), context))).toBe('denied');
  const missing = join(folder, 'nowhere.json');
  expect(await refusal(openGcpKms({ keyName, keyFile: missing }))).toBe('denied');
  for (const content of ['', '[]', '{"type":"magic"}', '{"type":"external_account"}']) {
    writeFileSync(missing, content);
    expect(await refusal(openGcpKms({ keyName, keyFile: missing }))).toBe('misconfigured');
  }
  await service.stop();
  rmSync(folder, { recursive: true, force: true });
});

test.each(['', 'agent', 'projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1'])(
  'Google: %j is no name of a key',
  async (keyName) => {
    expect(await refusal(openGcpKms({ keyName }))).toBe('misconfigured');
  },
);

test('the checksum is CRC-32C', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  // RFC 3720 B.4: 32 bytes of zeros, of ones, counting up.
  expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa);
  expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
  expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, index) => index)))).toBe(0x46dd794e);
});

test('Azure: what an older version of the key wrapped still opens, and new ones wrap', async () => {
  const service = new FakeAzureKeyVault();
  const { vaultUrl, certificate } = await service.open();
  service.addKey('agent');
  const options = {
    vaultUrl,
    keyName: 'agent',
    credential: service.credential(),
    certificateAuthority: certificate,
    trustAnyVaultName: true,
    call,
  };
  const provider = await openAzureKeyVault(options);
  const key = generateKey();
  const before = await provider.wrap(key, context);
  service.addKey('agent');
  const after = await provider.wrap(key, context);
  expect(after.version).not.toBe(before.version);
  expect((await provider.unwrap(before, context)).equals(key)).toBe(true);
  expect((await provider.unwrap(after, context)).equals(key)).toBe(true);
  const foreign = await openAzureKeyVault({ ...options, credential: service.credential('other') });
  expect(await refusal(foreign.wrap(key, context))).toBe('denied');
  await service.stop();
});

test.each(['http://x.vault.azure.net', 'https://u:p@x.vault.azure.net', 'x', 'https://x/keys/y'])(
  'Azure: %j is no address of a vault',
  async (vaultUrl) => {
    expect(await refusal(openAzureKeyVault({ vaultUrl, keyName: 'k' }))).toBe('misconfigured');
  },
);

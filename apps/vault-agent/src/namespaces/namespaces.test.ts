import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import type { ErrorCode } from '@keystead/contracts/errors';
import { generateRecipient } from '@keystead/envelope/sealed-stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { recount } from '../store/recount.fixture.ts';
import {
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  testCaller,
} from '../store/vault.fixture.ts';
import type { Vault } from '../store/vault.ts';
import type { ArchiveRow } from './archive-rows.ts';

const caller = testCaller();
const refused = (code: ErrorCode) => expect.objectContaining({ code });
let vault: Vault;

beforeEach(async () => {
  vault = await openTestVault();
});
afterEach(() => closeVaults());

const make = (name: string, more: object = {}) =>
  vault.namespaces.create(caller, { ...plainNamespace, name, ...more });
const put = (namespace: string, name: string, value = 'v') =>
  vault.secrets.create(caller, namespace, { ...plainSecret, name, value });

test('a namespace keeps what is noted about it, and changes by etag', async () => {
  const made = await make('app', { description: 'd', owner: 'o', tags: ['a_b'] });
  expect(made).toMatchObject({
    limits: { secretsMax: 10_000, valueMaxBytes: 1_048_576 },
    secretCount: 0,
    createdBy: 'system:test',
  });
  const changed = await vault.namespaces.update('app', { owner: 'p' }, made.etag);
  expect(changed).toMatchObject({ owner: 'p', description: 'd' });
  await expect(vault.namespaces.update('app', { owner: 'q' }, made.etag)).rejects.toEqual(
    refused('precondition_failed'),
  );
  await expect(make('app')).rejects.toEqual(refused('conflict'));
  await put('app', 'one');
  await put('app', 'two');
  await expect(vault.namespaces.update('app', { limits: { secretsMax: 1 } })).rejects.toEqual(
    refused('unprocessable'),
  );
});

test('lists walk in order, by prefix, by tag and by what is seen', async () => {
  await make('beta', { tags: ['a_b'] });
  await make('alpha', { tags: ['axb'] });
  await make('alpine', { tags: ['a_b', 'c'] });
  const names = async (query: object, sees?: (name: string) => boolean) => {
    const page = await vault.namespaces.list(
      { limit: 10, ...query },
      sees && (({ namespace }) => sees(namespace ?? '')),
    );
    return page.items.map(({ name }) => name);
  };
  expect(await names({})).toEqual(['alpha', 'alpine', 'beta']);
  expect(await names({ prefix: 'alp' })).toEqual(['alpha', 'alpine']);
  // An underscore is no wildcard.
  expect(await names({ tag: 'a_b' })).toEqual(['alpine', 'beta']);
  expect(await names({}, (name) => name !== 'alpine')).toEqual(['alpha', 'beta']);
  const first = await vault.namespaces.list({ limit: 2 });
  expect(first.nextCursor).toBe('alpine');
  const second = await vault.namespaces.list({ limit: 2, cursor: 'alpine' });
  expect(second).toMatchObject({ items: [{ name: 'beta' }], nextCursor: null });
});

// What the original plan got wrong: it looked for a namespace's secrets by a prefix of their keys.
test('namespaces whose names begin alike have nothing in common', async () => {
  for (const name of ['app', 'app2', 'app-old', 'App']) {
    await make(name);
    await put(name, 'key', name);
  }
  await vault.namespaces.copy(caller, 'app', { to: 'app.copy' });
  expect(await vault.namespaces.delete('app')).toEqual({ name: 'app', deletedSecrets: 1 });
  for (const name of ['app2', 'app-old', 'App']) {
    expect((await vault.secrets.readValue(caller, name, 'key')).value).toBe(name);
  }
  expect((await vault.secrets.readValue(caller, 'app.copy', 'key')).value).toBe('app');
  expect((await vault.namespaces.list({ limit: 10 })).items).toHaveLength(4);
  expect(await recount(vault)).toEqual([]);
});

function* rowsOf(namespace: string, names: readonly string[]): Generator<ArchiveRow> {
  const made = { createdAtMs: 1, createdBy: 'test' };
  const noted = { description: '', tags: [] };
  yield {
    kind: 'namespace',
    name: namespace,
    ...noted,
    owner: '',
    secretsMax: 10_000,
    valueMaxBytes: 1_000,
    ...made,
  };
  for (const name of names) {
    yield {
      kind: 'secret',
      name,
      ...noted,
      isDeleted: false,
      currentVersion: 1,
      lastVersion: 1,
      maxVersions: 10,
      expiresAtMs: null,
      metadata: {},
      updatedAtMs: 1,
      ...made,
    };
    yield {
      kind: 'version',
      version: 1,
      state: 'active',
      encoding: 'text',
      origin: 'written',
      value: Buffer.from(name).toString('base64'),
      ...made,
    };
  }
}

// It exported at most the first thousand keys of the ten thousand that it allowed, and said nothing.
test('copies and archives hold every secret, however many there are', async () => {
  await make('app');
  const names = Array.from({ length: 1_010 }, (_, index) => `secret-${index}`).sort();
  const choices = { existing: 'fail' as const, createNamespaces: true, dryRun: false };
  await vault.transfer.importRows(caller, () => Readable.from(rowsOf('app', names)), choices);
  const pair = generateRecipient();
  const archive = await buffer(
    await vault.transfer.export('app', { kind: 'x25519', publicKey: pair.publicKey }),
  );
  await vault.transfer.import(
    caller,
    'imported',
    Readable.from([archive]),
    { kind: 'x25519', privateKey: pair.privateKey },
    choices,
  );
  await vault.namespaces.copy(caller, 'app', { to: 'copy' });
  for (const name of ['copy', 'imported']) {
    const { items } = await vault.secrets.list(name, { limit: 10_000 });
    expect(items.map((item) => item.name)).toEqual(names);
    expect((await vault.secrets.readValue(caller, name, 'secret-1009')).value).toBe('secret-1009');
  }
  expect(await recount(vault)).toEqual([]);
});

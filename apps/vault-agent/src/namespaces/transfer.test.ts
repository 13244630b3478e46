import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import type { ErrorCode } from '@keystead/contracts/errors';
import { generateRecipient, sealStream } from '@keystead/envelope/sealed-stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { recount } from '../store/recount.fixture.ts';
import {
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  sqlitePlace,
  type TestPlace,
  testCaller,
} from '../store/vault.fixture.ts';
import type { Vault } from '../store/vault.ts';
import { type ArchiveRow, decodeRows, encodeRows } from './archive-rows.ts';
import type { ImportOrder } from './transfer.ts';

const caller = testCaller();
const pair = generateRecipient();
const recipient = { kind: 'x25519' as const, publicKey: pair.publicKey };
const identity = { kind: 'x25519' as const, privateKey: pair.privateKey };
const order: ImportOrder = { existing: 'fail', createNamespaces: true, dryRun: false };
const refused = (code: ErrorCode, detail: RegExp = /./) =>
  expect.objectContaining({ code, detail: expect.stringMatching(detail) });

let place: TestPlace;
let vault: Vault;

beforeEach(async () => {
  place = sqlitePlace();
  vault = await openTestVault(place);
  await vault.namespaces.create(caller, {
    name: 'app',
    description: 'what the app needs',
    owner: 'payments',
    tags: ['env=test'],
    limits: { secretsMax: 50 },
  });
});
afterEach(closeVaults);

const binary = randomBytes(5_000).toString('base64');

async function fill(): Promise<void> {
  const { secrets } = vault;
  const create = (name: string, value: string, more: object = {}) =>
    secrets.create(caller, 'app', { ...plainSecret, name, value, ...more });
  await create('binary', binary, { encoding: 'base64', tags: ['bytes'] });
  await create('db/password', 'one', { metadata: { team: 'x' }, maxVersions: 3 });
  await secrets.update(caller, 'app', 'db/password', { value: 'two' });
  await secrets.update(caller, 'app', 'db/password', { value: 'three' });
  await secrets.destroyVersion(caller, 'app', 'db/password', 2);
  await create('gone', 'deleted value');
  await secrets.delete(caller, 'app', 'gone');
  await create('expiring', 'v', { expiresAt: '2099-01-01T00:00:00.000Z' });
  await create('empty', '');
}

const exported = async (name = 'app') => buffer(await vault.transfer.export(name, recipient));
const importInto = (name: string, archive: Uint8Array, more: Partial<ImportOrder> = {}) =>
  vault.transfer.import(caller, name, Readable.from([archive]), identity, { ...order, ...more });
const sealedLines = async (lines: AsyncIterable<Uint8Array>) =>
  buffer(
    Readable.from(
      sealStream(lines, [recipient], { context: Buffer.from('keystead namespace export v1') }),
    ),
  );

async function contentOf(name: string) {
  const { items } = await vault.secrets.list(name, { limit: 100, state: 'all' });
  return Promise.all(
    items.map(async (facts) => {
      const versions = (await vault.secrets.versions(name, facts.name, { limit: 100 })).items;
      const values = await Promise.all(
        versions
          .filter(({ state }) => state !== 'destroyed')
          .map(async ({ version }) =>
            (await vault.secrets.versionBytes(name, facts.name, version)).value.toString('hex'),
          ),
      );
      const { id: _id, namespace: _namespace, etag: _etag, updatedBy: _by, ...rest } = facts;
      return { ...rest, accessCount: 0, lastAccessedAt: null, versions, values };
    }),
  );
}

test('what was exported comes back as it was, bytes, versions, deletions and all', async () => {
  await fill();
  const archive = await exported();
  const result = await importInto('twin', archive);
  expect(result).toEqual({
    namespace: 'twin',
    dryRun: false,
    created: 5,
    replaced: 0,
    skipped: 0,
    versions: 7,
    bytes: 5_000 + 3 + 5 + 13 + 1,
  });
  expect(await contentOf('twin')).toEqual(await contentOf('app'));
  expect(await vault.namespaces.get('twin')).toMatchObject({
    description: 'what the app needs',
    owner: 'payments',
    tags: ['env=test'],
    limits: { secretsMax: 50 },
  });
  expect(await recount(vault)).toEqual([]);
});

test('an archive holds nothing in the clear, and its folder nothing afterwards', async () => {
  await vault.secrets.create(caller, 'app', {
    ...plainSecret,
    name: 'canary-name',
    value: 'canary-value',
  });
  const archive = await exported();
  for (const text of ['canary', Buffer.from('canary-value').toString('base64'), 'keystead-']) {
    expect(archive.includes(text)).toBe(false);
  }
  await importInto('twin', archive);
  expect(readdirSync(join(dirname((place.sql as { file: string }).file), 'imports'))).toEqual([]);
});

test('only so many exports are under way at once, and one that ends makes room', async () => {
  const large = { ...plainSecret, name: 'large', value: 'x'.repeat(500_000) };
  await vault.secrets.create(caller, 'app', large);
  const { transfersAtOnce } = secretLimits;
  const unread = await Promise.all(
    Array.from({ length: transfersAtOnce }, () => vault.transfer.export('app', recipient)),
  );
  await expect(vault.transfer.export('app', recipient)).rejects.toMatchObject({
    code: 'rate_limited',
  });
  unread.pop()?.destroy();
  const deadline = Date.now() + 5_000;
  let archive: Buffer | undefined;
  while (archive === undefined) {
    archive = await exported().catch(() => undefined);
    if (Date.now() > deadline) throw new Error('no room is made');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await Promise.all(unread.map((each) => buffer(each)));
  await importInto('twin', archive);
});

test('a passphrase opens what it sealed, and another one does not', async () => {
  await fill();
  const passphrase = 'correct horse battery staple';
  const archive = await buffer(
    await vault.transfer.export('app', {
      kind: 'passphrase',
      passphrase,
      cost: { memoryKib: 8 * 1_024, passes: 1, parallelism: 1 },
    }),
  );
  const open = (text: string) =>
    vault.transfer.import(
      caller,
      'twin',
      Readable.from([archive]),
      { kind: 'passphrase', passphrase: text },
      { ...order, dryRun: true },
    );
  expect(await open(passphrase)).toMatchObject({ created: 5, dryRun: true });
  await expect(open('another horse battery staple')).rejects.toEqual(refused('invalid_request'));
});

test('a dry run says what would happen and changes nothing', async () => {
  await fill();
  const archive = await exported();
  const before = await vault.namespaces.get('app');
  expect(await importInto('twin', archive, { dryRun: true })).toMatchObject({ created: 5 });
  await expect(vault.namespaces.get('twin')).rejects.toEqual(refused('not_found'));
  expect(await importInto('app', archive, { dryRun: true, existing: 'skip' })).toMatchObject({
    created: 0,
    skipped: 5,
    versions: 0,
  });
  expect(await importInto('app', archive, { dryRun: true, existing: 'replace' })).toMatchObject({
    replaced: 5,
    versions: 7,
  });
  await expect(importInto('app', archive, { dryRun: true })).rejects.toEqual(
    refused('conflict', /app\/binary/),
  );
  expect(await vault.namespaces.get('app')).toEqual(before);
});

test('the caller chooses what happens to secrets that are there: fail, skip or replace', async () => {
  await fill();
  const archive = await exported();
  await vault.secrets.update(caller, 'app', 'db/password', { value: 'newer' });
  await vault.secrets.destroy(caller, 'app', 'empty');
  const read = async (name: string) => (await vault.secrets.readValue(caller, 'app', name)).value;
  await read('db/password');
  await expect(importInto('app', archive)).rejects.toEqual(refused('conflict', /db\/password/));
  await expect(read('empty')).rejects.toEqual(refused('not_found'));
  expect(await importInto('app', archive, { existing: 'skip' })).toMatchObject({
    created: 1,
    skipped: 4,
  });
  expect(await read('db/password')).toBe('newer');
  const idOf = async () => (await vault.secrets.get('app', 'db/password')).id;
  const idBefore = await idOf();
  expect(await importInto('app', archive, { existing: 'replace' })).toMatchObject({ replaced: 5 });
  expect(await read('db/password')).toBe('three');
  // What refers to the secret, like its rotation, goes on.
  expect(await idOf()).toBe(idBefore);
  expect(await recount(vault)).toEqual([]);
});

test('limits of the target hold for an import, and nothing of it is written', async () => {
  await fill();
  const archive = await exported();
  await vault.namespaces.create(caller, {
    ...plainNamespace,
    name: 'few',
    limits: { secretsMax: 4 },
  });
  await vault.namespaces.create(caller, {
    ...plainNamespace,
    name: 'small',
    limits: { valueMaxBytes: 100 },
  });
  await expect(importInto('few', archive)).rejects.toEqual(refused('limit_reached'));
  await expect(importInto('small', archive)).rejects.toEqual(refused('payload_too_large'));
  await expect(importInto('nowhere', archive, { createNamespaces: false })).rejects.toEqual(
    refused('not_found'),
  );
  for (const name of ['few', 'small']) {
    expect((await vault.namespaces.get(name)).secretCount).toBe(0);
  }
  expect(await recount(vault)).toEqual([]);
});

test('an archive that was cut, changed or extended writes nothing', async () => {
  await fill();
  const archive = await exported();
  const damaged = [
    Buffer.alloc(0),
    Buffer.from('no archive at all'),
    archive.subarray(0, 40),
    archive.subarray(0, archive.length - 1),
    Buffer.concat([archive, Buffer.from([0])]),
    ...[0, 9, 50, 200, archive.length >> 1, archive.length - 5].map((offset) => {
      const copy = Buffer.from(archive);
      copy[offset] = (copy[offset] ?? 0) ^ 1;
      return copy;
    }),
  ];
  for (const bytes of damaged) {
    await expect(importInto('twin', bytes)).rejects.toEqual(refused('invalid_request'));
  }
  await expect(vault.namespaces.get('twin')).rejects.toEqual(refused('not_found'));
});

test('whoever can seal an archive still cannot bring in what no vault would hold', async () => {
  await fill();
  const rows: ArchiveRow[] = [];
  await vault.transfer.exportRows({ namespaces: ['app'] }, async (all) => {
    for await (const row of all) rows.push(row);
  });
  const importRows = async (changed: ArchiveRow[]) =>
    importInto('twin', await sealedLines(encodeRows(Readable.from(changed))));
  const at = (kind: ArchiveRow['kind']) => rows.findIndex((row) => row.kind === kind);
  const replaced = (index: number, change: object) =>
    rows.map((row, position) => (position === index ? { ...row, ...change } : row)) as ArchiveRow[];
  const wrong: [string, ArchiveRow[]][] = [
    ['a name that is no name', replaced(at('secret'), { name: '../../etc/passwd' })],
    ['a name twice', [...rows, ...rows.slice(at('secret'))]],
    ['a value that is no base64', replaced(at('version'), { value: '***' })],
    ['an unknown state', replaced(at('version'), { state: 'pending' })],
    ['a version beyond the last', replaced(at('version'), { version: 99 })],
    ['an unknown field', replaced(at('secret'), { admin: true })],
    ['no current version', rows.filter((_, index) => index !== at('version'))],
    [
      'more versions than are kept',
      replaced(at('secret'), { maxVersions: 1, lastVersion: 9 }).toSpliced(at('version') + 1, 0, {
        ...(rows[at('version')] as object),
        version: 9,
      } as ArchiveRow),
    ],
    ['a version without a secret', rows.filter((_, index) => index !== at('secret'))],
    ['no namespace', rows.slice(1)],
    ['two namespaces', [...rows, { ...(rows[0] as object), name: 'zzz' } as ArchiveRow]],
    ['a bidirectional override', replaced(at('secret'), { description: 'a\u202eb' })],
  ];
  for (const [what, changed] of wrong) {
    await expect(importRows(changed), what).rejects.toEqual(refused('invalid_request'));
  }
  // A manifest that disagrees, a line after it, a line that never ends.
  const lines = await buffer(Readable.from(encodeRows(Readable.from(rows))));
  const manifestAt = lines.lastIndexOf('\n', lines.length - 2) + 1;
  const manifest = JSON.parse(lines.subarray(manifestAt).toString());
  const withManifest = (change: object) =>
    Buffer.concat([
      lines.subarray(0, manifestAt),
      Buffer.from(`${JSON.stringify({ ...manifest, ...change })}\n`),
    ]);
  const wrongLines = [
    lines.subarray(0, manifestAt),
    withManifest({ secrets: manifest.secrets + 1 }),
    withManifest({ sha256: '0'.repeat(64) }),
    Buffer.concat([lines, lines.subarray(manifestAt)]),
    Buffer.concat([lines, Buffer.alloc(3 * 1_024 * 1_024, 0x20)]),
    lines.subarray(0, lines.length - 1),
  ];
  for (const bytes of wrongLines) {
    await expect(importInto('twin', await sealedLines(Readable.from([bytes])))).rejects.toEqual(
      refused('invalid_request'),
    );
  }
  await expect(vault.namespaces.get('twin')).rejects.toEqual(refused('not_found'));
  expect(await importRows(rows)).toMatchObject({ created: 5 });
});

test('an error of an import names no value', async () => {
  const lines = Buffer.from('{"kind":"version","value":"CANARY-VALUE","state":"nonsense"}\n');
  const failed = await importInto('twin', await sealedLines(Readable.from([lines]))).catch(
    (error: { detail: string; message: string }) => error,
  );
  expect(JSON.stringify(failed)).not.toContain('CANARY');
  expect((failed as { detail: string }).detail).toContain('line 1');
});

test('progress is told while an import checks and writes', async () => {
  await fill();
  const told: string[] = [];
  await importInto('twin', await exported(), {
    onProgress: (phase, { created }) => told.push(`${phase} ${created}`),
  });
  expect(told).toEqual(['checking 5', 'writing 5']);
});

test('rows survive being written and read in pieces of any size', async () => {
  await fill();
  await vault.transfer.exportRows({}, async (rows) => {
    const all: ArchiveRow[] = [];
    for await (const row of rows) all.push(row);
    const lines = await buffer(Readable.from(encodeRows(Readable.from(all))));
    for (const size of [1, 7, 4_096, lines.length]) {
      const pieces = (function* () {
        for (let at = 0; at < lines.length; at += size) yield lines.subarray(at, at + size);
      })();
      const again: ArchiveRow[] = [];
      for await (const row of decodeRows(Readable.from(pieces))) again.push(row);
      expect(again).toEqual(all);
    }
  });
});

test('a secret that is larger than a batch comes in whole, is passed over whole and replaced whole', async () => {
  const value = 'x'.repeat(1_000_000);
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'large', value });
  for (let index = 0; index < 8; index += 1) {
    await vault.secrets.update(caller, 'app', 'large', { value: `${index}${value}` });
  }
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'small', value: 'v' });
  const archive = await exported();
  const counts = { versions: 10, bytes: 9 * value.length + 9 };
  expect(await importInto('twin', archive)).toMatchObject({ created: 2, ...counts });
  expect(await importInto('twin', archive, { existing: 'skip' })).toMatchObject({
    created: 0,
    skipped: 2,
    versions: 0,
  });
  expect(await importInto('twin', archive, { existing: 'replace' })).toMatchObject({
    replaced: 2,
    ...counts,
  });
  await expect(importInto('twin', archive)).rejects.toEqual(refused('conflict'));
  for (const version of [1, 5, 9]) {
    const read = (namespace: string) =>
      vault.secrets.readValue(caller, namespace, 'large', { version });
    expect((await read('twin')).value).toBe((await read('app')).value);
  }
  expect((await vault.secrets.versions('twin', 'large', { limit: 20 })).items).toHaveLength(9);
  expect(await recount(vault)).toEqual([]);
});

import { randomBytes } from 'node:crypto';
import type { ErrorCode } from '@keystead/contracts/errors';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { recount } from '../store/recount.fixture.ts';
import {
  closeVault,
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  sqlitePlace,
  type TestPlace,
  testCaller,
} from '../store/vault.fixture.ts';
import type { Vault } from '../store/vault.ts';

const caller = testCaller();
let place: TestPlace;
let vault: Vault;

beforeEach(async () => {
  place = sqlitePlace();
  vault = await openTestVault(place);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
});
afterEach(closeVaults);

const create = (name: string, value = 'value', more: object = {}) =>
  vault.secrets.create(caller, 'app', { ...plainSecret, name, value, ...more });
const put = (name: string, value: string, more: object = {}) =>
  vault.secrets.update(caller, 'app', name, { value, ...more });
const read = async (name: string, query: object = {}) =>
  vault.secrets.readValue(caller, 'app', name, query);
const refused = (code: ErrorCode) => expect.objectContaining({ code });

test('a secret survives a restart, and only its value route knows the value', async () => {
  const made = await create('db/password', 'hunter2', { metadata: { team: 'payments' } });
  expect(JSON.stringify(made)).not.toContain('hunter2');
  expect(made).toMatchObject({ version: 1, state: 'active', accessCount: 0 });
  await closeVault(vault);
  vault = await openTestVault(place);
  expect(await read('db/password')).toMatchObject({ value: 'hunter2', encoding: 'text' });
  const shown = await vault.secrets.get('app', 'db/password');
  expect(shown).toMatchObject({ accessCount: 1, metadata: { team: 'payments' } });
  const listed = await vault.secrets.list('app', { limit: 10 });
  expect(JSON.stringify([shown, listed])).not.toContain('hunter2');
});

test('any bytes come back as they were, up to the limit and not beyond', async () => {
  const bytes = randomBytes(1_024 * 1_024);
  await create('blob', bytes.toString('base64'), { encoding: 'base64' });
  expect((await read('blob')).value).toBe(bytes.toString('base64'));
  const more = Buffer.concat([bytes, Buffer.from([0])]).toString('base64');
  await expect(create('more', more, { encoding: 'base64' })).rejects.toEqual(
    refused('payload_too_large'),
  );
  await create('empty', '');
  expect((await read('empty')).value).toBe('');
  await create('umlaut', 'ü😀\0');
  expect(await read('umlaut')).toMatchObject({ value: 'ü😀\0' });
  expect(await read('umlaut', { encoding: 'base64' })).toMatchObject({
    value: Buffer.from('ü😀\0').toString('base64'),
  });
  await expect(create('lone', '\ud800')).rejects.toEqual(refused('invalid_request'));
  await expect(create('loose', 'not base64', { encoding: 'base64' })).rejects.toEqual(
    refused('invalid_request'),
  );
  await expect(read('blob', { encoding: 'text' })).rejects.toEqual(refused('unprocessable'));
  expect(await recount(vault)).toEqual([]);
});

test('versions follow one another; the oldest beyond the maximum are gone, the current one never', async () => {
  await create('key', 'one', { maxVersions: 3 });
  for (const value of ['two', 'three', 'four']) await put('key', value);
  const { items } = await vault.secrets.versions('app', 'key', { limit: 10 });
  expect(items.map(({ version }) => version)).toEqual([4, 3, 2]);
  expect((await read('key', { version: 2 })).value).toBe('two');
  await expect(read('key', { version: 1 })).rejects.toEqual(refused('not_found'));
  const first = await vault.secrets.versions('app', 'key', { limit: 2 });
  expect(first.nextCursor).toBe('3');
  const second = await vault.secrets.versions('app', 'key', { limit: 2, cursor: '3' });
  expect(second).toMatchObject({ items: [{ version: 2 }], nextCursor: null });
  await vault.secrets.update(caller, 'app', 'key', { maxVersions: 1 });
  const left = await vault.secrets.versions('app', 'key', { limit: 10 });
  expect(left.items).toMatchObject([{ version: 4, isCurrent: true, origin: 'written' }]);
  expect(await recount(vault)).toEqual([]);
});

test('whoever expects another version or etag changes nothing', async () => {
  const { etag } = await create('key', 'one');
  const changed = await put('key', 'two', { expectedVersion: 1 });
  expect(changed.version).toBe(2);
  await expect(put('key', 'three', { expectedVersion: 1 })).rejects.toEqual(
    refused('precondition_failed'),
  );
  await expect(
    vault.secrets.update(caller, 'app', 'key', { value: 'three' }, etag),
  ).rejects.toEqual(refused('precondition_failed'));
  await expect(vault.secrets.delete(caller, 'app', 'key', { ifMatch: etag })).rejects.toEqual(
    refused('precondition_failed'),
  );
  const third = await vault.secrets.update(caller, 'app', 'key', { value: 'three' }, changed.etag);
  expect(third.version).toBe(3);
  expect((await read('key')).etag).toBe(third.etag);
});

test('of many that compare and set at once exactly one succeeds', async () => {
  await create('key', 'start');
  const results = await Promise.allSettled(
    Array.from({ length: 20 }, (_, index) => put('key', `n${index}`, { expectedVersion: 1 })),
  );
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  expect((await vault.secrets.get('app', 'key')).version).toBe(2);
});

test('an accessed secret keeps its etag', async () => {
  const { etag } = await create('key');
  await read('key');
  await vault.accesses.flush();
  const shown = await vault.secrets.get('app', 'key');
  expect(shown).toMatchObject({ etag, accessCount: 1 });
  expect(shown.lastAccessedAt).not.toBeNull();
});

test('a deleted secret gives no value and holds its name until it comes back or is destroyed', async () => {
  await create('key', 'one');
  await read('key');
  await vault.secrets.delete(caller, 'app', 'key');
  await expect(read('key')).rejects.toEqual(refused('gone'));
  await expect(read('key', { version: 1 })).rejects.toEqual(refused('gone'));
  await expect(put('key', 'two')).rejects.toEqual(refused('gone'));
  await expect(create('key')).rejects.toEqual(refused('conflict'));
  expect((await vault.secrets.list('app', { limit: 10 })).items).toEqual([]);
  expect((await vault.secrets.list('app', { limit: 10, state: 'deleted' })).items).toMatchObject([
    { name: 'key', state: 'deleted' },
  ]);
  await vault.secrets.undelete(caller, 'app', 'key');
  expect((await read('key')).value).toBe('one');
  await expect(vault.secrets.undelete(caller, 'app', 'key')).rejects.toEqual(refused('conflict'));
  await vault.secrets.destroy(caller, 'app', 'key');
  await expect(read('key')).rejects.toEqual(refused('not_found'));
  await create('key', 'anew');
  expect(await read('key')).toMatchObject({ value: 'anew', version: 1 });
  expect(await recount(vault)).toEqual([]);
});

test('a deleted version comes back, a destroyed one does not, and its bytes are gone', async () => {
  await create('key', 'first value');
  await put('key', 'two');
  await vault.secrets.deleteVersion(caller, 'app', 'key', 1);
  await expect(read('key', { version: 1 })).rejects.toEqual(refused('gone'));
  await vault.secrets.undelete(caller, 'app', 'key', 1);
  expect((await read('key', { version: 1 })).value).toBe('first value');
  const destroyed = await vault.secrets.destroyVersion(caller, 'app', 'key', 1);
  expect(destroyed).toMatchObject({ state: 'destroyed', byteLength: 0 });
  const rows = await vault.store.db.selectFrom('secret_version').selectAll().execute();
  expect(rows.map(({ version, sealed }) => [version, sealed.length > 0])).toEqual([
    [1, false],
    [2, true],
  ]);
  await expect(vault.secrets.undelete(caller, 'app', 'key', 1)).rejects.toEqual(refused('gone'));
  await expect(vault.secrets.rollback(caller, 'app', 'key', 1)).rejects.toEqual(refused('gone'));
  await vault.secrets.deleteVersion(caller, 'app', 'key', 2);
  await expect(read('key')).rejects.toEqual(refused('gone'));
  expect(await recount(vault)).toEqual([]);
});

test('a roll-back is a new version with the old value', async () => {
  await create('key', 'one');
  await put('key', 'two');
  const rolled = await vault.secrets.rollback(caller, 'app', 'key', 1, { expectedVersion: 2 });
  expect(rolled.version).toBe(3);
  expect((await read('key')).value).toBe('one');
  expect(await vault.secrets.version('app', 'key', 3)).toMatchObject({ origin: 'rollback:1' });
});

test('an expired secret gives no value from the moment that it expires', async () => {
  let nowMs = Date.parse('2030-01-01T00:00:00Z');
  const later = await openTestVault(sqlitePlace(), { now: () => nowMs });
  await later.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await later.secrets.create(caller, 'app', {
    ...plainSecret,
    name: 'key',
    value: 'v',
    expiresAt: '2030-01-01T00:01:00Z',
  });
  nowMs += 59_999;
  expect((await later.secrets.readValue(caller, 'app', 'key')).value).toBe('v');
  nowMs += 1;
  await expect((async () => later.secrets.readValue(caller, 'app', 'key'))()).rejects.toEqual(
    refused('gone'),
  );
  const list = (state: 'active' | 'expired') => later.secrets.list('app', { limit: 10, state });
  expect((await list('expired')).items).toHaveLength(1);
  expect((await list('active')).items).toHaveLength(0);
  await later.secrets.update(caller, 'app', 'key', { expiresAt: null });
  expect((await later.secrets.readValue(caller, 'app', 'key')).value).toBe('v');
});

test('no secret is made that is expired already', async () => {
  const made = vault.secrets.create(caller, 'app', {
    ...plainSecret,
    name: 'late',
    value: 'v',
    expiresAt: new Date(Date.now() - 1).toISOString(),
  });
  await expect(made).rejects.toMatchObject({
    code: 'invalid_request',
    errors: [{ in: 'body', path: '/expiresAt', message: 'must be in the future' }],
  });
});

test('a rotation shows nothing until it is promoted, and can be begun, abandoned and repeated', async () => {
  await create('key', 'old');
  const pending = { value: Buffer.from('new'), encoding: 'text' as const };
  const begun = await vault.secrets.beginVersion(caller, 'app', 'key', pending);
  expect(begun).toMatchObject({ version: 2, state: 'pending', isCurrent: false });
  expect((await read('key')).value).toBe('old');
  await expect(read('key', { version: 2 })).rejects.toEqual(refused('not_found'));
  await expect(vault.secrets.rollback(caller, 'app', 'key', 2)).rejects.toEqual(
    refused('not_found'),
  );
  const bytes = await vault.secrets.versionBytes('app', 'key', 2);
  expect(bytes.value.toString()).toBe('new');
  expect(await vault.secrets.abandonVersion(caller, 'app', 'key', 2)).toBe(true);
  expect(await vault.secrets.abandonVersion(caller, 'app', 'key', 2)).toBe(false);
  const third = await vault.secrets.beginVersion(caller, 'app', 'key', pending);
  expect(third.version).toBe(3);
  await vault.secrets.promoteVersion(caller, 'app', 'key', 3, { expectedVersion: 1 });
  await vault.secrets.promoteVersion(caller, 'app', 'key', 3, { expectedVersion: 1 });
  expect(await read('key')).toMatchObject({ value: 'new', version: 3 });
  expect((await read('key', { version: 1 })).value).toBe('old');
  await vault.secrets.retireVersion(caller, 'app', 'key', 1, 'destroyed');
  await vault.secrets.retireVersion(caller, 'app', 'key', 1, 'destroyed');
  await expect(read('key', { version: 1 })).rejects.toEqual(refused('gone'));
  await expect(vault.secrets.retireVersion(caller, 'app', 'key', 3)).rejects.toEqual(
    refused('conflict'),
  );
  expect(await recount(vault)).toEqual([]);
});

test('somebody who writes during a rotation is not overwritten by it', async () => {
  await create('key', 'old');
  const pending = { value: Buffer.from('rotated'), encoding: 'text' as const };
  const begun = await vault.secrets.beginVersion(caller, 'app', 'key', pending);
  await put('key', 'by hand');
  await expect(
    vault.secrets.promoteVersion(caller, 'app', 'key', begun.version, { expectedVersion: 1 }),
  ).rejects.toEqual(refused('precondition_failed'));
  expect((await read('key')).value).toBe('by hand');
});

test('a list holds every secret once, in order, whatever filter and page', async () => {
  const names = Array.from({ length: 60 }, (_, index) => `${'abc'[index % 3]}/${index}`);
  for (const [index, name] of names.entries()) {
    await create(name, 'v', { tags: index % 2 === 0 ? ['even'] : ['odd'] });
  }
  const walk = async (query: object, sees?: (name: string) => boolean) => {
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await vault.secrets.list(
        'app',
        { limit: 7, ...query, ...(cursor === undefined ? {} : { cursor }) },
        sees && (({ secret }) => sees(secret ?? '')),
      );
      expect(page.items.length).toBeLessThanOrEqual(7);
      found.push(...page.items.map(({ name }) => name));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    return found;
  };
  const sorted = [...names].sort();
  expect(await walk({})).toEqual(sorted);
  expect(await walk({ prefix: 'b/' })).toEqual(sorted.filter((name) => name.startsWith('b/')));
  const isEven = (name: string) => Number(name.slice(2)) % 2 === 0;
  expect(await walk({ tag: 'even' })).toEqual(sorted.filter(isEven));
  expect(await walk({ tag: 'even', prefix: 'b/1' })).toEqual(
    sorted.filter((name) => isEven(name) && name.startsWith('b/1')),
  );
  expect(await walk({}, isEven)).toEqual(sorted.filter(isEven));
  expect(await walk({ state: 'all' })).toEqual(sorted);
  await expect(vault.secrets.list('nowhere', { limit: 5 })).rejects.toEqual(refused('not_found'));
});

test('rows that change places do not open', async () => {
  await create('one', 'value of one');
  await create('two', 'value of two');
  await vault.store.write(async (queries) => {
    const versions = await queries.selectFrom('secret_version').selectAll().execute();
    const [one, two] = versions as [(typeof versions)[0], (typeof versions)[0]];
    for (const [to, from] of [
      [one, two],
      [two, one],
    ] as const) {
      await queries
        .updateTable('secret_version')
        .set({ sealed: from.sealed })
        .where('secret_id', '=', to.secret_id)
        .execute();
    }
  });
  await expect(read('one')).rejects.toEqual(refused('internal'));
  await expect(read('two', { version: 1 })).rejects.toEqual(refused('internal'));
});

test('what lies on the disk holds no value, in no encoding', async () => {
  const value = 'CANARY-3f9a-plain-value';
  await create('key', value);
  await put('key', `${value}-two`);
  await closeVault(vault);
  const { readFileSync, readdirSync } = await import('node:fs');
  const { dirname, join } = await import('node:path');
  const folder = dirname((place.sql as { file: string }).file);
  const files = readdirSync(folder).filter((name) => name.startsWith('vault.db'));
  const bytes = Buffer.concat(files.map((name) => readFileSync(join(folder, name))));
  for (const encoding of ['utf8', 'base64', 'hex', 'utf16le'] as const) {
    const needle =
      encoding === 'utf16le'
        ? Buffer.from(value, 'utf16le')
        : Buffer.from(Buffer.from(value).toString(encoding));
    expect(bytes.includes(needle)).toBe(false);
  }
  expect(bytes.includes(Buffer.from('secret_version'))).toBe(true);
});

test('plaintext is kept no longer than configured, and not at all by default', async () => {
  await create('key', 'plain');
  await read('key');
  const namespace = vault.directory.known('app');
  if (namespace === undefined) throw new Error('not known');
  expect(vault.cache.get(namespace, 'key')?.plaintext).toBeUndefined();

  const keeping = await openTestVault(sqlitePlace(), { cache: { plaintextTtlMs: 60 } });
  await keeping.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await keeping.secrets.create(caller, 'app', { ...plainSecret, name: 'key', value: 'plain' });
  await keeping.secrets.readValue(caller, 'app', 'key');
  const known = keeping.directory.known('app');
  const entry = known && keeping.cache.get(known, 'key');
  const plaintext = entry?.plaintext;
  expect(plaintext?.toString()).toBe('plain');
  await expect.poll(() => entry?.plaintext, { timeout: 3_000 }).toBeUndefined();
  // The very bytes are zeroed, not only let go.
  expect(plaintext?.every((byte) => byte === 0)).toBe(true);
  expect((await keeping.secrets.readValue(caller, 'app', 'key')).value).toBe('plain');
});

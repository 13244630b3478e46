/** The vault on every database that it may have; on servers two agents share it. */
import type { ErrorCode } from '@keystead/contracts/errors';
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import fc from 'fast-check';
import { DefaultQueryExecutor } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Namespaces } from '../namespaces/namespaces.ts';
import { recount } from './recount.fixture.ts';
import {
  closeVaults,
  openTestVault,
  placeOn,
  plainNamespace,
  plainSecret,
  type TestPlace,
  testCaller,
} from './vault.fixture.ts';
import type { Vault } from './vault.ts';

const caller = testCaller();
const refused = (code: ErrorCode) => expect.objectContaining({ code });
const isProof = process.env.KEYSTEAD_PROVE === 'full';
const seed = Number(process.env.KEYSTEAD_SEED ?? Date.now() % 1_000_000);

/** A version that is there; for a promotion one that waits for it. */
async function versionOf(
  secrets: Vault['secrets'],
  namespace: string,
  name: string,
  pick: number,
  wantsPending: boolean,
): Promise<number> {
  const { items } = await secrets
    .versions(namespace, name, { limit: 100 })
    .catch(() => ({ items: [] }));
  const pending = items.find(({ state }) => state === 'pending');
  if (wantsPending && pending !== undefined) return pending.version;
  return items[pick % Math.max(1, items.length)]?.version ?? 1;
}

describe.each(sqlKinds)('on %s', (kind) => {
  let database: TestSqlDatabase;
  let place: TestPlace;
  let one: Vault;
  /** Another agent on the same store; on SQLite there is only one. */
  let other: Vault;
  let namespace: string;
  let namespaces = 0;

  beforeAll(async () => {
    database = await createSqlDatabase(kind);
  });
  afterAll(() => database.drop());
  beforeEach(async () => {
    place ??= placeOn(database.options);
    one = await openTestVault(place);
    other = kind === 'sqlite' ? one : await openTestVault(place);
    namespaces += 1;
    namespace = `space-${namespaces}`;
    await one.namespaces.create(caller, { ...plainNamespace, name: namespace });
  });
  afterEach(() => closeVaults({ keepFolders: true }));
  afterAll(() => closeVaults());

  const create = (vault: Vault, name: string, value = 'value', tags: string[] = []) =>
    vault.secrets.create(caller, namespace, { ...plainSecret, name, value, tags });
  const read = async (vault: Vault, name: string) =>
    (await vault.secrets.readValue(caller, namespace, name)).value;

  test('agents that start at the same moment on an empty store agree on its keys', async () => {
    const fresh = await createSqlDatabase(kind);
    try {
      const shared = placeOn(fresh.options);
      const vaults = [await openTestVault(shared)];
      if (kind !== 'sqlite') {
        vaults.push(...(await Promise.all([openTestVault(shared), openTestVault(shared)])));
      }
      await vaults[0]?.namespaces.create(caller, { ...plainNamespace, name: 'app' });
      await vaults[0]?.secrets.create(caller, 'app', { ...plainSecret, name: 'k', value: 'v' });
      for (const vault of vaults) {
        expect((await vault.secrets.readValue(caller, 'app', 'k')).value).toBe('v');
        expect(vault.keys.derive('names').equals(one.keys.derive('names'))).toBe(false);
        expect(vault.keys.derive('names').equals(vaults[0]?.keys.derive('names') as never)).toBe(
          true,
        );
      }
    } finally {
      await closeVaults({ keepFolders: true });
      await fresh.drop();
    }
  });

  test('limits hold however many write at once, from however many agents', async () => {
    await one.namespaces.update(namespace, { limits: { secretsMax: 10 } });
    const results = await Promise.allSettled(
      Array.from({ length: 30 }, (_, index) =>
        create(index % 2 === 0 ? one : other, `secret-${index}`),
      ),
    );
    const failed = results.filter((result) => result.status === 'rejected');
    expect(failed.map(({ reason }) => reason.code)).toEqual(new Array(20).fill('limit_reached'));
    expect((await one.namespaces.get(namespace)).secretCount).toBe(10);

    const { namespaces: present } = await one.namespaces.totals();
    const bounded = [one, other].map(
      (vault) =>
        new Namespaces({
          store: vault.store,
          keys: vault.keys,
          directory: vault.directory,
          accesses: vault.accesses,
          namespacesMax: present + 3,
        }),
    );
    const made = await Promise.allSettled(
      Array.from({ length: 8 }, (_, index) =>
        bounded[index % 2]?.create(caller, { ...plainNamespace, name: `${namespace}-${index}` }),
      ),
    );
    expect(made.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    expect(await recount(one)).toEqual([]);
  });

  test('writers of one secret at once lose no version', async () => {
    await create(one, 'key');
    await one.secrets.update(caller, namespace, 'key', { maxVersions: 100 });
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? one : other).secrets.update(caller, namespace, 'key', {
          value: `n${index}`,
        }),
      ),
    );
    const { items } = await one.secrets.versions(namespace, 'key', { limit: 100 });
    expect(items.map(({ version }) => version)).toEqual(
      Array.from({ length: 21 }, (_, index) => 21 - index),
    );
    expect(await recount(one)).toEqual([]);
  });

  test('a change by one agent is seen by another within a second', async () => {
    const seenWithin = async (what: () => Promise<unknown>, wanted: unknown) => {
      const startedAtMs = performance.now();
      await expect
        .poll(() => what().catch((error) => error.code), { timeout: 5_000, interval: 10 })
        .toBe(wanted);
      expect(performance.now() - startedAtMs).toBeLessThan(1_000);
    };
    await create(one, 'key', 'first');
    expect(await read(other, 'key')).toBe('first');
    await one.secrets.update(caller, namespace, 'key', { value: 'second' });
    expect(await read(one, 'key')).toBe('second');
    await seenWithin(() => read(other, 'key'), 'second');
    await one.secrets.delete(caller, namespace, 'key');
    await seenWithin(() => read(other, 'key'), 'gone');
    await one.secrets.undelete(caller, namespace, 'key');
    await seenWithin(() => read(other, 'key'), 'second');
    await one.secrets.destroy(caller, namespace, 'key');
    await seenWithin(() => read(other, 'key'), 'not_found');
    await create(one, 'key', 'third');
    await seenWithin(() => read(other, 'key'), 'third');
    const moved = `${namespace}-moved`;
    await one.namespaces.move(namespace, moved);
    await seenWithin(() => read(other, 'key'), 'not_found');
    await one.namespaces.create(caller, { ...plainNamespace, name: namespace });
    await create(one, 'key', 'of another namespace');
    await seenWithin(() => read(other, 'key'), 'of another namespace');
    await one.namespaces.delete(namespace);
    await seenWithin(() => read(other, 'key'), 'not_found');
    const value = await other.secrets.readValue(caller, moved, 'key');
    expect(value.value).toBe('third');
  });

  test('a value that was being read while another agent changed it is not kept', async () => {
    // On SQLite reading is one moment, in which nothing changes.
    if (kind === 'sqlite') return;
    await create(one, 'key', 'before');
    await one.directory.look();
    const { executeQuery } = DefaultQueryExecutor.prototype;
    let isCaught = false;
    DefaultQueryExecutor.prototype.executeQuery = async function (compiled) {
      const result = await executeQuery.call(this, compiled);
      if (!isCaught && /^select.*sealed/.test(compiled.sql)) {
        isCaught = true;
        await other.secrets.update(caller, namespace, 'key', { value: 'after' });
        await one.directory.look();
      }
      return result as never;
    };
    try {
      expect(await read(one, 'key')).toBe('before');
    } finally {
      DefaultQueryExecutor.prototype.executeQuery = executeQuery;
    }
    expect(isCaught).toBe(true);
    expect(await read(one, 'key')).toBe('after');
  });

  test('while the master key is replaced everybody reads and writes on, and all meet the new one', async () => {
    await create(one, 'key', 'value');
    const before = await one.keys.describe();
    const busy = Array.from({ length: 12 }, async (_, index) => {
      const vault = index % 2 === 0 ? one : other;
      const name = `${namespace}-${index}`;
      await vault.namespaces.create(caller, { ...plainNamespace, name });
      await vault.secrets.create(caller, name, { ...plainSecret, name: 'k', value: name });
      expect((await vault.secrets.readValue(caller, name, 'k')).value).toBe(name);
      return name;
    });
    const rotations = await Promise.all([one.keys.rotateMaster(), other.keys.rotateMaster()]);
    const names = await Promise.all(busy);
    const after = await one.keys.describe();
    expect(after.masterVersion).toBeGreaterThan(before.masterVersion);
    expect(after.isRotating).toBe(false);
    expect(rotations.some(({ rewrappedKeys }) => rewrappedKeys > 0)).toBe(true);
    const masters = await one.store.db.selectFrom('master_key').selectAll().execute();
    expect(masters).toMatchObject([{ version: after.masterVersion, state: 'current' }]);
    const wrapped = await one.store.db.selectFrom('wrapped_key').selectAll().execute();
    expect(new Set(wrapped.map((key) => key.master_version))).toEqual(
      new Set([after.masterVersion]),
    );
    await expect
      .poll(() => other.keys.describe().then(({ masterVersion }) => masterVersion))
      .toBe(after.masterVersion);
    // Whoever starts now has nothing but the new master.
    const late = kind === 'sqlite' ? one : await openTestVault(place);
    for (const name of names) {
      expect((await late.secrets.readValue(caller, name, 'k')).value).toBe(name);
    }
    expect(late.keys.derive('names').equals(other.keys.derive('names'))).toBe(true);
    expect(await recount(one)).toEqual([]);
  });

  test('copy, move and delete take a namespace as a whole', async () => {
    await create(one, 'a', 'one', ['tag']);
    await one.secrets.update(caller, namespace, 'a', { value: 'two' });
    await create(one, 'gone', 'x');
    await one.secrets.delete(caller, namespace, 'gone');
    await create(one, 'hole', 'first');
    await one.secrets.update(caller, namespace, 'hole', { value: 'second' });
    await one.secrets.destroyVersion(caller, namespace, 'hole', 1);
    await one.secrets.beginVersion(caller, namespace, 'a', {
      value: Buffer.from('pending'),
      encoding: 'text',
    });
    const to = `${namespace}-copy`;
    const copied = await one.namespaces.copy(caller, namespace, { to });
    expect(copied).toMatchObject({
      copiedSecrets: 3,
      namespace: { secretCount: 3, deletedCount: 1, versionCount: 5 },
    });
    const readCopy = async (name: string, version?: number) =>
      (await one.secrets.readValue(caller, to, name, { version })).value;
    expect([await readCopy('a'), await readCopy('a', 1), await readCopy('hole')]).toEqual([
      'two',
      'one',
      'second',
    ]);
    await one.secrets.undelete(caller, to, 'gone');
    expect(await readCopy('gone')).toBe('x');
    // The copy goes its own way.
    await one.secrets.update(caller, to, 'a', { value: 'of the copy' });
    expect(await read(one, 'a')).toBe('two');
    await expect(one.namespaces.copy(caller, namespace, { to })).rejects.toEqual(
      refused('conflict'),
    );
    await expect(one.namespaces.move(namespace, to)).rejects.toEqual(refused('conflict'));
    await expect(one.namespaces.delete(to, { onlyEmpty: true })).rejects.toEqual(
      refused('conflict'),
    );
    expect(await recount(one)).toEqual([]);
    expect(await one.namespaces.delete(namespace)).toEqual({ name: namespace, deletedSecrets: 3 });
    await expect(read(one, 'a')).rejects.toEqual(refused('not_found'));
    expect(await readCopy('a')).toBe('of the copy');
    expect(await recount(one)).toEqual([]);
  });

  test('accesses are counted once each, by whoever answers, and statistics need no scan', async () => {
    for (const name of ['a', 'b', 'c']) await create(one, name, 'four');
    for (let index = 0; index < 5; index += 1) await read(one, 'a');
    for (let index = 0; index < 4; index += 1) await read(other, 'a');
    await read(other, 'b');
    await Promise.all([one.accesses.flush(), other.accesses.flush()]);
    expect(await one.namespaces.statistics(namespace, 10)).toMatchObject({
      secretCount: 3,
      versionCount: 3,
      totalBytes: 12,
      averageNameBytes: 1,
      averageValueBytes: 4,
      accessCount: 10,
      accessCount24h: 10,
      lastAccessedAt: expect.any(String),
      topSecrets: [
        { name: 'a', accessCount: 9 },
        { name: 'b', accessCount: 1 },
      ],
    });
    await one.secrets.destroy(caller, namespace, 'a');
    await one.accesses.flush();
    const { topSecrets } = await one.namespaces.statistics(namespace, 10);
    expect(topSecrets.map(({ name }) => name)).toEqual(['b']);
    const log = await one.namespaces.accessLog(namespace, { limit: 100 });
    expect(log.items.filter(({ operation }) => operation === 'read')).toHaveLength(10);
    expect(log.items[0]).toMatchObject({ operation: 'destroy', identity: 'system:test' });
    const page = await one.namespaces.accessLog(namespace, { limit: 4 });
    const rest = await one.namespaces.accessLog(namespace, {
      limit: 100,
      cursor: page.nextCursor ?? '',
    });
    expect([...page.items, ...rest.items]).toEqual(log.items);
  });

  test('names are told apart byte by byte, and wildcards are ordinary characters', async () => {
    for (const name of ['Key', 'key', 'k_y', 'kxy']) await create(one, name, name);
    for (const name of ['Key', 'key', 'k_y', 'kxy']) expect(await read(one, name)).toBe(name);
    const { items } = await one.secrets.list(namespace, { limit: 10 });
    expect(items.map(({ name }) => name)).toEqual(['Key', 'k_y', 'key', 'kxy']);
    const byPrefix = await one.secrets.list(namespace, { limit: 10, prefix: 'k_' });
    expect(byPrefix.items.map(({ name }) => name)).toEqual(['k_y']);
  });

  test(
    'after any mixture of operations every counter equals a recount, and every value is right',
    async () => {
      const names = ['a', 'b', 'c/d'];
      const operation = fc.record({
        what: fc.constantFrom(
          'create',
          'create',
          'update',
          'update',
          'narrow',
          'delete',
          'undelete',
          'destroy',
          'rollback',
          'delete version',
          'undelete version',
          'destroy version',
          'begin',
          'promote',
          'abandon',
          'retire',
          'tag',
          'copy',
          'master',
        ),
        name: fc.constantFrom(...names),
        pick: fc.nat({ max: 20 }),
        size: fc.integer({ min: 0, max: 40 }),
        agent: fc.boolean(),
      });
      let runs = 0;
      const succeeded = new Set<string>();
      const game = fc.asyncProperty(
        fc.array(operation, { minLength: 60, maxLength: 90, size: 'max' }),
        async (operations) => {
          runs += 1;
          const space = `${namespace}-run${runs}`;
          await one.namespaces.create(caller, { ...plainNamespace, name: space });
          /** What the current version of each secret must be, as far as it is readable. */
          const expected = new Map<string, string>();
          let copies = 0;
          const run = async ({ what, name, pick, size, agent }: (typeof operations)[0]) => {
            const { secrets, namespaces: spaces, keys } = agent ? one : other;
            const value = `${name}-${size}`.padEnd(size, '.');
            const version = await versionOf(secrets, space, name, pick, what === 'promote');
            switch (what) {
              case 'create':
                await secrets.create(caller, space, { ...plainSecret, name, value, tags: ['t'] });
                expected.set(name, value);
                return;
              case 'update':
                await secrets.update(caller, space, name, { value });
                expected.set(name, value);
                return;
              case 'narrow':
                await secrets.update(caller, space, name, { maxVersions: 1 + (pick % 4) });
                return;
              case 'delete':
                return secrets.delete(caller, space, name);
              case 'undelete':
                return secrets.undelete(caller, space, name);
              case 'destroy':
                await secrets.destroy(caller, space, name);
                expected.delete(name);
                return;
              case 'rollback': {
                const old = await secrets.versionBytes(space, name, version);
                await secrets.rollback(caller, space, name, version);
                expected.set(name, old.value.toString());
                return;
              }
              case 'delete version':
                return secrets.deleteVersion(caller, space, name, version);
              case 'undelete version':
                return secrets.undelete(caller, space, name, version);
              case 'destroy version':
                return secrets.destroyVersion(caller, space, name, version);
              case 'begin':
                return secrets.beginVersion(caller, space, name, {
                  value: Buffer.from(value),
                  encoding: 'text',
                });
              case 'promote': {
                const pending = await secrets.versionBytes(space, name, version);
                const promoted = await secrets.promoteVersion(caller, space, name, version);
                if (promoted.version === version) expected.set(name, pending.value.toString());
                return;
              }
              case 'abandon':
                return secrets.abandonVersion(caller, space, name, version);
              case 'retire':
                return secrets.retireVersion(caller, space, name, version, 'destroyed');
              case 'tag':
                return secrets.update(caller, space, name, {
                  tags: size % 2 === 0 ? ['even', 't'] : [],
                });
              case 'copy':
                copies += 1;
                await spaces.copy(caller, space, { to: `${space}-copy${copies}` });
                await spaces.move(`${space}-copy${copies}`, `${space}-moved${copies}`);
                if (size % 2 === 0) await spaces.delete(`${space}-moved${copies}`);
                return;
              case 'master':
                await keys.rotateMaster();
            }
          };
          for (const step of operations) {
            await run(step).then(
              () => succeeded.add(step.what),
              (error) => {
                // Refusals are part of the game; anything else is not.
                if (!['not_found', 'gone', 'conflict'].includes(error.code)) throw error;
              },
            );
          }
          expect(await recount(one)).toEqual([]);
          const listed = await one.secrets.list(space, { limit: 10, state: 'all' });
          expect(listed.items.map(({ name }) => name)).toEqual([...expected.keys()].sort());
          for (const { name, state, version } of listed.items) {
            if (state !== 'active') continue;
            const shown = await one.secrets.version(space, name, version);
            if (shown.state !== 'active') continue;
            expect((await one.secrets.readValue(caller, space, name)).value).toBe(
              expected.get(name),
            );
          }
        },
      );
      // A game of refusals alone would prove nothing: it goes on until most kinds of steps were taken.
      for (let round = 0; round === 0 || (round < 8 && succeeded.size <= 14); round += 1) {
        const parameters = { seed: seed + round, numRuns: isProof ? 60 : 4, endOnFailure: true };
        await fc.assert(game, parameters);
      }
      expect(succeeded.size).toBeGreaterThan(14);
    },
    isProof ? 3_600_000 : 90_000,
  );
});

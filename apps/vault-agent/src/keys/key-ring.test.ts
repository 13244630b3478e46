import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import {
  type KeyProvider,
  KeyProviderError,
  type WrappedKey,
} from '@keystead/envelope/key-provider';
import type { SecretKey } from '@keystead/envelope/keys';
import { openFileKey } from '@keystead/envelope/providers/file';
import { afterEach, expect, test, vi } from 'vitest';
import { AgentStore } from '../store/agent-store.ts';
import {
  closeVault,
  closeVaults,
  freshFolder,
  openTestVault,
  plainNamespace,
  plainSecret,
  sqlitePlace,
  testCaller,
} from '../store/vault.fixture.ts';
import { Vault } from '../store/vault.ts';
import { keyLimits } from './key-limits.ts';
import { KeyRing } from './key-ring.ts';

afterEach(() => closeVaults());
const caller = testCaller();

async function filled(place = sqlitePlace()): Promise<Vault> {
  const vault = await openTestVault(place);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'key', value: 'v' });
  return vault;
}
const read = async (vault: Vault) => (await vault.secrets.readValue(caller, 'app', 'key')).value;

/** Another provider around one, which fails when it is told to. */
class FailingProvider implements KeyProvider {
  readonly #inner: KeyProvider;
  isAway = false;
  asked = 0;
  constructor(inner: KeyProvider) {
    this.#inner = inner;
  }
  get kind() {
    return this.#inner.kind;
  }
  #check(): void {
    this.asked += 1;
    if (this.isAway) throw new KeyProviderError('file', 'unavailable', 'the provider is away');
  }
  async wrap(key: SecretKey, context: Record<string, string>) {
    this.#check();
    return this.#inner.wrap(key, context);
  }
  async unwrap(wrapped: WrappedKey, context: Record<string, string>) {
    this.#check();
    return this.#inner.unwrap(wrapped, context);
  }
  describe() {
    return this.#inner.describe();
  }
  close() {
    return this.#inner.close();
  }
}

test('the store without the key file opens nothing, and says which key is missing', async () => {
  const place = sqlitePlace();
  await closeVault(await filled(place));
  rmSync(place.keyFile);
  await expect(openTestVault(place)).rejects.toThrow(KeyProviderError);
  // Another key of the same provider is told apart from damage.
  await expect(openTestVault(place)).rejects.toMatchObject({ reason: 'wrong_key' });
});

test('a rotation replaces the master key and nothing else: values stay as they lie', async () => {
  const vault = await filled();
  const stored = () => vault.store.db.selectFrom('secret_version').selectAll().execute();
  const wrapped = () => vault.store.db.selectFrom('wrapped_key').selectAll().execute();
  const [versionsBefore, keysBefore] = [await stored(), await wrapped()];
  const audit = vault.keys.derive('audit');
  const result = await vault.keys.rotateMaster();
  expect(result).toEqual({ masterVersion: 2, rewrappedKeys: 2, resumed: false });
  expect(await stored()).toEqual(versionsBefore);
  const keysAfter = await wrapped();
  expect(keysAfter.map((key) => key.master_version)).toEqual([2, 2]);
  for (const [index, key] of keysAfter.entries()) {
    expect(key.wrapped).not.toEqual(keysBefore[index]?.wrapped);
  }
  expect(await read(vault)).toBe('v');
  expect(vault.keys.derive('audit').equals(audit)).toBe(true);
  expect(vault.keys.derive('other').equals(audit)).toBe(false);
});

test('the master key moves to another provider, whole at every step, and no agent undoes it', async () => {
  const place = sqlitePlace();
  const running = await filled(place);
  const other = await openFileKey({ path: `${place.keyFile}.new`, create: true });
  const from = await openFileKey({ path: place.keyFile, create: false });
  const opened = (provider: KeyProvider) => Vault.open({ sql: place.sql, provider });
  for (const step of ['wrapped elsewhere', 'moved'] as const) {
    const store = await AgentStore.open({ sql: place.sql });
    const ring = await KeyRing.open({
      store,
      provider: from,
      onStep: (reached) => {
        if (reached === step) throw new Error('interrupted');
      },
    });
    await expect(ring.moveTo(other)).rejects.toThrow('interrupted');
    ring.close();
    await store.close();
    const [guardian, stranger] = step === 'moved' ? [other, from] : [from, other];
    const vault = await opened(guardian);
    expect(await read(vault)).toBe('v');
    await vault.close();
    await expect(opened(stranger), step).rejects.toMatchObject({ reason: 'wrong_key' });
  }
  // The one that runs goes on, says that it was moved, and makes no master that the new one cannot open.
  await running.keys.noticeRotation();
  expect(running.keys.isMoved).toBe(true);
  expect(await read(running)).toBe('v');
  await expect(running.keys.rotateMaster()).rejects.toMatchObject({ code: 'conflict' });
  // A provider that takes and does not give is found out before anything depends on it.
  const next = await opened(other);
  const taking = new FailingProvider(from);
  taking.unwrap = () => Promise.reject(new KeyProviderError('file', 'denied', 'not for you'));
  await expect(next.keys.moveTo(taking)).rejects.toMatchObject({ reason: 'denied' });
  expect(await next.keys.rotateMaster()).toMatchObject({ masterVersion: 2 });
  await next.close();
  await closeVault(running);
});

test('a rotation that the provider interrupts is finished by the next start', async () => {
  const place = sqlitePlace();
  await closeVault(await filled(place));
  const provider = new FailingProvider(await openFileKey({ path: place.keyFile, create: false }));
  const vault = await Vault.open({ sql: place.sql, provider });
  // Makes the new master, then cannot read it back.
  const wrap = provider.wrap.bind(provider);
  provider.wrap = async (key, context) => {
    const wrapped = await wrap(key, context);
    provider.isAway = true;
    return wrapped;
  };
  await expect(vault.keys.rotateMaster()).rejects.toMatchObject({ code: 'unavailable' });
  // Meanwhile everything that is open works.
  expect(await read(vault)).toBe('v');
  await vault.close();
  const again = await openTestVault(place);
  expect(await again.keys.describe()).toMatchObject({ masterVersion: 2, isRotating: false });
  expect(await read(again)).toBe('v');
});

test('interrupted after any step, every key opens, and the next start finishes', async () => {
  const place = sqlitePlace();
  const vault = await openTestVault(place);
  const names = ['a', 'b', 'c', 'd'];
  for (const name of names) {
    await vault.namespaces.create(caller, { ...plainNamespace, name });
    await vault.secrets.create(caller, name, { ...plainSecret, name: 'key', value: name });
  }
  await closeVault(vault);
  // Begun, five keys one by one, all wrapped, finished.
  for (let interruptAt = 1; interruptAt <= 8; interruptAt += 1) {
    const provider = await openFileKey({ path: place.keyFile, create: false });
    const store = await AgentStore.open({ sql: place.sql });
    let steps = 0;
    const ring = await KeyRing.open({
      store,
      provider,
      rewrapBatch: 1,
      onStep: () => {
        steps += 1;
        if (steps === interruptAt) throw new Error('interrupted');
      },
    });
    await expect(ring.rotateMaster(), `step ${interruptAt}`).rejects.toThrow('interrupted');
    ring.close();
    await store.close();
    const again = await openTestVault(place);
    expect(await again.keys.describe()).toMatchObject({
      masterVersion: interruptAt + 1,
      isRotating: false,
    });
    for (const name of names) {
      const { value } = await again.secrets.readValue(caller, name, 'key');
      expect(value, `step ${interruptAt}`).toBe(name);
    }
    await closeVault(again);
  }
});

test('the provider is asked at the start and for a rotation, never for a reading', async () => {
  const place = sqlitePlace();
  const provider = new FailingProvider(await openFileKey({ path: place.keyFile, create: true }));
  const vault = await Vault.open({ sql: place.sql, provider });
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'key', value: 'v' });
  const { asked } = provider;
  provider.isAway = true;
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'more' });
  vault.cache.clear();
  expect(await read(vault)).toBe('v');
  expect(provider.asked).toBe(asked);
  await vault.close();
});

test('a new master that the provider does not give out stops no reading', async () => {
  const place = sqlitePlace();
  const provider = new FailingProvider(await openFileKey({ path: place.keyFile, create: true }));
  const vault = await Vault.open({ sql: place.sql, provider });
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'key', value: 'v' });
  expect(await read(vault)).toBe('v');
  provider.isAway = true;
  const other = await openTestVault(place);
  await other.keys.rotateMaster();
  await closeVault(other);
  await vault.directory.look();
  expect(vault.directory.isTrusted).toBe(true);
  vault.cache.clear();
  expect(await read(vault)).toBe('v');
  provider.isAway = false;
  await expect
    .poll(async () => (await vault.keys.describe()).masterVersion, { timeout: 8_000 })
    .toBe(2);
  await vault.close();
});

/** A vault whose master key was replaced by another agent while its provider does as `answer` says. */
async function behindRotation(answer: (provider: FailingProvider) => Promise<never>) {
  const place = sqlitePlace();
  const provider = new FailingProvider(await openFileKey({ path: place.keyFile, create: true }));
  const vault = await Vault.open({ sql: place.sql, provider });
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await vault.secrets.create(caller, 'app', { ...plainSecret, name: 'key', value: 'v' });
  const told: boolean[] = [];
  vault.keys.onProviderChange((isAvailable) => told.push(isAvailable));
  const unwrap = provider.unwrap.bind(provider);
  let asked = 0;
  provider.unwrap = () => {
    asked += 1;
    return answer(provider);
  };
  const other = await openTestVault(place);
  await other.keys.rotateMaster();
  await closeVault(other);
  return {
    vault,
    told,
    asked: () => asked,
    mend: () => {
      provider.unwrap = unwrap;
    },
  };
}

test('a provider that hangs holds up no look for changes and is asked once at a time', async () => {
  let giveUp: (error: Error) => void = () => undefined;
  const hanging = new Promise<never>((_resolve, reject) => {
    giveUp = reject;
  });
  const { vault, told, asked, mend } = await behindRotation(() => hanging);
  await expect.poll(asked).toBe(1);
  for (let index = 0; index < 20; index += 1) await vault.directory.look();
  expect(vault.directory.isTrusted).toBe(true);
  await vault.secrets.update(caller, 'app', 'key', { value: 'new' });
  expect(await read(vault)).toBe('new');
  expect(asked()).toBe(1);
  expect(vault.keys.isProviderAvailable).toBe(true);
  giveUp(new KeyProviderError('aws-kms', 'timed_out', 'no answer'));
  await expect.poll(() => vault.keys.isProviderAvailable).toBe(false);
  // In a pause what needs the provider is refused without asking, as not available.
  await expect(vault.keys.rotateMaster()).rejects.toMatchObject({ code: 'unavailable' });
  expect(asked()).toBe(1);
  mend();
  await expect
    .poll(async () => (await vault.keys.describe()).masterVersion, { timeout: 8_000 })
    .toBe(2);
  expect(told).toEqual([false, true]);
  await vault.close();
});

test('a token that refused its PIN is not shown it again before somebody says so', async () => {
  const { vault, told, asked, mend } = await behindRotation(() =>
    Promise.reject(new KeyProviderError('pkcs11', 'denied', 'the PIN is wrong')),
  );
  await expect.poll(asked).toBe(1);
  // Longer than the first pause.
  const untilMs = performance.now() + 1_500;
  await expect
    .poll(
      async () => {
        await vault.directory.look();
        return performance.now() > untilMs;
      },
      { timeout: 8_000 },
    )
    .toBe(true);
  expect(asked()).toBe(1);
  expect(await read(vault)).toBe('v');
  mend();
  vault.keys.askProviderAgain();
  await expect
    .poll(async () => (await vault.keys.describe()).masterVersion, { timeout: 8_000 })
    .toBe(2);
  expect(told).toEqual([false, true]);
  await vault.close();
});

test('whoever reads a namespace that is renamed or deleted meanwhile reads it to its end', async () => {
  const vault = await filled();
  for (let index = 0; index < 300; index += 1) {
    await vault.secrets.create(caller, 'app', { ...plainSecret, name: `k${index}`, value: 'v' });
  }
  const { id } = await vault.namespaces.get('app');
  const key = await vault.keys.namespaceKey(id);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    let values = 0;
    await vault.transfer.exportRows({}, async (rows) => {
      for await (const row of rows) {
        if (row.kind !== 'version') continue;
        values += 1;
        if (values === 1) await vault.namespaces.move('app', 'moved');
        if (values !== 2) continue;
        await vault.namespaces.delete('moved');
        // Long after every request is done.
        vi.advanceTimersByTime(keyLimits.retiredKeptMs * 2);
      }
    });
    expect(values).toBe(301);
    expect(key.isWiped).toBe(false);
    vi.advanceTimersByTime(keyLimits.retiredKeptMs + 1);
    expect(key.isWiped).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});

test('what is remembered while a look is under way is not forgotten by it', async () => {
  const vault = await filled();
  // A look that has read the namespaces before the new one was made.
  const read = vault.store.read.bind(vault.store);
  let isFirst = true;
  await vault.directory.stop();
  vault.store.read = async (work) => {
    const answer = await read(work);
    if (isFirst) {
      isFirst = false;
      await vault.namespaces.create(caller, { ...plainNamespace, name: 'young' });
      await vault.directory.find('young');
    }
    return answer;
  };
  await vault.directory.look();
  const known = vault.directory.known('young');
  expect(known?.isGone).toBe(false);
  expect(vault.keys.knownNamespaceKey(known?.id ?? '')?.isWiped).toBe(false);
});

test('the master key moves to another provider, and the old one opens nothing any more', async () => {
  const place = sqlitePlace();
  const vault = await filled(place);
  const other = join(freshFolder(), 'other.key');
  await vault.keys.moveTo(await openFileKey({ path: other, create: true }));
  expect((await vault.keys.describe()).location).toBe(other);
  await closeVault(vault);
  await expect(openTestVault(place)).rejects.toMatchObject({ reason: 'wrong_key' });
  expect(await read(await openTestVault({ ...place, keyFile: other }))).toBe('v');
});

test('keys are wiped when the vault closes, when their namespace goes, and print nothing', async () => {
  const vault = await filled();
  const namespace = vault.directory.known('app');
  if (namespace === undefined) throw new Error('not known');
  const key = await vault.keys.namespaceKey(namespace.id);
  expect(key.isWiped).toBe(false);
  expect(inspect(vault.keys, { depth: 9, showHidden: true })).not.toContain(
    key.bytes.toString('hex').slice(0, 16),
  );
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  await vault.namespaces.delete('app');
  // Whoever has it is done by then.
  expect(key.isWiped).toBe(false);
  vi.advanceTimersByTime(keyLimits.retiredKeptMs);
  vi.useRealTimers();
  expect(key.isWiped).toBe(true);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  const { id } = await vault.namespaces.get('app');
  const second = await vault.keys.namespaceKey(id);
  await closeVault(vault);
  expect(second.isWiped).toBe(true);
  expect(() => vault.keys.derive('x')).toThrow('closed');
});

test('wrapped keys that change places do not open', async () => {
  const place = sqlitePlace();
  const vault = await filled(place);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'other' });
  const [one, other] = await Promise.all(
    ['app', 'other'].map((name) => vault.namespaces.get(name)),
  );
  await vault.store.write(async (queries) => {
    const row = await queries
      .selectFrom('wrapped_key')
      .selectAll()
      .where('id', '=', other?.id ?? '')
      .executeTakeFirstOrThrow();
    await queries
      .updateTable('wrapped_key')
      .set({ wrapped: row.wrapped })
      .where('id', '=', one?.id ?? '')
      .execute();
  });
  await closeVault(vault);
  const again = await openTestVault(place);
  await expect(read(again)).rejects.toThrow();
});

import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { isStoreAway, StoreBreaker } from './store-breaker.ts';
import { storeLimits } from './store-limits.ts';

const away = () => Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
const wrong = () => Promise.reject(Object.assign(new Error('no such table'), { code: '42P01' }));
const unavailable = expect.objectContaining({ code: 'unavailable' });

const reading = { timeoutMs: 1_000, isChange: false };

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

test('a store that is away is not asked again until a single probe has succeeded', async () => {
  const breaker = new StoreBreaker();
  const changes: boolean[] = [];
  breaker.onChange((isAvailable) => changes.push(isAvailable));
  let asked = 0;
  let isAway = true;
  const ask = () =>
    breaker.run(() => {
      asked += 1;
      return isAway ? away() : Promise.resolve('answer');
    }, reading);
  for (let index = 0; index < storeLimits.failuresToOpen; index += 1) {
    await expect(ask()).rejects.toEqual(unavailable);
  }
  expect(breaker.isAvailable).toBe(false);
  const before = asked;
  await Promise.all(Array.from({ length: 50 }, () => expect(ask()).rejects.toEqual(unavailable)));
  expect(asked).toBe(before);
  isAway = false;
  await expect.poll(() => ask().catch(() => 'refused'), { timeout: 9_000 }).toBe('answer');
  expect(breaker.isAvailable).toBe(true);
  expect(changes).toEqual([false, true]);
});

test('what a store says about a query is no failure of the store', async () => {
  const breaker = new StoreBreaker();
  for (let index = 0; index < 20; index += 1) {
    await expect(breaker.run(wrong, reading)).rejects.toThrow('no such table');
  }
  expect(breaker.isAvailable).toBe(true);
  expect(await breaker.run(async () => 1, reading)).toBe(1);
});

test('a store that does not answer is given up in time, and its late answer changes nothing', async () => {
  const breaker = new StoreBreaker();
  const startedAtMs = performance.now();
  const never = () => new Promise<never>(() => undefined);
  const soon = { timeoutMs: 20, isChange: false };
  for (let index = 0; index < storeLimits.failuresToOpen; index += 1) {
    await expect(breaker.run(never, { ...soon, isChange: true })).rejects.toEqual(unavailable);
  }
  // Changes may have waited for another change.
  expect(breaker.isAvailable).toBe(true);
  for (let index = 0; index < storeLimits.failuresToOpen; index += 1) {
    await expect(breaker.run(never, soon)).rejects.toEqual(unavailable);
  }
  expect(breaker.isAvailable).toBe(false);
  expect(performance.now() - startedAtMs).toBeLessThan(3_000);
});

test('bulk work that takes too long is ended and waited for: what is said of it is true', async () => {
  const breaker = new StoreBreaker();
  const bulk = { timeoutMs: 20, isChange: true, isAwaited: true };
  let hasEnded = false;
  const ended = breaker.run(async (signal) => {
    while (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 50));
    hasEnded = true;
    signal.throwIfAborted();
  }, bulk);
  await expect(ended).rejects.toEqual(unavailable);
  expect(hasEnded).toBe(true);
  // It was committing already.
  const committed = breaker.run(async (signal) => {
    while (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, 5));
    return 'written';
  }, bulk);
  expect(await committed).toBe('written');
  expect(breaker.isAvailable).toBe(true);
});

test.each([
  ['postgresql', 'postgres://u:p@127.0.0.1:PORT/x'],
  ['mysql', 'mysql://u:p@127.0.0.1:PORT/x'],
] as const)(
  '%s: what its driver says of a refused and of a cut connection is an absence',
  async (kind, url) => {
    const { openSql } = await import('@keystead/vault-store/sql/sql-store');
    const errorAt = async (port: number) => {
      const store = await openSql<{ t: { a: number } }>({
        kind,
        connectionString: url.replace('PORT', String(port)),
        connectionsMax: 1,
        connectTimeoutMs: 500,
      });
      try {
        await store.db.selectFrom('t').selectAll().execute();
        return undefined;
      } catch (error) {
        return error;
      } finally {
        await store.close().catch(() => undefined);
      }
    };
    const listen = async (accept: (socket: Socket) => void) => {
      const server = createServer(accept);
      servers.push(server);
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      return (server.address() as { port: number }).port;
    };
    const sockets: Socket[] = [];
    const cutting = await listen((socket) => socket.destroy());
    const silent = await listen((socket) => void sockets.push(socket));
    const closed = await listen(() => undefined);
    const closing = servers.pop();
    await new Promise((resolve) => closing?.close(resolve));
    for (const [what, port] of [
      ['refused', closed],
      ['cut', cutting],
      ['silent', silent],
    ] as const) {
      const error = await errorAt(port);
      expect(isStoreAway(error), `${what}: ${error}`).toBe(true);
    }
    for (const socket of sockets) socket.destroy();
  },
);

test('SQLite: a file that cannot be opened or read is an absence, a wrong statement is not', async () => {
  const { DatabaseSync } = await import('node:sqlite');
  const errorOf = (work: () => unknown) => {
    try {
      work();
      return undefined;
    } catch (error) {
      return error;
    }
  };
  const cannotOpen = errorOf(() => new DatabaseSync('/nowhere/at/all.db'));
  expect(isStoreAway(cannotOpen)).toBe(true);
  const database = new DatabaseSync(':memory:');
  expect(isStoreAway(errorOf(() => database.exec('select nonsense')))).toBe(false);
  database.exec('create table t (a primary key); insert into t values (1)');
  expect(isStoreAway(errorOf(() => database.exec('insert into t values (1)')))).toBe(false);
  database.close();
});

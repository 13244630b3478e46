import { connect, createServer, type Server, type Socket } from 'node:net';
import type { ErrorCode } from '@keystead/contracts/errors';
import { createSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { afterEach, describe, expect, test } from 'vitest';
import {
  closeVaults,
  openTestVault,
  placeOn,
  plainNamespace,
  plainSecret,
  testCaller,
} from './vault.fixture.ts';

const caller = testCaller();
const refused = (code: ErrorCode) => expect.objectContaining({ code });

/** Stands between a vault and its database; when it is cut, the database is away. */
class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(host: string, port: number) {
    this.#server = createServer((near) => {
      if (this.#isCut) return near.destroy();
      const far = connect(port, host);
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => {
          this.#sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.pipe(far).pipe(near);
      return undefined;
    });
  }

  static async to(url: URL): Promise<{ wire: Wire; url: string }> {
    const wire = new Wire(url.hostname, Number(url.port));
    await new Promise<void>((resolve) => wire.#server.listen(0, '127.0.0.1', resolve));
    const near = new URL(url.href);
    near.hostname = '127.0.0.1';
    near.port = String((wire.#server.address() as { port: number }).port);
    return { wire, url: near.href };
  }

  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend(): void {
    this.#isCut = false;
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

const wires: Wire[] = [];
afterEach(async () => {
  await closeVaults();
  for (const wire of wires.splice(0)) wire.close();
});

/** The other driver's words for an absence are told apart without a server, in `store-breaker.test.ts`. */
const kinds =
  process.env.KEYSTEAD_PROVE === 'full'
    ? (['postgresql', 'mysql'] as const)
    : (['postgresql'] as const);

describe.each(kinds)('on %s', (kind) => {
  test('while the store is away what was read is answered for its time, and all comes back by itself', async () => {
    await using database = await createSqlDatabase(kind);
    const { options } = database;
    if (options.kind === 'sqlite') throw new Error('a server was asked for');
    const { wire, url } = await Wire.to(new URL(options.connectionString));
    wires.push(wire);
    const vault = await openTestVault(placeOn({ ...options, connectionString: url }), {
      answerFromCacheMs: 12_000,
    });
    await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
    for (const name of ['known', 'unread']) {
      await vault.secrets.create(caller, 'app', { ...plainSecret, name, value: name });
    }
    const read = async (name: string) => (await vault.secrets.readValue(caller, 'app', name)).value;
    expect(await read('known')).toBe('known');
    await vault.accesses.flush();

    wire.cut();
    await expect.poll(() => vault.store.breaker.isAvailable, { timeout: 10_000 }).toBe(false);
    // Beyond the second in which the cache is trusted anyway.
    await expect.poll(() => vault.directory.isTrusted, { timeout: 5_000 }).toBe(false);
    expect(await read('known')).toBe('known');
    const startedAtMs = performance.now();
    await expect(read('unread')).rejects.toEqual(refused('unavailable'));
    await expect(vault.secrets.update(caller, 'app', 'known', { value: 'x' })).rejects.toEqual(
      refused('unavailable'),
    );
    expect(performance.now() - startedAtMs).toBeLessThan(3_000);
    await expect
      .poll(() => read('known').catch(({ code }) => code), { timeout: 20_000 })
      .toBe('unavailable');
    expect(vault.directory.behindMs).toBeGreaterThan(12_000);

    wire.mend();
    await expect
      .poll(() => read('unread').catch(({ code }) => code), { timeout: 20_000 })
      .toBe('unread');
    expect(vault.store.breaker.isAvailable).toBe(true);
    expect(await read('known')).toBe('known');
    // What was read meanwhile was counted.
    await vault.accesses.flush();
    const { accessCount } = await vault.secrets.get('app', 'known');
    expect(accessCount).toBeGreaterThanOrEqual(3);
  }, 60_000);
});

import { randomBytes } from 'node:crypto';
import { Database } from '@keystead/database/database';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { quiet } from '../registry.fixture.ts';
import { AuthorityKeeper } from './authority-keeper.ts';

const dayMs = 86_400_000;
let urls: TestDatabase;
let databases: Database[];
let nowMs: number;
const sealingKey = randomBytes(32);
const keepers: AuthorityKeeper[] = [];

beforeEach(async () => {
  urls = await createTestDatabase();
  databases = [];
  nowMs = Date.now();
});
afterEach(async () => {
  for (const keeper of keepers.splice(0)) keeper.onApplicationShutdown();
  await Promise.all(databases.map((database) => database.close()));
  await urls.drop();
});

/** A replica: a pool and memory of its own. */
async function replica(key = sealingKey, log = quiet): Promise<AuthorityKeeper> {
  const database = new Database({
    serviceUrl: urls.serviceUrl,
    acrossUrl: urls.acrossUrl,
    poolSize: 2,
  });
  databases.push(database);
  const keeper = await AuthorityKeeper.open(
    database,
    {
      sealingKey: key,
      trustDomain: 'keystead.test',
      surroundings: { nowMs: () => nowMs, random: randomBytes },
    },
    log,
  );
  keepers.push(keeper);
  return keeper;
}

const rows = () =>
  (databases[0] as Database).acrossTenants('certificate-authority', (transaction) =>
    transaction.certificateAuthority.findMany({ orderBy: { generation: 'asc' } }),
  );

const setRootKey = (sealedKey: Uint8Array<ArrayBuffer> | null) =>
  (databases[0] as Database).acrossTenants('certificate-authority', (transaction) =>
    transaction.certificateAuthority.update({ where: { generation: 1 }, data: { sealedKey } }),
  );

describe('the authority of an installation', () => {
  it('is one, however many replicas start at once for the first time', async () => {
    const replicas = await Promise.all(Array.from({ length: 6 }, () => replica()));
    expect(new Set(replicas.map((keeper) => keeper.current().fingerprint)).size).toBe(1);
    expect(new Set(replicas.map((keeper) => keeper.current().intermediate)).size).toBe(1);
    expect((await rows()).map(({ kind }) => kind)).toEqual(['root', 'intermediate']);
  });

  it('has no private key in the database that opens without the sealing key', async () => {
    await replica();
    for (const { sealedKey } of await rows()) {
      const stored = Buffer.from(sealedKey ?? []);
      expect(stored.length).toBeGreaterThan(100);
      expect(stored.includes(Buffer.from('PRIVATE KEY'))).toBe(false);
      // The object identifier of P-256 stands in every PKCS #8 file of such a key.
      expect(stored.includes(Buffer.from('06082a8648ce3d030107', 'hex'))).toBe(false);
    }
    await expect(replica(randomBytes(32))).rejects.toThrow('KEYSTEAD_CA_KEY is not the key');
  });

  it('rotates the intermediate before its end, under the same root, once for all replicas', async () => {
    const [one, two] = await Promise.all([replica(), replica()]);
    const before = one.current();
    nowMs += 650 * dayMs;
    await Promise.all([one.refresh(), two.refresh()]);
    expect(one.current().fingerprint).toBe(before.fingerprint);
    expect(one.current().intermediate).not.toBe(before.intermediate);
    expect(two.current().intermediate).toBe(one.current().intermediate);
    expect((await rows()).map(({ kind }) => kind)).toEqual([
      'root',
      'intermediate',
      'intermediate',
    ]);
  });

  it('lives without the key of the root, and asks for it when it is needed', async () => {
    const warnings: unknown[] = [];
    const keeper = await replica(sealingKey, { ...quiet, warn: () => warnings.push(1) });
    const [root] = await rows();
    const kept = new Uint8Array(root?.sealedKey ?? []);
    await setRootKey(null);
    const { intermediate } = keeper.current();
    await keeper.refresh();
    expect(keeper.current().intermediate).toBe(intermediate);
    expect(warnings).toHaveLength(0);
    nowMs += 650 * dayMs;
    await keeper.refresh();
    expect(keeper.current().intermediate).toBe(intermediate);
    expect(warnings).toHaveLength(1);
    await setRootKey(kept);
    await keeper.refresh();
    expect(keeper.current().intermediate).not.toBe(intermediate);
  });
});

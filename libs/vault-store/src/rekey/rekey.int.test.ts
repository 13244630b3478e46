import { randomBytes } from 'node:crypto';
import { sqlKinds } from '@keystead/test-control-plane/sql-database';
import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import type { Encryptor } from '../encryptor.ts';
import { vaultLimits } from '../limits.ts';
import { decodeDerivation } from '../record-format.ts';
import { recordQuery } from '../record-query.ts';
import type { VaultSchema } from '../schema.ts';
import type { SqlStore } from '../sql/sql-store.ts';
import { cheapCost, createTestVault, passwords, type TestVault } from '../vault.fixture.ts';
import { openVault, type Vault } from '../vault.ts';
import { CorruptRecord, InvalidPassword } from '../vault-error.ts';

const { one, two, three } = passwords;

async function fill(vault: Vault, count: number, passwordOf: (index: number) => string) {
  const tokens: string[] = [];
  for (let at = 0; at < count; at += 100) {
    const size = Math.min(100, count - at);
    tokens.push(
      ...(await Promise.all(
        Array.from({ length: size }, (_, index) =>
          vault.tokens.create(`value ${at + index}`, { password: passwordOf(at + index) }),
        ),
      )),
    );
  }
  return tokens;
}

/** Under which of the passwords the records open; throws for one that opens under none. */
async function census(vault: Vault, ofPasswords: readonly string[]) {
  const counts = new Map<string, number>();
  for await (const record of vault.records.walk(recordQuery().limit(1_000))) {
    const opens: string[] = [];
    for (const password of ofPasswords) {
      const isOpen = await vault.records.open(record, password).then(
        () => true,
        (error) => {
          if (error instanceof InvalidPassword) return false;
          throw error;
        },
      );
      if (isOpen) opens.push(password);
    }
    if (opens.length !== 1) throw new Error(`${record.id} opens under ${opens.length} passwords`);
    const [password] = opens as [string];
    counts.set(password, (counts.get(password) ?? 0) + 1);
  }
  return counts;
}

/** A store whose transactions are watched, or hindered, between their work and their commit. */
function watched(
  store: SqlStore<VaultSchema>,
  between: (write: number) => Promise<void>,
): SqlStore<VaultSchema> {
  let writes = 0;
  return {
    kind: store.kind,
    db: store.db,
    bulk: store.bulk,
    sqlite: store.sqlite,
    snapshot: store.snapshot,
    close: store.close,
    write: async (work, options) => {
      writes += 1;
      await between(writes);
      return store.write(work, options);
    },
  };
}

describe.each(sqlKinds)('on %s', (kind) => {
  test('every record of the old password gets the new one, and no other changes', async () => {
    await using made = await createTestVault(kind);
    const { vault, clock } = made;
    const tokens = await fill(vault, 300, (index) => (index % 3 === 0 ? one : two));
    const before = await vault.records.list(recordQuery().limit(1_000));
    clock.nowMs += 60_000;
    const seen: number[] = [];
    const result = await vault.rekey({
      oldPassword: one,
      newPassword: three,
      onProgress: ({ examined, total }) => {
        expect(total).toBe(300);
        seen.push(examined);
      },
    });
    expect(result).toMatchObject({
      outcome: 'finished',
      examined: 300,
      total: 300,
      matched: 100,
      otherPassword: 200,
      corrupt: 0,
      changedMeanwhile: 0,
      resumed: false,
    });
    expect(seen.at(-1)).toBe(300);
    for (const [index, token] of tokens.entries()) {
      const password = index % 3 === 0 ? three : two;
      expect(await vault.tokens.read(token, password)).toBe(`value ${index}`);
    }
    // Nothing but the values: no time tells which records they were.
    const after = await vault.records.list(recordQuery().limit(1_000));
    const rest = ({ sealedValue: _, ...record }: (typeof after.records)[number]) => record;
    expect(after.records.map(rest)).toEqual(before.records.map(rest));
    // And a second run finds none.
    expect(await vault.rekey({ oldPassword: one, newPassword: three })).toMatchObject({
      matched: 0,
      otherPassword: 300,
    });
  });

  test('few records among many of another password get the new one', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    const tokens = await fill(vault, 60, (index) => (index % 20 === 7 ? one : two));
    expect(await vault.rekey({ oldPassword: one, newPassword: three })).toMatchObject({
      matched: 3,
      otherPassword: 57,
      changedMeanwhile: 0,
    });
    for (const [index, token] of tokens.entries()) {
      const password = index % 20 === 7 ? three : two;
      expect(await vault.tokens.read(token, password)).toBe(`value ${index}`);
    }
  });

  test('a corrupt record is reported as corrupt, not as one of another password', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    const store = await made.openStore();
    for (let index = 10; index < 40; index += 1) {
      const password = index % 2 === 0 ? one : two;
      await vault.records.create({ id: `record-${index}`, value: `value ${index}`, password });
    }
    const { records } = await vault.records.list();
    const damaged = [records[3], records[4], records[8]].map((record) => record?.id as string);
    for (const [place, id] of damaged.entries()) {
      const record = records.find((each) => each.id === id);
      const value = Buffer.from(record?.sealedValue as Uint8Array);
      // Its salt, its commitment, its value: none of them looks like another password.
      const at = [30, 60, 110][place] as number;
      value[at] = (value[at] as number) ^ 0x10;
      await store.write((queries) =>
        queries.updateTable('vault').set({ value }).where('id', '=', id).execute(),
      );
    }
    const result = await vault.rekey({ oldPassword: one, newPassword: three });
    expect(result.corruptIds).toEqual(damaged);
    expect(result).toMatchObject({ corrupt: 3, matched: 13, otherPassword: 14 });
    for (const id of damaged) {
      const record = records.find((each) => each.id === id);
      await expect(vault.tokens.read(record?.token as string, two)).rejects.toMatchObject({
        code: 'corrupt_record',
        recordId: id,
      });
    }
  });

  test('pages by key: none is skipped and none done twice, whatever their size', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    // Large values make short pages: many pages, of bounded size.
    const large = randomBytes(vaultLimits.maxValueBytes / 2);
    for (let index = 0; index < 9; index += 1) {
      await vault.tokens.create(large, { password: one });
      await fill(vault, 20, () => one);
    }
    let pages = 0;
    const result = await vault.rekey({
      oldPassword: one,
      newPassword: two,
      onProgress: () => {
        pages += 1;
      },
    });
    expect(result).toMatchObject({ matched: 189, otherPassword: 0 });
    expect(pages).toBeGreaterThanOrEqual(3);
    expect(await census(vault, [one, two])).toEqual(new Map([[two, 189]]));
  });

  test('what is soft-deleted or expired is rekeyed too', async () => {
    await using made = await createTestVault(kind);
    const { vault, clock } = made;
    const [deleted, expired] = await fill(vault, 2, () => one);
    await vault.tokens.softDelete(deleted as string);
    await vault.tokens.renew(expired as string, clock.nowMs - 1);
    expect(await vault.rekey({ oldPassword: one, newPassword: two })).toMatchObject({ matched: 2 });
    await vault.tokens.restore(deleted as string);
    expect(await vault.tokens.read(deleted as string, two)).toBe('value 0');
  });

  test('an aborted run tells what it did, and the next one finishes the rest', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    await fill(vault, 400, (index) => (index % 2 === 0 ? one : two));
    const abort = new AbortController();
    const first = await vault.rekey({
      oldPassword: one,
      newPassword: three,
      // Something to abort between.
      batchRecords: 16,
      signal: abort.signal,
      onProgress: ({ examined }) => {
        if (examined >= 96) abort.abort();
      },
    });
    expect(first.outcome).toBe('aborted');
    // Records come in the order of their creation, which hundred at once make among themselves.
    expect(first.matched).toBeGreaterThan(0);
    expect(first.examined).toBeGreaterThanOrEqual(96);
    expect(first.matched + first.otherPassword).toBe(first.examined);
    expect(first.matched).toBeLessThan(200);
    const between = await census(vault, [one, two, three]);
    expect(between.get(three)).toBe(first.matched);
    const second = await vault.rekey({ oldPassword: one, newPassword: three });
    expect(second).toMatchObject({
      outcome: 'finished',
      resumed: true,
      matched: 200,
      otherPassword: 200,
      examined: 400,
    });
    expect(await census(vault, [one, two, three])).toEqual(
      new Map([
        [three, 200],
        [two, 200],
      ]),
    );
    expect(await openJournals(made)).toBe(0);
  });

  test('a run whose time is over says so', async () => {
    await using made = await createTestVault(kind);
    await fill(made.vault, 20, () => one);
    const result = await made.vault.rekey({ oldPassword: one, newPassword: two, timeoutMs: 0 });
    expect(result).toMatchObject({ outcome: 'timed_out', matched: 0 });
    const byItself = await made.vault.rekey({
      oldPassword: one,
      newPassword: two,
      signal: AbortSignal.timeout(0),
    });
    expect(['timed_out', 'finished']).toContain(byItself.outcome);
  });

  test('a dry run counts and estimates, and writes nothing', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    await fill(vault, 120, (index) => (index % 4 === 0 ? one : two));
    const before = await vault.records.list(recordQuery().limit(1_000));
    const result = await vault.rekey({ oldPassword: one, newPassword: three, dryRun: true });
    expect(result).toMatchObject({ outcome: 'finished', matched: 30, otherPassword: 90 });
    expect(result.estimatedMs).toBeGreaterThan(0);
    const after = await vault.records.list(recordQuery().limit(1_000));
    expect(after.records.map(({ sealedValue }) => Buffer.from(sealedValue))).toEqual(
      before.records.map(({ sealedValue }) => Buffer.from(sealedValue)),
    );
    expect(await openJournals(made)).toBe(0);
  });

  test('writers during a rekey lose nothing', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    const tokens = await fill(vault, 600, () => one);
    const store = await made.openStore();
    const expected = new Map(tokens.map((token, index) => [token, `value ${index}`]));
    let turn = 0;
    // At every write of the rekey somebody changes records ahead of it, behind it and within its page.
    const hindered = await openVault({
      sql: watched(store, async (write) => {
        if (write < 2) return;
        for (let change = 0; change < 4; change += 1) {
          turn += 1;
          const token = tokens[(turn * 37) % tokens.length] as string;
          if (!expected.has(token)) continue;
          const value = `changed ${turn}`;
          if (turn % 5 === 0) {
            await vault.tokens.delete(token);
            expected.delete(token);
            continue;
          }
          for (const password of [one, two]) {
            const isDone = await vault.tokens.update(token, value, password).then(
              () => true,
              (error) => {
                if (error instanceof InvalidPassword) return false;
                throw error;
              },
            );
            if (isDone) expected.set(token, value);
          }
        }
        const fresh = await vault.tokens.create(`new ${turn}`, { password: one });
        expected.set(fresh, `new ${turn}`);
      }),
      migrate: false,
      saltScope: 'vault',
    });
    const result = await hindered.rekey({
      oldPassword: one,
      newPassword: two,
      batchRecords: 50,
    });
    expect(result.outcome).toBe('finished');
    expect(turn).toBeGreaterThan(4);
    // Each has its last value, under exactly one password; only what came at the very end is old.
    const counts = await census(vault, [one, two]);
    expect((counts.get(one) ?? 0) + (counts.get(two) ?? 0)).toBe(expected.size);
    const again = await vault.rekey({ oldPassword: one, newPassword: two });
    expect(again.matched).toBe(counts.get(one) ?? 0);
    for (const [token, value] of expected) expect(await vault.tokens.read(token, two)).toBe(value);
    await store.close();
  });

  test('a run that was taken over stops before it writes, and the other finishes', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    await fill(vault, 200, () => one);
    const store = await made.openStore();
    let other: Promise<unknown> | undefined;
    const slow = await openVault({
      migrate: false,
      sql: watched(store, async (write) => {
        // Its journal is open: now another process begins the same.
        if (write === 2) {
          other = vault.rekey({ oldPassword: one, newPassword: two });
          await other;
        }
      }),
    });
    await expect(slow.rekey({ oldPassword: one, newPassword: two })).rejects.toMatchObject({
      code: 'rekey_taken_over',
    });
    expect(await other).toMatchObject({ outcome: 'finished', resumed: true, matched: 200 });
    expect(await census(vault, [one, two])).toEqual(new Map([[two, 200]]));
    await store.close();
  });

  test('a failing database ends a run with its partial counts', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    await fill(vault, 100, () => one);
    const store = await made.openStore();
    const failing = await openVault({
      migrate: false,
      sql: watched(store, async (write) => {
        if (write === 2) throw new Error('the disk is full');
      }),
    });
    await expect(failing.rekey({ oldPassword: one, newPassword: two })).rejects.toMatchObject({
      code: 'rekey_failed',
      partial: { matched: 0, total: 100 },
      cause: expect.objectContaining({ message: 'the disk is full' }),
    });
    expect(await vault.rekey({ oldPassword: one, newPassword: two })).toMatchObject({
      resumed: true,
      matched: 100,
    });
    await store.close();
  });

  test('records stay readable when the cost of new ones changes, and an upgrade brings them', async () => {
    await using made = await createTestVault(kind);
    const { vault } = made;
    const tokens = await fill(vault, 40, (index) => (index % 2 === 0 ? one : two));
    const dearer = { ...cheapCost, passes: 2 };
    const later = await made.openAgain({ passwordCost: dearer });
    for (const [index, token] of tokens.entries()) {
      expect(await later.tokens.read(token, index % 2 === 0 ? one : two)).toBe(`value ${index}`);
    }
    const fresh = await later.tokens.create('fresh', { password: one });
    const result = await later.upgrade({ password: one });
    expect(result).toMatchObject({ matched: 20, otherPassword: 20, alreadyCurrent: 1 });
    const passesOf = async (token: string) => {
      const record = await later.records.findByToken(token);
      return decodeDerivation(record?.sealedValue as Uint8Array).parameters.passes;
    };
    expect(await passesOf(tokens[0] as string)).toBe(2);
    expect(await passesOf(tokens[1] as string)).toBe(1);
    expect(await passesOf(fresh)).toBe(2);
    expect(await later.tokens.read(tokens[0] as string, one)).toBe('value 0');
    expect(await later.upgrade({ password: one })).toMatchObject({
      matched: 0,
      alreadyCurrent: 21,
    });
    // A rekey leaves the parameters as they are: it shows nothing of which records it changed.
    await later.rekey({ oldPassword: two, newPassword: three });
    expect(await passesOf(tokens[1] as string)).toBe(1);
    expect(await later.tokens.read(tokens[1] as string, three)).toBe('value 1');
  });

  test('a salt of its own for each record makes each guess cost one Argon2id a record', async () => {
    await using made = await createTestVault(kind, { saltScope: 'record' });
    const { vault } = made;
    const tokens = await fill(vault, 12, () => one);
    const salts = async () => {
      const { records } = await vault.records.list();
      return records.map(({ sealedValue }) =>
        Buffer.from(decodeDerivation(sealedValue).parameters.salt).toString('hex'),
      );
    };
    const before = await salts();
    expect(new Set(before).size).toBe(12);
    expect(await vault.rekey({ oldPassword: one, newPassword: two })).toMatchObject({
      matched: 12,
    });
    expect(new Set([...before, ...(await salts())]).size).toBe(24);
    expect(await vault.tokens.read(tokens[5] as string, two)).toBe('value 5');
    // And back to the salt of the vault, in the same vault.
    const shared = await made.openAgain({ saltScope: 'vault' });
    expect(await shared.upgrade({ password: two })).toMatchObject({ matched: 12 });
    expect(new Set(await salts()).size).toBe(1);
  });
});

test('threads rekey as this thread does', async () => {
  await using made = await createTestVault('sqlite');
  const { vault } = made;
  const tokens = await fill(vault, 2_500, (index) => (index % 3 === 0 ? one : two));
  const result = await vault.rekey({ oldPassword: one, newPassword: three, workers: 2 });
  expect(result).toMatchObject({ matched: 834, otherPassword: 1_666 });
  expect(await vault.tokens.read(tokens[0] as string, three)).toBe('value 0');
  expect(await census(vault, [one, two, three])).toEqual(
    new Map([
      [three, 834],
      [two, 1_666],
    ]),
  );
});

test('a password is derived once for the salt of the vault, not once a record', async () => {
  await using made = await createTestVault('sqlite', {
    passwordCost: { memoryKib: 64 * 1024, passes: 3, parallelism: 1 },
  });
  const { vault } = made;
  await fill(vault, 1_000, () => one);
  vault.forgetPasswords();
  const result = await vault.rekey({ oldPassword: one, newPassword: two });
  expect(result.matched).toBe(1_000);
  // One a record at this cost would take minutes.
  expect(result.elapsedMs).toBeLessThan(15_000);
});

test('a password shorter than today’s rule reads and is rekeyed; it cannot be set', async () => {
  await using made = await createTestVault('sqlite', { validators: { password: () => undefined } });
  const token = await made.vault.tokens.create('v', { password: 'short' });
  const today = await openVault({ sql: await made.openStore(), migrate: false });
  expect(await today.tokens.read(token, 'short')).toBe('v');
  await expect(today.tokens.create('w', { password: 'short' })).rejects.toMatchObject({
    code: 'password_refused',
  });
  await expect(today.rekey({ oldPassword: 'short', newPassword: 'tiny' })).rejects.toMatchObject({
    code: 'password_refused',
  });
  expect(await today.rekey({ oldPassword: 'short', newPassword: one })).toMatchObject({
    matched: 1,
  });
  expect(await today.tokens.read(token, one)).toBe('v');
});

test('no password may be empty, and the new one differs', async () => {
  await using made = await createTestVault('sqlite');
  const { vault } = made;
  const code = (name: string) => expect.objectContaining({ code: name });
  await expect(vault.rekey({ oldPassword: '', newPassword: one })).rejects.toEqual(
    code('password_required'),
  );
  await expect(vault.rekey({ oldPassword: one, newPassword: '' })).rejects.toEqual(
    code('password_required'),
  );
  await expect(vault.rekey({ oldPassword: one, newPassword: one })).rejects.toEqual(
    code('password_unchanged'),
  );
  await expect(vault.upgrade({ password: '' })).rejects.toEqual(code('password_required'));
});

test('an encryptor of one’s own is used everywhere, a rekey included', async () => {
  /** No encryption at all, but a random start and its password, as plain as can be. */
  const transparent: Encryptor = {
    encrypt: async (value, password, { id }) =>
      Buffer.concat([
        randomBytes(8),
        Buffer.from(JSON.stringify([id, password, Buffer.from(value).toString('hex')])),
      ]),
    decrypt: async (stored, password, { id }) => {
      const [storedId, storedPassword, value] = JSON.parse(
        Buffer.from(stored).subarray(8).toString(),
      );
      if (storedId !== id) throw new CorruptRecord(id);
      if (storedPassword !== password) throw new InvalidPassword();
      return Buffer.from(value, 'hex');
    },
  };
  await using made = await createTestVault('sqlite', { encryptor: transparent });
  const { vault } = made;
  const tokens = await fill(vault, 80, (index) => (index % 2 === 0 ? one : two));
  expect(await vault.tokens.read(tokens[1] as string, two)).toBe('value 1');
  expect(await vault.rekey({ oldPassword: one, newPassword: three })).toMatchObject({
    matched: 40,
    otherPassword: 40,
  });
  expect(await vault.tokens.read(tokens[0] as string, three)).toBe('value 0');
});

test('a journal of other passwords is left alone, and there are never many', async () => {
  await using made = await createTestVault('sqlite');
  const { vault } = made;
  await fill(vault, 40, () => one);
  const store = await made.openStore();
  for (let run = 0; run < vaultLimits.maxOpenJournals + 4; run += 1) {
    const failing = await openVault({
      migrate: false,
      sql: watched(store, async (write) => {
        if (write === 2) throw new Error('away');
      }),
    });
    await failing
      .rekey({ oldPassword: one, newPassword: `another password ${run}` })
      .catch(() => undefined);
  }
  expect(await openJournals(made)).toBeLessThanOrEqual(vaultLimits.maxOpenJournals);
  expect(await vault.rekey({ oldPassword: one, newPassword: three })).toMatchObject({
    resumed: false,
    matched: 40,
  });
  await store.close();
});

async function openJournals(made: TestVault): Promise<number> {
  const store = await made.openStore();
  const { rows } = await sql<{ count: number }>`select count(*) as count from vault_rekey`.execute(
    store.db,
  );
  await store.close();
  return Number(rows[0]?.count);
}

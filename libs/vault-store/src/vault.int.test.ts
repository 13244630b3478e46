import { sqlKinds } from '@keystead/test-control-plane/sql-database';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { vaultLimits } from './limits.ts';
import { recordQuery } from './record-query.ts';
import type { NewRecord } from './records.ts';
import { createTestVault, passwords, type TestVault } from './vault.fixture.ts';
import type { Vault } from './vault.ts';

const password = passwords.one;

describe.each(sqlKinds)('on %s', (kind) => {
  let made: TestVault;
  let vault: Vault;
  const clock = () => made.clock;

  beforeAll(async () => {
    made = await createTestVault(kind);
    vault = made.vault;
  });
  afterAll(() => made.close());
  beforeEach(async () => {
    for await (const { id } of vault.records.walk(recordQuery().withSoftDeleted().select('id'))) {
      await vault.records.delete({ id });
    }
  });

  describe('records', () => {
    test('are found by id and by token as they were created', async () => {
      const created = await vault.records.create({
        value: 'a value',
        password,
        data: { owner: 'billing', Größe: '"quoted" \\ \u0000 🗝' },
        expiresAtMs: clock().nowMs + 1_000,
      });
      expect(created).toMatchObject({
        id: expect.stringMatching(/^rec_/),
        token: expect.stringMatching(/^tok_/),
        createdAtMs: clock().nowMs,
        updatedAtMs: clock().nowMs,
        expiresAtMs: clock().nowMs + 1_000,
        softDeletedAtMs: null,
      });
      const plain = { ...created, sealedValue: Buffer.from(created.sealedValue) };
      for (const found of [
        await vault.records.findById(created.id),
        await vault.records.findByToken(created.token),
      ]) {
        expect(found && { ...found, sealedValue: Buffer.from(found.sealedValue) }).toEqual(plain);
      }
      expect(await vault.records.findById('rec_absent')).toBeUndefined();
      expect(await vault.records.findByToken(created.token.toUpperCase())).toBeUndefined();
      expect(Buffer.from(await vault.records.open(created, password)).toString()).toBe('a value');
    });

    test('hold bytes as they are, up to the limit', async () => {
      for (const bytes of [
        Buffer.from([0]),
        Buffer.from([0xff, 0xfe, 0, 1]),
        Buffer.alloc(vaultLimits.maxValueBytes, 7),
      ]) {
        const token = await vault.tokens.create(bytes, { password });
        expect(bytes.equals(await vault.tokens.readBytes(token, password))).toBe(true);
      }
      const token = await vault.tokens.create(Buffer.from([0xff]), { password });
      await expect(vault.tokens.read(token, password)).rejects.toMatchObject({
        code: 'value_is_not_text',
      });
    });

    test('are refused with an error that names what is wrong', async () => {
      const create = (record: Partial<NewRecord>) => () =>
        vault.records.create({ value: 'v', password, ...record });
      const refused: [() => Promise<unknown>, string][] = [
        [create({ token: '', value: 'v', password }), 'token_required'],
        [create({ token: 'with space', value: 'v', password }), 'invalid_token'],
        [create({ token: 'x'.repeat(256), value: 'v', password }), 'invalid_token'],
        [create({ token: 'tok_mistyped', value: 'v', password }), 'invalid_token'],
        [create({ value: '', password }), 'value_required'],
        [create({ value: '\ud800', password }), 'value_refused'],
        [create({ value: 'x'.repeat(vaultLimits.maxValueBytes + 1), password }), 'value_too_large'],
        [create({ value: 'v', password: '' }), 'password_required'],
        [create({ value: 'v', password: 'short' }), 'password_refused'],
        [create({ value: 'v', password: 'x'.repeat(5_000) }), 'password_too_long'],
        [create({ value: 'v', password, id: 'not an id' }), 'invalid_id'],
        [create({ value: 'v', password, expiresAtMs: 1.5 }), 'invalid_time'],
        [create({ value: 'v', password, data: { '': 'x' } }), 'invalid_data'],
        [create({ value: 'v', password, data: { a: 'x'.repeat(5_000) } }), 'invalid_data'],
        [() => vault.tokens.read('', password), 'token_required'],
        [() => vault.tokens.read('absent', password), 'record_not_found'],
        [() => vault.tokens.read('absent', ''), 'password_required'],
      ];
      for (const [attempt, code] of refused)
        await expect(attempt()).rejects.toMatchObject({ code });
      await expect(create({ password: 'short' })()).rejects.toThrow(
        'it needs at least 12 characters',
      );
      expect(await vault.records.count()).toBe(0);
    });

    test('share neither token nor id', async () => {
      await vault.records.create({ id: 'one', token: 'first', value: 'v', password });
      await expect(
        vault.records.create({ id: 'two', token: 'first', value: 'v', password }),
      ).rejects.toMatchObject({ code: 'token_already_exists' });
      await expect(
        vault.records.create({ id: 'one', token: 'second', value: 'v', password }),
      ).rejects.toMatchObject({ code: 'record_already_exists' });
      // Letters that differ in case are different letters.
      await vault.records.create({ id: 'ONE', token: 'FIRST', value: 'other', password });
      expect(await vault.tokens.read('first', password)).toBe('v');
      expect(await vault.tokens.read('FIRST', password)).toBe('other');
    });

    test('change only in what is given and differs', async () => {
      const created = await vault.records.create({ value: 'v', password, data: { a: '1' } });
      clock().nowMs += 10;
      const same = await vault.records.update(created, { data: { a: '1' }, expiresAtMs: null });
      expect(same.updatedAtMs).toBe(created.updatedAtMs);
      const changed = await vault.records.update(created, { data: { b: '2' } });
      expect(changed.updatedAtMs).toBe(clock().nowMs);
      expect(Buffer.from(changed.sealedValue).equals(created.sealedValue)).toBe(true);
      expect(await vault.records.findById(created.id)).toMatchObject({
        data: { b: '2' },
        createdAtMs: created.createdAtMs,
        updatedAtMs: clock().nowMs,
        token: created.token,
      });
      expect(await vault.records.count(recordQuery().withData('a', '1'))).toBe(0);
      expect(await vault.records.count(recordQuery().withData('b', '2'))).toBe(1);
      // The lower level: no question for the password that was.
      await vault.records.update(created, { value: 'w', password: passwords.two });
      expect(await vault.tokens.read(created.token, passwords.two)).toBe('w');
      await expect(vault.records.update({ id: 'absent' }, { data: {} })).rejects.toMatchObject({
        code: 'record_not_found',
      });
    });

    test('are soft-deleted, restored and deleted by record, id and token', async () => {
      for (const by of ['record', 'id', 'token'] as const) {
        const record = await vault.records.create({ value: 'v', password, data: { by } });
        const reference =
          by === 'record' ? record : by === 'id' ? { id: record.id } : { token: record.token };
        await expect(vault.records.restore(reference)).rejects.toMatchObject({
          code: 'record_not_found',
        });
        await vault.records.softDelete(reference);
        expect(await vault.records.find(reference)).toBeUndefined();
        expect(await vault.tokens.exists(record.token)).toBe(false);
        await expect(vault.tokens.read(record.token, password)).rejects.toMatchObject({
          code: 'record_not_found',
        });
        expect(await vault.records.find(reference, { withSoftDeleted: true })).toMatchObject({
          softDeletedAtMs: clock().nowMs,
        });
        await expect(vault.records.softDelete(reference)).rejects.toMatchObject({
          code: 'record_not_found',
        });
        await expect(vault.records.update(reference, { data: {} })).rejects.toMatchObject({
          code: 'record_not_found',
        });
        await vault.records.restore(reference);
        expect(await vault.tokens.read(record.token, password)).toBe('v');
        await vault.records.delete(reference);
        await expect(vault.records.delete(reference)).rejects.toMatchObject({
          code: 'record_not_found',
        });
        expect(await vault.records.count(recordQuery().withData('by', by).withSoftDeleted())).toBe(
          0,
        );
      }
    });
  });

  describe('queries', () => {
    const start = Date.UTC(2026, 5, 1);

    beforeEach(async () => {
      for (let index = 0; index < 25; index += 1) {
        // Five at each moment, so that order needs more than the time.
        clock().nowMs = start + Math.floor(index / 5) * 1_000;
        await vault.records.create({
          id: `record-${String(index).padStart(2, '0')}`,
          token: `token-${index}`,
          value: `value ${index}`,
          password,
          data: { parity: index % 2 === 0 ? 'even' : 'odd', third: String(index % 3) },
          expiresAtMs: index % 5 === 0 ? null : start + index * 1_000,
        });
      }
      clock().nowMs = start + 10_000;
      await vault.records.softDelete({ id: 'record-24' });
    });

    const ids = async (query = recordQuery()) =>
      (await vault.records.list(query)).records.map(({ id }) => Number(id.slice(-2)));

    test('find what they say', async () => {
      const all = Array.from({ length: 24 }, (_, index) => index);
      const query = recordQuery();
      expect(await ids(query)).toEqual(all);
      expect(await ids(query.withSoftDeleted())).toEqual([...all, 24]);
      expect(await ids(query.onlySoftDeleted())).toEqual([24]);
      expect(await ids(query.withId('record-03'))).toEqual([3]);
      expect(await ids(query.withIds(['record-05', 'record-03', 'absent']))).toEqual([3, 5]);
      expect(await ids(query.withIds([]))).toEqual([]);
      expect(await ids(query.withToken('token-7'))).toEqual([7]);
      expect(await ids(query.withTokens(['token-7', 'token-9']))).toEqual([7, 9]);
      expect(await ids(query.created({ fromMs: start + 1_000, beforeMs: start + 2_000 }))).toEqual([
        5, 6, 7, 8, 9,
      ]);
      expect(await ids(query.updated({ beforeMs: start + 1 }))).toEqual([0, 1, 2, 3, 4]);
      expect(await ids(query.expires({ fromMs: start + 21_000 }))).toEqual([21, 22, 23]);
      expect(await ids(query.expired())).toEqual(
        all.filter((index) => index % 5 !== 0 && index <= 10),
      );
      expect(await ids(query.notExpired())).toEqual(
        all.filter((index) => index % 5 === 0 || index > 10),
      );
      expect(await ids(query.withData('parity', 'even').withData('third', '0'))).toEqual([
        0, 6, 12, 18,
      ]);
      expect(await ids(query.withData('parity', 'Even'))).toEqual([]);
      expect(await vault.records.count(query.withData('parity', 'odd').limit(1))).toBe(12);
    });

    test('are immutable: refining one leaves it as it was', async () => {
      const query = recordQuery().withData('parity', 'even');
      const refined = query.withData('third', '0').limit(1).orderBy('createdAtMs', 'desc');
      expect(await vault.records.count(query)).toBe(12);
      expect(await vault.records.count(refined)).toBe(4);
      expect((await vault.records.list(query)).records).toHaveLength(12);
    });

    test('read the columns that they select and no others', async () => {
      const { records } = await vault.records.list(
        recordQuery().withId('record-03').select('token', 'expiresAtMs'),
      );
      expect(records).toEqual([{ token: 'token-3', expiresAtMs: start + 3_000 }]);
    });

    test.each(['id', 'createdAtMs', 'updatedAtMs', 'expiresAtMs'] as const)(
      'by %s give each record once, forwards and backwards, whatever the page',
      async (sort) => {
        for (const direction of ['asc', 'desc'] as const) {
          const ordered = recordQuery().orderBy(sort, direction).select('id', sort);
          const whole = (await vault.records.list(ordered)).records;
          const values = whole.map((record) => record[sort] ?? Number.MAX_SAFE_INTEGER);
          const sorted = [...values].sort((left, right) => (left < right ? -1 : 1));
          expect(values).toEqual(direction === 'asc' ? sorted : sorted.reverse());
          for (const size of [1, 4, 7]) {
            const walked: string[] = [];
            for await (const { id } of vault.records.walk(ordered.limit(size))) walked.push(id);
            expect(walked).toEqual(whole.map(({ id }) => id));
          }
        }
      },
    );

    test('go on behind a cursor though records came and went', async () => {
      const query = recordQuery().orderBy('createdAtMs').limit(10);
      const first = await vault.records.list(query);
      await vault.records.delete({ id: first.records[3]?.id ?? '' });
      await vault.records.create({ id: 'late', value: 'v', password });
      const second = await vault.records.list(query.after(first.next ?? ''));
      expect(second.records.map(({ id }) => Number(id.slice(-2)))).toEqual([
        10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
      ]);
    });

    test('skip by offset', async () => {
      expect(await ids(recordQuery().offset(20).limit(3))).toEqual([20, 21, 22]);
    });

    test('refuse a cursor of another query, and one made up', async () => {
      const query = recordQuery().limit(3);
      const { next } = await vault.records.list(query);
      for (const attempt of [
        recordQuery()
          .withSoftDeleted()
          .after(next ?? ''),
        query.orderBy('createdAtMs').after(next ?? ''),
        query.orderBy('id', 'desc').after(next ?? ''),
        query.after('nonsense'),
        query.after(Buffer.from('[1,2]').toString('base64url')),
        query.after('x'.repeat(5_000)),
      ]) {
        await expect(vault.records.list(attempt)).rejects.toMatchObject({ code: 'invalid_cursor' });
      }
      // Another size of the page and other columns are the same walk.
      await vault.records.list(
        query
          .limit(5)
          .select('id')
          .after(next ?? ''),
      );
    });

    test('refuse what would read without bounds', () => {
      const query = recordQuery();
      for (const attempt of [
        () => query.limit(0),
        () => query.limit(vaultLimits.maxPageRecords + 1),
        () => query.limit(1.5),
        () => query.offset(-1),
        () => query.withIds(Array(vaultLimits.maxNamedRecords + 1).fill('x')),
        () => query.created({ fromMs: Number.NaN }),
        () => query.select(),
      ]) {
        expect(attempt).toThrow(expect.objectContaining({ code: 'invalid_query' }));
      }
    });
  });

  describe('tokens', () => {
    test('are generated, checked and told apart from those made up', async () => {
      const token = await vault.tokens.create('v', { password });
      expect(await vault.tokens.exists(token)).toBe(true);
      expect(await vault.tokens.exists('absent')).toBe(false);
      await vault.tokens.createCustom('my-own/token.1', 'w', { password });
      expect(await vault.tokens.read('my-own/token.1', password)).toBe('w');
      await expect(
        vault.tokens.createCustom('my-own/token.1', 'x', { password }),
      ).rejects.toMatchObject({ code: 'token_already_exists' });
    });

    test('open with their password alone', async () => {
      const token = await vault.tokens.create('v', { password });
      await expect(vault.tokens.read(token, passwords.two)).rejects.toMatchObject({
        code: 'invalid_password',
      });
      await expect(vault.tokens.update(token, 'w', passwords.two)).rejects.toMatchObject({
        code: 'invalid_password',
      });
      await vault.tokens.update(token, 'w', password);
      expect(await vault.tokens.read(token, password)).toBe('w');
    });

    test('the same password typed on another keyboard is the same', async () => {
      const token = await vault.tokens.create('v', { password: 'ein Schlüssel für alle' });
      expect(await vault.tokens.read(token, 'ein Schlu\u0308ssel fu\u0308r alle')).toBe('v');
    });

    test('expire at their moment, and renewed ones live again', async () => {
      const token = await vault.tokens.create('v', {
        password,
        expiresAtMs: clock().nowMs + 1_000,
      });
      clock().nowMs += 999;
      expect(await vault.tokens.read(token, password)).toBe('v');
      clock().nowMs += 1;
      expect(await vault.tokens.exists(token)).toBe(false);
      await expect(vault.tokens.read(token, password)).rejects.toMatchObject({
        code: 'token_expired',
        expiredAtMs: clock().nowMs,
      });
      await expect(vault.tokens.update(token, 'w', password)).rejects.toMatchObject({
        code: 'token_expired',
      });
      await vault.tokens.renew(token, clock().nowMs + 5);
      expect(await vault.tokens.read(token, password)).toBe('v');
      await vault.tokens.renew(token, null);
      clock().nowMs += 1_000_000;
      expect(await vault.tokens.read(token, password)).toBe('v');
    });

    test('read many: in order, as a map, and what is not there is said', async () => {
      const make = (value: string | Uint8Array, more = {}) =>
        vault.tokens.create(value, { password, ...more });
      const [one, two, bytes] = [
        await make('one'),
        await make('two'),
        await make(Buffer.from([255])),
      ];
      const gone = await make('gone', { expiresAtMs: clock().nowMs });
      const others = await vault.tokens.create('others', { password: passwords.two });
      const deleted = await make('deleted');
      await vault.tokens.softDelete(deleted);
      const asked = [two, 'absent', one, two, '', gone, others, bytes, deleted, 'absent'];
      const many = await vault.tokens.readMany(asked, password);
      expect(many.readings.map(({ token }) => token)).toEqual(asked);
      expect(many.readings.map(({ status }) => status)).toEqual([
        'found',
        'missing',
        'found',
        'found',
        'missing',
        'expired',
        'invalid_password',
        'found',
        'missing',
        'missing',
      ]);
      expect([...many.values].sort()).toEqual(
        [
          [one, 'one'],
          [two, 'two'],
        ].sort(),
      );
      expect(many.missing).toEqual(['absent', '', deleted]);
      expect(many.expired).toEqual([gone]);
      expect(await vault.tokens.readMany([], password)).toMatchObject({ readings: [] });
      await expect(
        vault.tokens.readMany(
          Array.from({ length: vaultLimits.maxNamedRecords + 1 }, (_, index) => `t${index}`),
          password,
        ),
      ).rejects.toMatchObject({ code: 'invalid_query' });
    });

    test('upsert creates what is absent and updates what is there', async () => {
      const expiresAtMs = clock().nowMs + 1_000;
      expect(await vault.tokens.upsert('mine', 'one', { password, data: { a: '1' } })).toBe(
        'created',
      );
      expect(await vault.tokens.upsert('mine', 'two', { password, expiresAtMs })).toBe('updated');
      expect(await vault.tokens.read('mine', password)).toBe('two');
      expect(await vault.records.findByToken('mine')).toMatchObject({
        data: { a: '1' },
        expiresAtMs,
      });
      await expect(
        vault.tokens.upsert('mine', 'three', { password: passwords.two }),
      ).rejects.toMatchObject({ code: 'invalid_password' });
      await vault.tokens.softDelete('mine');
      await expect(vault.tokens.upsert('mine', 'three', { password })).rejects.toMatchObject({
        code: 'token_already_exists',
      });
    });

    test('of many upserts at once one creates, and the last written stays', async () => {
      const values = Array.from({ length: 12 }, (_, index) => `value ${index}`);
      const outcomes = await Promise.all(
        values.map((value) => vault.tokens.upsert('contested', value, { password })),
      );
      expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(1);
      expect(values).toContain(await vault.tokens.read('contested', password));
    });

    test('some get another password, and each is told what became of it', async () => {
      const mine = await vault.tokens.create('mine', { password });
      const others = await vault.tokens.create('others', { password: passwords.two });
      const changes = await vault.tokens.changePassword(
        [mine, others, 'absent', mine],
        password,
        passwords.three,
      );
      expect(changes).toEqual([
        { token: mine, status: 'found' },
        { token: others, status: 'invalid_password' },
        { token: 'absent', status: 'missing' },
      ]);
      expect(await vault.tokens.read(mine, passwords.three)).toBe('mine');
      expect(await vault.tokens.read(others, passwords.two)).toBe('others');
      await expect(vault.tokens.read(mine, password)).rejects.toMatchObject({
        code: 'invalid_password',
      });
    });

    test('expired ones are swept in batches: marked, or gone for good', async () => {
      for (let index = 0; index < 23; index += 1) {
        await vault.tokens.create(`v${index}`, {
          password,
          data: { index: String(index) },
          ...(index < 20 ? { expiresAtMs: clock().nowMs + index } : {}),
        });
      }
      clock().nowMs += 9;
      expect(await vault.tokens.sweepExpired({ mode: 'soft', batchRecords: 3 })).toEqual({
        swept: 10,
        outcome: 'finished',
      });
      expect(await vault.records.count()).toBe(13);
      expect(await vault.records.count(recordQuery().onlySoftDeleted())).toBe(10);
      expect(await vault.tokens.sweepExpired({ mode: 'soft' })).toMatchObject({ swept: 0 });
      expect(await vault.tokens.sweepExpired({ mode: 'hard', graceMs: 5 })).toMatchObject({
        swept: 5,
      });
      clock().nowMs += 1_000;
      expect(await vault.tokens.sweepExpired({ mode: 'hard', batchRecords: 4 })).toMatchObject({
        swept: 15,
      });
      expect(await vault.records.count(recordQuery().withSoftDeleted())).toBe(3);
      expect(
        await vault.records.count(recordQuery().withSoftDeleted().withData('index', '3')),
      ).toBe(0);
      expect(
        await vault.tokens.sweepExpired({ mode: 'hard', signal: AbortSignal.abort() }),
      ).toEqual({ swept: 0, outcome: 'aborted' });
    });
  });

  test('settings are kept, listed and forgotten', async () => {
    expect(await vault.settings.get('theme')).toBeUndefined();
    await vault.settings.set('theme', 'dark');
    await vault.settings.set('theme', 'hell 🌞');
    await Promise.all(['a', 'b', 'c', 'd'].map((value) => vault.settings.set('contested', value)));
    expect([...(await vault.settings.all()).keys()]).toEqual(['contested', 'theme']);
    expect(await vault.settings.get('theme')).toBe('hell 🌞');
    expect(await vault.settings.delete('theme')).toBe(true);
    expect(await vault.settings.delete('theme')).toBe(false);
    await expect(vault.settings.set('', 'v')).rejects.toMatchObject({ code: 'invalid_setting' });
    await vault.settings.delete('contested');
  });

  test('what one process writes another reads', async () => {
    const other = await made.openAgain();
    const token = await vault.tokens.create('v', { password });
    expect(await other.tokens.read(token, password)).toBe('v');
    await other.tokens.update(token, 'w', password);
    expect(await vault.tokens.read(token, password)).toBe('w');
  });

  test('changes at the same moment are all done, or say that they were not', async () => {
    const record = await vault.records.create({ value: 'v', password });
    const other = await made.openAgain();
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? vault : other).records.update(record, { data: { n: String(index) } }),
      ),
    );
    const { data } = (await vault.records.findById(record.id)) ?? { data: {} };
    const n = (data as Record<string, string>).n ?? '';
    expect(await vault.records.count(recordQuery().withData('n', n))).toBe(1);
    for (let index = 0; index < 20; index += 1) {
      if (String(index) === n) continue;
      expect(await vault.records.count(recordQuery().withData('n', String(index)))).toBe(0);
    }
  });
});

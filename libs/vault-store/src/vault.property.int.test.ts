/**
 * Random sequences of everything a vault does, beside a plain map in memory that does the same. Each
 * answer and, at the end, each record must agree. A failing sequence is printed with its seed.
 */
import { randomInt } from 'node:crypto';
import { sqlKinds } from '@keystead/test-control-plane/sql-database';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { recordQuery } from './record-query.ts';
import { cheapCost, createTestVault, passwords, type TestVault } from './vault.fixture.ts';
import type { Vault } from './vault.ts';
import { VaultError } from './vault-error.ts';

const isFull = process.env.KEYSTEAD_PROVE === 'full';
const seed = Number(process.env.KEYSTEAD_SEED ?? randomInt(2 ** 31));

interface ModelRecord {
  id: string;
  token: string;
  value: string;
  password: string;
  data: Record<string, string>;
  createdAtMs: number;
  updatedAtMs: number;
  expiresAtMs: number | null;
  softDeletedAtMs: number | null;
}

class Refused extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

/** What a vault is, without a database and without encryption. */
class Model {
  readonly records = new Map<string, ModelRecord>();
  nowMs = 0;

  create(
    token: string,
    value: string,
    password: string,
    data = {},
    expiresAtMs: number | null = null,
  ) {
    if (this.records.has(token)) throw new Refused('token_already_exists');
    const times = { createdAtMs: this.nowMs, updatedAtMs: this.nowMs };
    this.records.set(token, {
      id: '',
      token,
      value,
      password,
      data,
      ...times,
      expiresAtMs,
      softDeletedAtMs: null,
    });
  }

  live(token: string): ModelRecord {
    const record = this.records.get(token);
    if (record === undefined || record.softDeletedAtMs !== null) {
      throw new Refused('record_not_found');
    }
    return record;
  }

  isExpired(record: ModelRecord) {
    return record.expiresAtMs !== null && record.expiresAtMs <= this.nowMs;
  }

  readable(token: string, password: string): ModelRecord {
    const record = this.live(token);
    if (this.isExpired(record)) throw new Refused('token_expired');
    if (record.password !== password) throw new Refused('invalid_password');
    return record;
  }

  update(token: string, value: string, password: string) {
    const record = this.readable(token, password);
    Object.assign(record, { value, updatedAtMs: this.nowMs });
  }

  upsert(token: string, value: string, password: string): string {
    const record = this.records.get(token);
    if (record !== undefined && record.softDeletedAtMs !== null) {
      throw new Refused('token_already_exists');
    }
    if (record === undefined) {
      this.create(token, value, password);
      return 'created';
    }
    this.update(token, value, password);
    return 'updated';
  }

  changeData(token: string, data: Record<string, string>) {
    const record = this.live(token);
    const sorted = (map: object) => JSON.stringify(Object.entries(map).sort());
    if (sorted(record.data) === sorted(data)) return;
    Object.assign(record, { data, updatedAtMs: this.nowMs });
  }

  renew(token: string, expiresAtMs: number | null) {
    const record = this.live(token);
    if (record.expiresAtMs === expiresAtMs) return;
    Object.assign(record, { expiresAtMs, updatedAtMs: this.nowMs });
  }

  changePassword(tokens: string[], from: string, to: string) {
    return [...new Set(tokens)].map((token) => {
      try {
        const record = this.readable(token, from);
        Object.assign(record, { password: to, updatedAtMs: this.nowMs });
        return { token, status: 'found' };
      } catch (error) {
        const code = (error as Refused).code;
        const status = { record_not_found: 'missing', token_expired: 'expired' }[code] ?? code;
        return { token, status };
      }
    });
  }

  softDelete(token: string) {
    this.live(token).softDeletedAtMs = this.nowMs;
  }

  restore(token: string) {
    const record = this.records.get(token);
    if (record === undefined || record.softDeletedAtMs === null) {
      throw new Refused('record_not_found');
    }
    record.softDeletedAtMs = null;
  }

  delete(token: string) {
    if (!this.records.delete(token)) throw new Refused('record_not_found');
  }

  sweep(mode: 'soft' | 'hard') {
    let swept = 0;
    for (const record of [...this.records.values()]) {
      if (!this.isExpired(record)) continue;
      if (mode === 'hard') this.records.delete(record.token);
      else if (record.softDeletedAtMs === null) record.softDeletedAtMs = this.nowMs;
      else continue;
      swept += 1;
    }
    return { swept, outcome: 'finished' };
  }

  rekey(from: string, to: string) {
    let matched = 0;
    for (const record of this.records.values()) {
      if (record.password !== from) continue;
      record.password = to;
      matched += 1;
    }
    return { matched, otherPassword: this.records.size - matched, corrupt: 0 };
  }

  readMany(tokens: string[], password: string) {
    return tokens.map((token) => {
      const record = this.records.get(token);
      if (record === undefined || record.softDeletedAtMs !== null) {
        return { token, status: 'missing' };
      }
      if (this.isExpired(record)) return { token, status: 'expired' };
      if (record.password !== password) return { token, status: 'invalid_password' };
      return { token, status: 'found', value: record.value };
    });
  }

  list(where: (record: ModelRecord) => boolean) {
    return [...this.records.values()]
      .filter(where)
      .map(({ token }) => token)
      .sort();
  }
}

const tokenOf = fc.constantFrom('a', 'b', 'A', 'c/d', 'e-e', 'f');
const passwordOf = fc.constantFrom(...Object.values(passwords));
const textOf = fc.string({ unit: 'binary', minLength: 1, maxLength: 40 });
const dataOf = fc.dictionary(
  fc.constantFrom('owner', 'Owner', 'größe'),
  fc.constantFrom('x', 'X', ''),
  {
    maxKeys: 2,
    noNullPrototype: true,
  },
);
const timeOf = fc.option(fc.integer({ min: 0, max: 400 }), { freq: 3 });

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('create' as const),
      token: tokenOf,
      value: textOf,
      password: passwordOf,
      data: dataOf,
      at: timeOf,
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('read' as const),
      token: tokenOf,
      password: passwordOf,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('update' as const, 'upsert' as const),
      token: tokenOf,
      value: textOf,
      password: passwordOf,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('data' as const), token: tokenOf, data: dataOf }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('renew' as const), token: tokenOf, at: timeOf }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('password' as const),
      tokens: fc.array(tokenOf, { maxLength: 4 }),
      from: passwordOf,
      to: passwordOf,
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'softDelete' as const,
        'restore' as const,
        'delete' as const,
        'exists' as const,
      ),
      token: tokenOf,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('sweep' as const),
      mode: fc.constantFrom('soft' as const, 'hard' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('rekey' as const), from: passwordOf, to: passwordOf }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('upgrade' as const),
      password: passwordOf,
      passes: fc.constantFrom(1, 2),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('readMany' as const),
      tokens: fc.array(tokenOf, { maxLength: 5 }),
      password: passwordOf,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('list' as const),
      data: dataOf,
      expiry: fc.constantFrom('any', 'expired', 'not_expired'),
      deleted: fc.constantFrom('without', 'with', 'only'),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      ms: fc.integer({ min: 1, max: 120 }),
    }),
  },
);
type Operation = typeof operation extends fc.Arbitrary<infer Kind> ? Kind : never;

const startMs = Date.UTC(2026, 0, 1);
const at = (offset: number | null) => (offset === null ? null : startMs + offset);

/** What the model says, or the code with which it refuses. */
function expected(model: Model, step: Operation): unknown {
  try {
    switch (step.do) {
      case 'create':
        return model.create(step.token, step.value, step.password, step.data, at(step.at));
      case 'read':
        return model.readable(step.token, step.password).value;
      case 'update':
        return model.update(step.token, step.value, step.password);
      case 'upsert':
        return model.upsert(step.token, step.value, step.password);
      case 'data':
        return model.changeData(step.token, step.data);
      case 'renew':
        return model.renew(step.token, at(step.at));
      case 'password':
        if (step.from === step.to) throw new Refused('password_unchanged');
        return model.changePassword(step.tokens, step.from, step.to);
      case 'softDelete':
      case 'restore':
      case 'delete':
        return model[step.do](step.token);
      case 'exists': {
        const record = model.records.get(step.token);
        return record !== undefined && record.softDeletedAtMs === null && !model.isExpired(record);
      }
      case 'sweep':
        return model.sweep(step.mode);
      case 'rekey':
        if (step.from === step.to) throw new Refused('password_unchanged');
        return model.rekey(step.from, step.to);
      case 'upgrade':
        return undefined;
      case 'readMany':
        return model.readMany(step.tokens, step.password);
      case 'list':
        return model.list((record) => {
          const isDeleted = record.softDeletedAtMs !== null;
          if (step.deleted === 'without' && isDeleted) return false;
          if (step.deleted === 'only' && !isDeleted) return false;
          if (step.expiry !== 'any' && model.isExpired(record) !== (step.expiry === 'expired')) {
            return false;
          }
          return Object.entries(step.data).every(([name, value]) => record.data[name] === value);
        });
      case 'wait':
        model.nowMs += step.ms;
        return undefined;
    }
  } catch (error) {
    if (error instanceof Refused) return { refused: error.code };
    throw error;
  }
}

/** The same, of the vault. */
async function actual(made: TestVault, vault: Vault, step: Operation): Promise<unknown> {
  const { tokens, records } = vault;
  try {
    switch (step.do) {
      case 'create':
        await tokens.createCustom(step.token, step.value, {
          password: step.password,
          data: step.data,
          expiresAtMs: at(step.at),
        });
        return undefined;
      case 'read':
        return await tokens.read(step.token, step.password);
      case 'update':
        return await tokens.update(step.token, step.value, step.password);
      case 'upsert':
        return await tokens.upsert(step.token, step.value, { password: step.password });
      case 'data':
        await records.update({ token: step.token }, { data: step.data });
        return undefined;
      case 'renew':
        return await tokens.renew(step.token, at(step.at));
      case 'password':
        return await tokens.changePassword(step.tokens, step.from, step.to);
      case 'softDelete':
      case 'restore':
      case 'delete':
      case 'exists':
        return await tokens[step.do](step.token);
      case 'sweep':
        return await tokens.sweepExpired({ mode: step.mode, batchRecords: 2 });
      case 'rekey': {
        const { matched, otherPassword, corrupt } = await vault.rekey({
          oldPassword: step.from,
          newPassword: step.to,
          batchRecords: 2,
        });
        return { matched, otherPassword, corrupt };
      }
      case 'upgrade':
        await vault.changePasswordCost({ ...cheapCost, passes: step.passes });
        expect(await vault.upgrade({ password: step.password })).toMatchObject({ corrupt: 0 });
        return undefined;
      case 'readMany':
        return (await tokens.readMany(step.tokens, step.password)).readings.map((reading) =>
          reading.status === 'found'
            ? {
                token: reading.token,
                status: 'found',
                value: Buffer.from(reading.bytes).toString(),
              }
            : reading,
        );
      case 'list': {
        let query = recordQuery().orderBy('createdAtMs').limit(2).select('token');
        for (const [name, value] of Object.entries(step.data)) query = query.withData(name, value);
        if (step.expiry === 'expired') query = query.expired();
        if (step.expiry === 'not_expired') query = query.notExpired();
        if (step.deleted === 'with') query = query.withSoftDeleted();
        if (step.deleted === 'only') query = query.onlySoftDeleted();
        const found: string[] = [];
        for await (const { token } of records.walk(query)) found.push(token);
        expect(await records.count(query)).toBe(found.length);
        return found.sort();
      }
      case 'wait':
        made.clock.nowMs += step.ms;
        return undefined;
    }
  } catch (error) {
    if (error instanceof VaultError) return { refused: error.code };
    throw error;
  }
}

async function compare(made: TestVault, steps: readonly Operation[]): Promise<void> {
  const { vault } = made;
  const all = recordQuery().withSoftDeleted().limit(1_000);
  for (const { id } of (await vault.records.list(all)).records) await vault.records.delete({ id });
  const model = new Model();
  made.clock.nowMs = startMs;
  model.nowMs = startMs;
  for (const step of steps) {
    const wanted = expected(model, step);
    expect(await actual(made, vault, step), JSON.stringify(step)).toEqual(wanted);
  }
  const { records } = await vault.records.list(all);
  expect(records.map(({ token }) => token).sort()).toEqual([...model.records.keys()].sort());
  for (const { sealedValue, ...record } of records) {
    const { value, password, ...rest } = model.records.get(record.token) as ModelRecord;
    expect({ ...record, id: '' }).toEqual({ ...rest, id: '' });
    for (const each of Object.values(passwords)) {
      const opened = vault.records.open({ ...record, sealedValue }, each);
      if (each === password) expect(Buffer.from(await opened).toString()).toBe(value);
      else await expect(opened).rejects.toMatchObject({ code: 'invalid_password' });
    }
  }
}

describe.each(sqlKinds)('on %s', (kind) => {
  test('whatever is done in whatever order, a vault does what a map in memory does', async () => {
    await using made = await createTestVault(kind);
    const runs = (kind === 'sqlite' ? 25 : 8) * (isFull ? 40 : 1);
    console.info(`${kind}: seed ${seed}, ${runs} sequences`);
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 1, maxLength: 40, size: 'max' }), (steps) =>
        compare(made, steps),
      ),
      { seed, numRuns: runs, endOnFailure: false },
    );
  });
});

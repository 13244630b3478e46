import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { recordQuery } from './record-query.ts';
import { openVault } from './vault.ts';
import { VaultError, type VaultErrorCode } from './vault-error.ts';

const folder = mkdtempSync(join(tmpdir(), 'argument-kinds-'));
const vault = await openVault({
  sql: { kind: 'sqlite', file: join(folder, 'vault.db') },
  passwordCost: { memoryKib: 8_192, passes: 1, parallelism: 1 },
});
afterAll(async () => {
  await vault.close();
  rmSync(folder, { recursive: true });
});

const password = 'correct horse battery';
const newPassword = 'a river in the morning';
const value = 'a value';
const { tokens, records, settings } = vault;

/** Each call with the argument of the wrong kind in its place. */
const calls: Record<string, (wrong: never) => unknown> = {
  'openVault options': (wrong) => openVault(wrong),
  'openVault sql': (wrong) => openVault({ sql: wrong }),
  'tokens.create value': (wrong) => tokens.create(wrong, { password }),
  'tokens.create options': (wrong) => tokens.create(value, wrong),
  'tokens.create password': (wrong) => tokens.create(value, { password: wrong }),
  'tokens.createCustom token': (wrong) => tokens.createCustom(wrong, value, { password }),
  'tokens.exists token': (wrong) => tokens.exists(wrong),
  'tokens.read token': (wrong) => tokens.read(wrong, password),
  'tokens.read password': (wrong) => tokens.read('token', wrong),
  'tokens.readMany tokens': (wrong) => tokens.readMany(wrong, password),
  'tokens.readMany each': (wrong) => tokens.readMany([wrong], password),
  'tokens.readMany password': (wrong) => tokens.readMany(['token'], wrong),
  'tokens.update token': (wrong) => tokens.update(wrong, value, password),
  'tokens.update value': (wrong) => tokens.update('token', wrong, password),
  'tokens.update password': (wrong) => tokens.update('token', value, wrong),
  'tokens.upsert token': (wrong) => tokens.upsert(wrong, value, { password }),
  'tokens.upsert options': (wrong) => tokens.upsert('token', value, wrong),
  'tokens.renew token': (wrong) => tokens.renew(wrong, null),
  'tokens.changePassword tokens': (wrong) => tokens.changePassword(wrong, password, newPassword),
  'tokens.changePassword old': (wrong) => tokens.changePassword(['token'], wrong, newPassword),
  'tokens.changePassword new': (wrong) => tokens.changePassword(['token'], password, wrong),
  'tokens.softDelete token': (wrong) => tokens.softDelete(wrong),
  'tokens.restore token': (wrong) => tokens.restore(wrong),
  'tokens.delete token': (wrong) => tokens.delete(wrong),
  'tokens.sweepExpired options': (wrong) => tokens.sweepExpired(wrong),
  'tokens.sweepExpired mode': (wrong) => tokens.sweepExpired({ mode: wrong }),
  'records.create record': (wrong) => records.create(wrong),
  'records.create data': (wrong) => records.create({ value, password, data: wrong ?? [] }),
  'records.find reference': (wrong) => records.find(wrong),
  'records.findById id': (wrong) => records.findById(wrong),
  'records.findByToken token': (wrong) => records.findByToken(wrong),
  'records.list query': (wrong) => records.list(wrong ?? null),
  'records.walk query': (wrong) => records.walk(wrong).next(),
  'records.count query': (wrong) => records.count(wrong ?? null),
  'records.update reference': (wrong) => records.update(wrong, {}),
  'records.update changes': (wrong) => records.update({ id: 'id' }, wrong),
  'records.softDelete reference': (wrong) => records.softDelete(wrong),
  'records.restore reference': (wrong) => records.restore(wrong),
  'records.delete reference': (wrong) => records.delete(wrong),
  'records.open record': (wrong) => records.open(wrong, password),
  'settings.get name': (wrong) => settings.get(wrong),
  'settings.set name': (wrong) => settings.set(wrong, 'value'),
  'settings.set value': (wrong) => settings.set('name', wrong),
  'settings.setIfAbsent value': (wrong) => settings.setIfAbsent('name', wrong),
  'settings.delete name': (wrong) => settings.delete(wrong),
  'vault.rekey options': (wrong) => vault.rekey(wrong),
  'vault.rekey old': (wrong) => vault.rekey({ oldPassword: wrong, newPassword }),
  'vault.rekey new': (wrong) => vault.rekey({ oldPassword: password, newPassword: wrong }),
  'vault.upgrade options': (wrong) => vault.upgrade(wrong),
  'vault.changePasswordCost cost': (wrong) => vault.changePasswordCost(wrong),
  'query withId': (wrong) => recordQuery().withId(wrong),
  'query withTokens': (wrong) => recordQuery().withTokens(wrong),
  'query created': (wrong) => recordQuery().created(wrong),
  'query withData': (wrong) => recordQuery().withData('name', wrong),
  'query select': (wrong) => recordQuery().select(wrong),
  'query orderBy': (wrong) => recordQuery().orderBy(wrong),
  'query direction': (wrong) => recordQuery().orderBy('id', wrong ?? null),
  'query limit': (wrong) => recordQuery().limit(wrong),
  'query offset': (wrong) => recordQuery().offset(wrong),
  'query after': (wrong) => recordQuery().after(wrong),
};

const failureOf = async (call: () => unknown): Promise<unknown> => {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return undefined;
};

test.each(Object.keys(calls))('%s of another kind is refused by a typed error', async (name) => {
  for (const wrong of [undefined, null, 12_345_678.5, true, () => 0, Symbol('x')]) {
    const failure = await failureOf(() => calls[name]?.(wrong as never));
    expect(failure, `${String(wrong)}: ${String(failure)}`).toBeInstanceOf(VaultError);
    expect((failure as VaultError).message).not.toContain('12345678');
  }
});

const codeOf = async (call: () => unknown): Promise<VaultErrorCode | undefined> =>
  ((await failureOf(call)) as VaultError | undefined)?.code;

test('nothing is swept, generated or walked for ever because an argument is of the wrong kind', async () => {
  const token = await tokens.create(value, { password, expiresAtMs: Date.now() - 1_000 });
  const sweep = (options: object) => tokens.sweepExpired({ mode: 'hard', ...options } as never);
  expect(await codeOf(() => sweep({ mode: 'Soft' }))).toBe('wrong_kind');
  expect(await codeOf(() => sweep({ graceMs: -60_000 }))).toBe('wrong_kind');
  expect(await codeOf(() => sweep({ graceMs: Number.NaN }))).toBe('wrong_kind');
  expect(await codeOf(() => sweep({ batchRecords: 0 }))).toBe('wrong_kind');
  expect(await records.findByToken(token)).toBeDefined();
  expect(await codeOf(() => tokens.createCustom('', value, { password }))).toBe('token_required');
  expect(await codeOf(() => tokens.renew(token, undefined as never))).toBe('invalid_time');
  const lists = { password, value, data: ['a'] } as never;
  expect(await codeOf(() => records.create(lists))).toBe('invalid_data');
});

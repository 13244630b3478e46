import { afterEach, expect, test } from 'vitest';
import { type ClockTables, clockMigrations } from '../clock/clock-tables.ts';
import { TrustedClock } from '../clock/trusted-clock.ts';
import { closeVaults, openTestVault } from '../store/vault.fixture.ts';
import { TokenVault } from './token-vault.ts';
import { tokenVaultLimits as limits } from './token-vault-limits.ts';

afterEach(() => closeVaults());

const day = 86_400_000;

test.each([3_652 * day, -3_652 * day])(
  'a clock that steps by %d ms deletes no token, and is swept by again when it is right',
  async (jump) => {
    let realMs = Date.parse('2027-01-01T12:00:00Z');
    let stepMs = 0;
    const now = () => realMs + stepMs;
    const { store } = await openTestVault(undefined, { migrations: clockMigrations });
    const clock = await TrustedClock.open({
      store: store.as<ClockTables>(),
      writer: 'one',
      now,
      monotonicMs: () => realMs,
    });
    const tokens = await TokenVault.open(store, () => undefined, { clock, now });
    const make = (id: string, expiresInMs: number) =>
      tokens.create({
        id,
        value: 'value',
        encoding: 'text',
        password: 'correct horse battery',
        data: {},
        expiresAt: new Date(realMs + expiresInMs).toISOString(),
      });
    await make('in-a-year', 365 * day);
    await make('yesterday', 2 * day);
    const state = async (id: string) => {
      const found = await tokens.get(id).catch(() => undefined);
      return found === undefined ? 'gone' : found.softDeletedAt === null ? 'there' : 'marked';
    };

    stepMs = jump;
    expect(await tokens.sweepInTime()).toBeUndefined();
    await expect(tokens.sweep('hard', 0)).rejects.toMatchObject({ code: 'conflict' });
    realMs += 23 * 3_600_000;
    expect(await tokens.sweepInTime()).toBeUndefined();
    expect([await state('in-a-year'), await state('yesterday')]).toEqual(['there', 'there']);

    stepMs = 0;
    realMs += 2 * day + limits.markExpiredAfterMs;
    expect(await tokens.sweepInTime()).toBe(1);
    expect([await state('in-a-year'), await state('yesterday')]).toEqual(['there', 'marked']);
    realMs += 6 * day;
    expect(await tokens.sweepInTime()).toBe(0);
    for (let week = 0; week < 4; week += 1) {
      realMs += 7 * day;
      await tokens.sweepInTime();
    }
    expect([await state('in-a-year'), await state('yesterday')]).toEqual(['there', 'gone']);
    await tokens.close();
  },
);

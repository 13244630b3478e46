import { limits } from '@keystead/contracts/limits';
import { describe, expect, it } from 'vitest';
import { type AuthorityState, nextAuthorityStep, rotateBeforeMs } from './authority-step.ts';

const now = Date.parse('2026-06-01T00:00:00Z');
const dayMs = 86_400_000;
const root = (some: Partial<AuthorityState> = {}): AuthorityState => ({
  kind: 'root',
  expiresAtMs: now + 3_000 * dayMs,
  hasKey: true,
  ...some,
});
const intermediate = (days: number, hasKey = true): AuthorityState => ({
  kind: 'intermediate',
  expiresAtMs: now + days * dayMs,
  hasKey,
});

describe('the authority', () => {
  it('is created where there is none', () => {
    expect(nextAuthorityStep([], now)).toBe('create');
  });

  it('issues with the newest intermediate, whether the key of the root is here or not', () => {
    expect(nextAuthorityStep([root(), intermediate(700)], now)).toBe('use');
    expect(nextAuthorityStep([root({ hasKey: false }), intermediate(700)], now)).toBe('use');
    expect(nextAuthorityStep([root(), intermediate(10), intermediate(700)], now)).toBe('use');
  });

  it('rotates the intermediate before its end, or asks for the key of the root', () => {
    expect(nextAuthorityStep([root(), intermediate(80)], now)).toBe('rotate');
    expect(nextAuthorityStep([root({ hasKey: false }), intermediate(80)], now)).toBe(
      'use_and_warn',
    );
    expect(nextAuthorityStep([root({ hasKey: false }), intermediate(-1)], now)).toBe('blocked');
    expect(nextAuthorityStep([root(), intermediate(-1)], now)).toBe('rotate');
  });

  it('rotates an intermediate whose key is lost', () => {
    expect(nextAuthorityStep([root(), intermediate(700, false)], now)).toBe('rotate');
    expect(nextAuthorityStep([root({ hasKey: false }), intermediate(700, false)], now)).toBe(
      'blocked',
    );
  });

  it('does not rotate without end when the root itself ends soon', () => {
    const ending = root({ expiresAtMs: now + 30 * dayMs });
    expect(nextAuthorityStep([ending, intermediate(30)], now)).toBe('use_and_warn');
  });

  it('rotates long enough before the end that no certificate of an agent is cut short', () => {
    expect(rotateBeforeMs).toBeGreaterThan(2 * limits.certificateTtlSeconds * 1_000);
  });
});

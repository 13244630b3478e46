import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  applyRules,
  conditionOf,
  nextVaultAlert,
  type OpenAlert,
  type VaultAgent,
} from './vault-alert.ts';

const agent = (status: VaultAgent['status'], recentOutages = 1): VaultAgent => ({
  id: status,
  name: status,
  status,
  lastSeenAt: 0,
  recentOutages,
});
const open = (facts: Partial<OpenAlert> = {}): OpenAlert => ({
  id: 'open',
  kind: 'vault.offline',
  flapping: false,
  calmAt: null,
  ...facts,
});

describe('the condition of a vault', () => {
  it('is offline when agents are gone and none serves', () => {
    expect(conditionOf([agent('offline'), agent('stopped')])).toBe('offline');
    expect(conditionOf([agent('offline'), agent('late')])).toBe('degraded');
    expect(conditionOf([agent('stopped'), agent('pending')])).toBe('fine');
    expect(conditionOf([])).toBe('fine');
  });
});

describe('what is told', () => {
  it('is nothing for what was told already', () => {
    expect(nextVaultAlert([agent('offline')], open(), 0)).toEqual({ do: 'keep', id: 'open' });
  });

  it('is the recovery once every agent is heard', () => {
    expect(nextVaultAlert([agent('online')], open(), 0)).toEqual({ do: 'resolve', id: 'open' });
  });

  it('is graver news at once, also while the vault flaps', () => {
    const degraded = open({ kind: 'vault.degraded', flapping: true });
    expect(nextVaultAlert([agent('offline')], degraded, 0)).toMatchObject({
      do: 'raise',
      kind: 'vault.offline',
      supersedes: 'open',
    });
  });

  it('never leaves people believing in a vault that is gone', () => {
    const statuses = fc.constantFrom(
      'pending',
      'online',
      'late',
      'offline',
      'stopped',
    ) as fc.Arbitrary<VaultAgent['status']>;
    const step = fc.array(fc.tuple(statuses, fc.nat(5)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        let alert: OpenAlert | undefined;
        let believed: 'fine' | 'degraded' | 'offline' = 'fine';
        for (const agents of steps) {
          const now = agents.map(([status, recent]) => agent(status, recent));
          const decision = nextVaultAlert(now, alert, 0);
          if (decision.do === 'raise') {
            alert = open({ kind: decision.kind, flapping: decision.flapping });
            believed = decision.kind === 'vault.offline' ? 'offline' : 'degraded';
          } else if (decision.do === 'resolve') {
            alert = undefined;
            believed = 'fine';
          }
          const truth = conditionOf(now);
          if (truth === 'offline') expect(believed).toBe('offline');
          if (truth === 'degraded') expect(believed).not.toBe('fine');
          if (believed === 'fine') expect(truth).toBe('fine');
        }
      }),
    );
  });
});

describe('alert rules', () => {
  it('ignore what one of them ignores, else take the gravest severity', () => {
    const rule = (facts: object) => ({
      events: ['vault.offline'],
      vaultTags: [] as string[],
      action: 'raise',
      severity: null as string | null,
      ...facts,
    });
    const rules = [rule({ severity: 'info' }), rule({ severity: 'warning', vaultTags: ['a'] })];
    expect(applyRules(rules, 'vault.offline', ['a'], 'critical')).toBe('warning');
    expect(applyRules(rules, 'vault.offline', [], 'critical')).toBe('info');
    expect(applyRules(rules, 'vault.degraded', ['a'], 'critical')).toBe('critical');
    expect(
      applyRules(
        [...rules, rule({ action: 'ignore', vaultTags: ['a'] })],
        'vault.offline',
        ['a'],
        'info',
      ),
    ).toBe('ignored');
  });
});

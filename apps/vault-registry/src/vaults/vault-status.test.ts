import { describe, expect, it } from 'vitest';
import { type AgentCounts, vaultStatusOf } from './vault-status.ts';

const counts = (some: Partial<AgentCounts>): AgentCounts => {
  const agents = { online: 0, late: 0, offline: 0, stopped: 0, pending: 0, ...some };
  return { ...agents, total: Object.values(agents).reduce((sum, count) => sum + count, 0) };
};

describe('the state of a vault', () => {
  it.each([
    ['empty', {}],
    ['pending', { pending: 2 }],
    ['online', { online: 1, pending: 1 }],
    ['online', { late: 1 }],
    ['online', { online: 1, stopped: 1 }],
    ['degraded', { online: 1, offline: 1 }],
    ['degraded', { late: 1, offline: 3, stopped: 1 }],
    ['offline', { offline: 1 }],
    ['offline', { offline: 1, stopped: 1, pending: 1 }],
    ['stopped', { stopped: 1, pending: 1 }],
  ] as const)('is %s with %j', (status, some) => {
    expect(vaultStatusOf(counts(some))).toBe(status);
  });
});

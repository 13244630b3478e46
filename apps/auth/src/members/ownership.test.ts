import { roles } from '@keystead/contracts/permissions';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ruleOnMember } from './ownership.ts';

const change = fc.record({
  own: fc.constantFrom(...roles),
  current: fc.constantFrom(...roles),
  active: fc.boolean(),
  wanted: fc.constantFrom(...roles, 'removed' as const),
  otherOwners: fc.nat(3),
});

test('no allowed change leaves an organization without an owner', () => {
  fc.assert(
    fc.property(change, (given) => {
      if (ruleOnMember(given) !== 'allowed') return;
      const wasOwner = given.active && given.current === 'owner';
      const stays = given.wanted === 'owner';
      if (wasOwner) expect(given.otherOwners + (stays ? 1 : 0)).toBeGreaterThan(0);
    }),
  );
});

test('only owners touch owners, and nobody below admin touches anybody', () => {
  fc.assert(
    fc.property(change, (given) => {
      if (ruleOnMember(given) === 'not_theirs_to_give') return;
      expect(['owner', 'admin']).toContain(given.own);
      if (given.current === 'owner' || given.wanted === 'owner') expect(given.own).toBe('owner');
    }),
  );
});

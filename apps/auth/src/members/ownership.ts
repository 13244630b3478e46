/** Who may change whom: only owners touch owners, and the last one stays. */
import { mayGrant, type Role } from '@keystead/contracts/permissions';

export interface MemberChange {
  /** The role of who asks. */
  own: Role;
  current: Role;
  /** An invited person holds no role yet. */
  active: boolean;
  wanted: Role | 'removed';
  /** Active owners beside this member. */
  otherOwners: number;
}

export type Ruling = 'allowed' | 'not_theirs_to_give' | 'last_owner';

export function ruleOnMember(change: MemberChange): Ruling {
  const { own, current, active, wanted, otherOwners } = change;
  if (!mayGrant(own, current)) return 'not_theirs_to_give';
  if (wanted !== 'removed' && !mayGrant(own, wanted)) return 'not_theirs_to_give';
  const losesOwner = active && current === 'owner' && wanted !== 'owner';
  return losesOwner && otherOwners === 0 ? 'last_owner' : 'allowed';
}

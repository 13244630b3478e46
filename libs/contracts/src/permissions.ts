/** The one table of who may do what. A role holds permissions; an operation asks for one. */
import { z } from 'zod';

export const roles = ['viewer', 'operator', 'admin', 'owner'] as const;
export const role = z.enum(roles);
export type Role = z.infer<typeof role>;

const viewer = [
  'organization.read',
  'members.read',
  'vaults.read',
  'agents.read',
  'outages.read',
  'alerts.read',
  'rules.read',
  'channels.read',
  'deliveries.read',
  'usage.read',
  'policies.read',
  'rollouts.read',
  'approvals.read',
  'events.read',
] as const;

const operator = [
  ...viewer,
  'vaults.write',
  'alerts.write',
  'rules.write',
  'channels.test',
  'deliveries.replay',
  'enrollment.read',
  'enrollment.write',
  // Beside it the policy that asks for the approval names the role.
  'approvals.decide',
] as const;

const admin = [
  ...operator,
  'organization.write',
  'members.write',
  'apiKeys.read',
  'apiKeys.write',
  'vaults.delete',
  'agents.revoke',
  'channels.write',
  'policies.write',
  'policies.publish',
  'rollouts.write',
  // Where the organization asks for four eyes, of somebody else than who began it.
  'rollouts.approve',
  'audit.read',
] as const;

const owner = [...admin, 'owners.write'] as const;

export const permissions = owner;
export type Permission = (typeof permissions)[number];

export const permissionsOf: Record<Role, readonly Permission[]> = {
  viewer,
  operator,
  admin,
  owner,
};

/** Whether somebody of `own` role may hand out or take away `other`. Only owners touch owners. */
export function mayGrant(own: Role, other: Role): boolean {
  if (other === 'owner') return own === 'owner';
  return own === 'owner' || own === 'admin';
}

/** The policy set that is assigned to each vault. */
import { z } from 'zod';
import { instant } from './fields.ts';
import { idSchema } from './ids.ts';
import { operation } from './operation.ts';

export const policySetAssignment = z.object({
  vaultId: idSchema('vault'),
  /** Counts up; an agent never goes back to a smaller one. null: none is assigned. */
  version: z.number().int().nullable(),
  assignedAt: instant.nullable(),
  agents: z.object({
    total: z.number().int(),
    current: z.number().int(),
    behind: z.number().int(),
    unreported: z.number().int(),
  }),
  etag: z.string(),
});
const params = z.strictObject({ id: idSchema('vault') });

export const getPolicySet = operation('policy', 'policy-sets.get', {
  method: 'GET',
  path: '/v1/vaults/{id}/policy-set',
  summary: 'Show the policy set assigned to a vault and how far its agents are',
  tag: 'Policies',
  permission: 'policies.read',
  params,
  output: policySetAssignment,
});

export const assignPolicySet = operation('policy', 'policy-sets.assign', {
  method: 'PUT',
  path: '/v1/vaults/{id}/policy-set',
  summary: 'Assign a version of the policy set to a vault; it may only grow',
  tag: 'Policies',
  permission: 'policies.write',
  params,
  body: z.strictObject({ version: z.number().int().min(1).max(2_147_483_647) }),
  output: policySetAssignment,
});

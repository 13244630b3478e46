/** How the policy set that an agent reports stands to the one assigned to its vault. */
export function policySetState(
  assigned: number | null,
  reported: number | null,
): 'unassigned' | 'unreported' | 'current' | 'behind' {
  if (assigned === null) return 'unassigned';
  if (reported === null) return 'unreported';
  return assigned === reported ? 'current' : 'behind';
}

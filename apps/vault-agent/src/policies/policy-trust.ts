import { parseAgentUri } from '@keystead/agent-protocol/peer-identity';
import type { Identity } from '../identity-store.ts';
import type { PolicyTrust } from './policy-set-check.ts';

/** Whose sets an agent obeys: its certificate says of which organization it is, and below which root. */
export function policyTrustOf({ leaf, trust }: Identity): PolicyTrust {
  const uri = parseAgentUri(leaf.subjectAltName?.replace(/^URI:/, '') ?? '');
  return {
    root: trust.root,
    trustDomain: uri?.trustDomain ?? '',
    organizationId: uri?.organizationId ?? '',
  };
}

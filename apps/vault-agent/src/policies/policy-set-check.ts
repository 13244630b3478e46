/** Whether a set that arrived may decide here. Everything but the signature's mathematics is said. */
import { X509Certificate } from 'node:crypto';
import { PolicySetProblem } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import {
  isPolicySetSignedBy,
  organizationSignerUri,
  policySetDigest,
  policySetMaxBytes,
  verifiedSigner,
} from '@keystead/agent-protocol/policy-set-signature';
import { toId } from '@keystead/contracts/ids';
import { type PolicySetContent, policySetContent } from '@keystead/contracts/policy-set-content';
import { type CompiledSet, compile } from '@keystead/policy-engine/compile';
import { problemOfConfiguration } from './rolled-out-configuration.ts';

/** Whose sets this agent obeys. */
export interface PolicyTrust {
  /** PEM of the root that the agent pins. */
  root: string;
  trustDomain: string;
  /** uuid, from the agent's own certificate. */
  organizationId: string;
}

export interface ArrivedSet {
  number: number;
  digest: string;
  content: Buffer;
  signature: Uint8Array;
  /** Leaf, then intermediate, DER each. */
  chain: readonly Uint8Array[];
}

export interface CheckedSet {
  content: PolicySetContent;
  compiled: CompiledSet;
}

export type SetCheck = { ok: true; value: CheckedSet } | { ok: false; problem: PolicySetProblem };

const no = (problem: PolicySetProblem): SetCheck => ({ ok: false, problem });

/**
 * @param held what is held now; a set that is kept already is checked without it
 * @param nowMs undefined: the set was accepted in its signer's time, and is read again
 */
export async function checkSet(
  arrived: ArrivedSet,
  trust: PolicyTrust,
  held: { number: number; digest: string } | undefined,
  nowMs?: number,
): Promise<SetCheck> {
  const { number, digest, content: bytes, signature, chain } = arrived;
  if (bytes.length > policySetMaxBytes) return no(PolicySetProblem.TOO_LARGE);
  if (policySetDigest(bytes) !== digest) return no(PolicySetProblem.DIGEST);
  // Without an identity there is nobody to obey.
  if (trust.organizationId === '') return no(PolicySetProblem.ORGANIZATION);
  const signer = verifiedSigner(chain, {
    uri: organizationSignerUri(trust.trustDomain, trust.organizationId),
    root: new X509Certificate(trust.root),
    nowMs: nowMs ?? validFromMs(chain),
  });
  if (signer === undefined || !isPolicySetSignedBy(digest, signature, signer)) {
    return no(PolicySetProblem.SIGNATURE);
  }
  const content = readContent(bytes);
  if (typeof content === 'number') return no(content);
  if (content.organizationId !== toId('organization', trust.organizationId)) {
    return no(PolicySetProblem.ORGANIZATION);
  }
  if (content.number !== number) return no(PolicySetProblem.NUMBER);
  if (held !== undefined) {
    if (number <= held.number) return no(PolicySetProblem.NUMBER);
    if (number === held.number + 1 && content.predecessor !== held.digest) {
      return no(PolicySetProblem.PREDECESSOR);
    }
  }
  const compiled = await compile(content.set);
  return compiled.ok
    ? { ok: true, value: { content, compiled: compiled.value } }
    : no(PolicySetProblem.POLICY);
}

function readContent(bytes: Buffer): PolicySetContent | PolicySetProblem {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const { data, error } = policySetContent.safeParse(JSON.parse(text));
    if (data !== undefined) {
      const problem = problemOfConfiguration(data.configuration);
      return problem === undefined ? data : PolicySetProblem.CONFIGURATION;
    }
    const isConfiguration = error.issues.every(({ path }) => path[0] === 'configuration');
    return isConfiguration ? PolicySetProblem.CONFIGURATION : PolicySetProblem.FORM;
  } catch {
    return PolicySetProblem.FORM;
  }
}

/** When leaf and issuer were both in their time. */
function validFromMs(chain: readonly Uint8Array[]): number {
  try {
    return Math.max(
      ...chain.map((certificate) => new X509Certificate(certificate).validFromDate.getTime()),
    );
  } catch {
    return 0;
  }
}

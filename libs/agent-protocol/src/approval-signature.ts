/** The organization's signature over a decision about an approval, by the key that signs its policy sets. */
import { createHash, type KeyObject, sign, verify, type X509Certificate } from 'node:crypto';

const label = Buffer.from('keystead.approval-decision.v1\0', 'ascii');

export function signApprovalDecision(decision: Uint8Array, privateKey: KeyObject): Buffer {
  return sign(digestFor(privateKey), covered(decision), privateKey);
}

/** Whether the signature is by that certificate's key. Never throws. */
export function isApprovalDecisionSignedBy(
  decision: Uint8Array,
  signature: Uint8Array,
  signer: X509Certificate,
): boolean {
  try {
    const { publicKey } = signer;
    return verify(digestFor(publicKey), covered(decision), publicKey, signature);
  } catch {
    return false;
  }
}

function covered(decision: Uint8Array): Buffer {
  return Buffer.concat([label, createHash('sha256').update(decision).digest()]);
}

function digestFor(key: KeyObject): string | null {
  return key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

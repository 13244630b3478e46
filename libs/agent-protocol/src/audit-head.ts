/** What the signature of an audit head covers: fixed lengths, so that no two heads share bytes. */
import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto';

export interface AuditHeadFacts {
  /** 16 bytes. */
  chainId: Uint8Array;
  sequence: number;
  /** 32 bytes. */
  hash: Uint8Array;
  atUnixMs: number;
}

const label = Buffer.from('keystead.audit-head.v1\0', 'ascii');

/** Longest forms that are kept: a signature of P-384 has at most 104 bytes, its public key 120. */
export const auditHeadSignatureMaxBytes = 128;
export const auditHeadKeyMaxBytes = 160;

/** @throws RangeError where the chain or the hash has another length, or a number is negative */
export function auditHeadBytes({ chainId, sequence, hash, atUnixMs }: AuditHeadFacts): Buffer {
  if (chainId.length !== 16) throw new RangeError('a chain id has 16 bytes');
  if (hash.length !== 32) throw new RangeError('a hash has 32 bytes');
  const numbers = Buffer.alloc(16);
  numbers.writeBigUInt64BE(BigInt(sequence), 0);
  numbers.writeBigUInt64BE(BigInt(atUnixMs), 8);
  return Buffer.concat([label, chainId, numbers.subarray(0, 8), hash, numbers.subarray(8)]);
}

export function signAuditHead(head: AuditHeadFacts, privateKey: KeyObject): Buffer {
  return sign(digestFor(privateKey), auditHeadBytes(head), privateKey);
}

/** Whether the signature is by that key, SubjectPublicKeyInfo in DER. Never throws. */
export function isAuditHeadSignedBy(
  head: AuditHeadFacts,
  signature: Uint8Array,
  signerKey: Uint8Array,
): boolean {
  if (signature.length === 0 || signature.length > auditHeadSignatureMaxBytes) return false;
  if (signerKey.length === 0 || signerKey.length > auditHeadKeyMaxBytes) return false;
  try {
    const key = createPublicKey({ key: Buffer.from(signerKey), format: 'der', type: 'spki' });
    return verify(digestFor(key), auditHeadBytes(head), key, signature);
  } catch {
    return false;
  }
}

function digestFor(key: KeyObject): string | null {
  return key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

/**
 * The signature of a policy set: by a key of the organization, whose certificate the installation's
 * own authority issued for that one purpose. It covers the digest of the set's bytes; number,
 * organization and predecessor stand in the bytes.
 */
import { createHash, type KeyObject, sign, verify, X509Certificate } from 'node:crypto';
import { toId } from '@keystead/contracts/ids';

/** The longest content of one part, so that a message stays below its limit. */
export const policySetChunkBytes = 48 * 1024;
/** The largest set that is signed, sent and accepted. */
export const policySetMaxBytes = 4 * 1024 * 1024;

const label = Buffer.from('keystead.policy-set.v1\0', 'ascii');

/** SHA-256, 64 lower-case hexadecimal digits. */
export function policySetDigest(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** @param organizationId uuid */
export function organizationSignerUri(trustDomain: string, organizationId: string): string {
  return `spiffe://${trustDomain}/org/${toId('organization', organizationId)}/policies`;
}

export function commandSignerUri(trustDomain: string): string {
  return `spiffe://${trustDomain}/control-plane/commands`;
}

export function signPolicySet(digest: string, privateKey: KeyObject): Buffer {
  return sign(digestFor(privateKey), covered(digest), privateKey);
}

export interface SignerExpectation {
  /** What the certificate's one name must be. */
  uri: string;
  root: X509Certificate;
  nowMs: number;
}

/**
 * The signer's certificate, where it chains to the root, is in its time and has exactly that name.
 * Undefined otherwise; never throws.
 * @param chain leaf, then intermediate, DER each
 */
export function verifiedSigner(
  chain: readonly Uint8Array[],
  { uri, root, nowMs }: SignerExpectation,
): X509Certificate | undefined {
  try {
    const [leafBytes, issuerBytes, ...rest] = chain;
    if (leafBytes === undefined || issuerBytes === undefined || rest.length > 0) return undefined;
    const leaf = new X509Certificate(leafBytes);
    const issuer = new X509Certificate(issuerBytes);
    const isInTime = (certificate: X509Certificate) =>
      certificate.validFromDate.getTime() <= nowMs && nowMs < certificate.validToDate.getTime();
    const holds =
      issuer.ca &&
      !leaf.ca &&
      issuer.checkIssued(root) &&
      issuer.verify(root.publicKey) &&
      leaf.checkIssued(issuer) &&
      leaf.verify(issuer.publicKey) &&
      isInTime(leaf) &&
      isInTime(issuer) &&
      leaf.subjectAltName === `URI:${uri}`;
    return holds ? leaf : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the signature over the digest is by that certificate's key. Never throws. */
export function isPolicySetSignedBy(
  digest: string,
  signature: Uint8Array,
  signer: X509Certificate,
): boolean {
  try {
    return verify(digestFor(signer.publicKey), covered(digest), signer.publicKey, signature);
  } catch {
    return false;
  }
}

function covered(digest: string): Buffer {
  if (!/^[0-9a-f]{64}$/.test(digest)) throw new RangeError('a digest has 64 hexadecimal digits');
  return Buffer.concat([label, Buffer.from(digest, 'hex')]);
}

function digestFor(key: KeyObject): string | null {
  return key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

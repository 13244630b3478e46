/**
 * What we take from a certificate request: its public key, once the request proved possession of
 * the private one. Subject, attributes and extensions are ignored: who a certificate is for is
 * decided by the token or by the session.
 */
import './reflection.ts';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { Pkcs10CertificateRequest, type PublicKey } from '@peculiar/x509';

export const certificateRequestMaxBytes = 6 * 1024;
const rsaMinBits = 2_048;
const rsaMaxBits = 4_096;

export type CheckedRequest =
  | { outcome: 'accepted'; publicKey: PublicKey }
  | { outcome: 'refused'; detail: string };

/** Checks a PKCS #10 request in DER. Never throws: whatever is wrong is a refusal that says so. */
export async function checkCertificateRequest(der: Uint8Array): Promise<CheckedRequest> {
  if (der.length === 0 || der.length > certificateRequestMaxBytes) {
    return refused(`the request must have 1 to ${certificateRequestMaxBytes} bytes`);
  }
  if (!isOneDerSequence(der)) return refused('the request is not PKCS #10 in DER');
  let request: Pkcs10CertificateRequest;
  let key: KeyObject;
  try {
    request = new Pkcs10CertificateRequest(Uint8Array.from(der));
    key = createPublicKey({
      key: Buffer.from(request.publicKey.rawData),
      format: 'der',
      type: 'spki',
    });
  } catch {
    return refused('the request is not PKCS #10 in DER with a public key we know');
  }
  const weakness = weaknessOf(key);
  if (weakness !== undefined) return refused(weakness);
  try {
    if (await request.verify()) return { outcome: 'accepted', publicKey: request.publicKey };
  } catch {
    // An algorithm that does not fit the key fails like a wrong signature.
  }
  return refused('the signature of the request is not by its key');
}

/** The same for what travels between services: base64. */
export function checkEncodedRequest(base64: string): Promise<CheckedRequest> {
  const der = Buffer.from(base64, 'base64');
  const canonical = der.toString('base64').replace(/=+$/, '');
  if (canonical !== base64.replace(/=+$/, '')) {
    return Promise.resolve(refused('the request is not base64'));
  }
  return checkCertificateRequest(der);
}

function weaknessOf(key: KeyObject): string | undefined {
  const details = key.asymmetricKeyDetails;
  switch (key.asymmetricKeyType) {
    case 'ed25519':
      return undefined;
    case 'ec':
      return details?.namedCurve === 'prime256v1' || details?.namedCurve === 'secp384r1'
        ? undefined
        : 'an elliptic curve key must be P-256 or P-384';
    case 'rsa': {
      const bits = details?.modulusLength ?? 0;
      if (bits < rsaMinBits || bits > rsaMaxBits) {
        return `an RSA key must have ${rsaMinBits} to ${rsaMaxBits} bits`;
      }
      const exponent = details?.publicExponent ?? 0n;
      return exponent >= 65_537n && exponent < 2n ** 32n
        ? undefined
        : 'an RSA key must have a usual public exponent';
    }
    default:
      return 'the key must be P-256, P-384, Ed25519 or RSA';
  }
}

function isOneDerSequence(der: Uint8Array): boolean {
  if (der[0] !== 0x30) return false;
  const first = der[1] ?? 0;
  if (first < 0x80) return der.length === first + 2;
  const octets = first & 0x7f;
  if (octets < 1 || octets > 2) return false;
  let length = 0;
  for (let index = 0; index < octets; index += 1) length = length * 256 + (der[2 + index] ?? 0);
  return der.length === length + 2 + octets;
}

function refused(detail: string): CheckedRequest {
  return { outcome: 'refused', detail };
}

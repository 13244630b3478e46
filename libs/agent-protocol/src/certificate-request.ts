/** PKCS #10 certificate requests, built from the few DER parts they consist of. */
import { createPublicKey, generateKeyPair, type KeyObject, sign } from 'node:crypto';
import { promisify } from 'node:util';

/** A fresh P-256 key. It never leaves the machine; only its public half goes into the request. */
export async function generateAgentKey(): Promise<KeyObject> {
  const { privateKey } = await promisify(generateKeyPair)('ec', { namedCurve: 'P-256' });
  return privateKey;
}

/**
 * A request in DER for a P-256 key, signed with it. The subject is empty: who the certificate is
 * for is decided by the token or by the session, never by the request.
 */
export function createCertificateRequest(privateKey: KeyObject): Buffer {
  const publicKey = createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
  const version = Buffer.from([0x02, 0x01, 0x00]);
  const subject = der(0x30, []);
  const attributes = der(0xa0, []);
  const information = der(0x30, [version, subject, publicKey, attributes]);
  // ecdsa-with-SHA256, 1.2.840.10045.4.3.2
  const algorithm = der(0x30, [
    der(0x06, [Buffer.from([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])]),
  ]);
  const signature = der(0x03, [Buffer.from([0]), sign('sha256', information, privateKey)]);
  return der(0x30, [information, algorithm, signature]);
}

function der(tag: number, parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const head =
    length < 0x80
      ? [tag, length]
      : length < 0x100
        ? [tag, 0x81, length]
        : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), content]);
}

/**
 * Lists of revoked client certificates (RFC 5280), as a file holds them: one after another in PEM, of each
 * authority between a client and the root its own.
 *
 * OpenSSL judges by them, and fails closed: where a file is given, a certificate is refused whose issuer
 * has no list there that it signed and that is not past its time.
 */
import { createSecureContext } from 'node:tls';
import { httpLimits } from './http-limits.ts';

const block = /-----BEGIN X509 CRL-----[^-]*-----END X509 CRL-----/g;

/** @throws Error that says what is wrong with the file */
export function readRevocationLists(file: Buffer): string[] {
  if (file.length > httpLimits.revocationListsMaxBytes) {
    throw new Error(`has more than ${httpLimits.revocationListsMaxBytes} bytes`);
  }
  const lists = file.toString('latin1').match(block) ?? [];
  if (lists.length === 0) throw new Error('holds no X509 CRL in PEM');
  for (const [index, crl] of lists.entries()) {
    try {
      createSecureContext({ crl });
    } catch {
      throw new Error(`list ${index + 1} of ${lists.length} is damaged`);
    }
  }
  return lists;
}

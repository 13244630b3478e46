import { X509Certificate } from 'node:crypto';

/** The DER of one PEM certificate. */
export function derOf(pem: string): Buffer {
  return new X509Certificate(pem).raw;
}

import type { Transaction } from '@keystead/database/database';
import type { IssuedCertificate } from '../certificate-authority/issuing-authority.ts';

/** Remembers a certificate, so that admission knows its serial number and revocation finds it. */
export async function recordCertificate(
  transaction: Transaction,
  holder: { organizationId: string; agentId: string },
  issued: IssuedCertificate,
): Promise<void> {
  await transaction.certificate.create({
    data: {
      organizationId: holder.organizationId,
      agentId: holder.agentId,
      serialNumber: issued.serialNumber,
      notBefore: issued.notBefore,
      expiresAt: issued.notAfter,
    },
  });
}

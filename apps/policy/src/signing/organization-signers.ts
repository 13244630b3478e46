/**
 * The key that signs the policy sets of an organization: made when it is first needed, sealed in the
 * database under the installation's key, certified by the installation's own authority for this one
 * purpose, and replaced before its certificate ends.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { system } from '@keystead/access/authenticator';
import { InstallationKey } from '@keystead/access/sealing';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import { signPolicySet } from '@keystead/agent-protocol/policy-set-signature';
import { issuePolicySigner } from '@keystead/contracts/agent-link';
import type { TenantCtx } from '@keystead/contracts/context';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';

const sealedFor = 'policy-signer';
const dayMs = 86_400_000;
const renewBeforeMs = 60 * dayMs;

export interface PolicySetSignature {
  signature: Buffer;
  /** Leaf, then intermediate, DER each. */
  chain: Buffer[];
}

export interface Signer {
  privateKey: KeyObject;
  chain: Buffer[];
}

@Injectable()
export class OrganizationSigners {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(InstallationKey) private readonly key: InstallationKey,
    @Inject(Bus) private readonly bus: Pick<Bus, 'call'>,
  ) {}

  /** The organization's newest signer. */
  async current(ctx: Pick<TenantCtx, 'organizationId'>): Promise<Signer> {
    const { organizationId } = ctx;
    const row = await this.work.read(ctx as TenantCtx, (transaction) =>
      transaction.organizationSigner.findFirst({
        where: { organizationId },
        orderBy: { generation: 'desc' },
      }),
    );
    if (row && isGood(row)) {
      const pkcs8 = this.key.open(sealedFor, organizationId, row.sealedKey);
      return {
        privateKey: createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' }),
        chain: row.chain.map((certificate) => Buffer.from(certificate)),
      };
    }
    return this.#make(ctx as TenantCtx, (row?.generation ?? 0) + 1);
  }

  async #make(ctx: TenantCtx, generation: number): Promise<Signer> {
    const { organizationId } = ctx;
    const privateKey = await generateAgentKey();
    const { certificateChain } = await this.bus.call(issuePolicySigner, system('policy-signer'), {
      organizationId,
      csr: createCertificateRequest(privateKey).toString('base64'),
    });
    const chain = certificateChain.slice(0, 2).map((pem) => new X509Certificate(pem).raw);
    const [leaf] = certificateChain;
    const sealed = this.key.seal(
      sealedFor,
      organizationId,
      privateKey.export({ format: 'der', type: 'pkcs8' }),
    );
    const made = await this.work.read(ctx, (transaction) =>
      transaction.organizationSigner.createMany({
        data: [
          {
            organizationId,
            generation,
            sealedKey: bytes(sealed),
            chain: chain.map(bytes),
            expiresAt: new X509Certificate(leaf ?? '').validToDate,
          },
        ],
        skipDuplicates: true,
      }),
    );
    // Another process made one at the same time: there is one signer of a generation.
    return made.count === 1 ? { privateKey, chain } : this.current(ctx);
  }
}

/** A signer of today that ends soon is as good as its authority can make one: another would be none better. */
function isGood({ expiresAt, createdAt }: { expiresAt: Date; createdAt: Date }): boolean {
  const leftMs = expiresAt.getTime() - Date.now();
  return leftMs > renewBeforeMs || (leftMs > dayMs && Date.now() - createdAt.getTime() < dayMs);
}

/** Whether a signature is to be made anew: agents take none whose certificate has ended. */
export function endsSoon({ chain: [leaf] }: Pick<PolicySetSignature, 'chain'>): boolean {
  if (leaf === undefined) return true;
  return new X509Certificate(leaf).validToDate.getTime() - Date.now() < renewBeforeMs;
}

export function signWith({ privateKey, chain }: Signer, digest: string): PolicySetSignature {
  return { signature: signPolicySet(digest, privateKey), chain };
}

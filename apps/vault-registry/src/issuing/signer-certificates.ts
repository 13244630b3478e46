import type { issuePolicySigner } from '@keystead/contracts/agent-link';
import { ServiceError } from '@keystead/contracts/errors';
import { Inject, Injectable } from '@nestjs/common';
import type { PublicKey } from '@peculiar/x509';
import type { z } from 'zod';
import { checkEncodedRequest } from '../certificate-authority/certificate-request.ts';
import type {
  IssuedCertificate,
  IssuingAuthority,
} from '../certificate-authority/issuing-authority.ts';
import { AuthorityKeeper } from './authority-keeper.ts';

type Answer = z.input<typeof issuePolicySigner.output>;

/** Certificates of the keys by which agents know what comes from the control plane. */
@Injectable()
export class SignerCertificates {
  constructor(@Inject(AuthorityKeeper) private readonly authority: AuthorityKeeper) {}

  forPolicySets(organizationId: string, csr: string): Promise<Answer> {
    return this.#issue(csr, (authority, key) => authority.issuePolicySigner(key, organizationId));
  }

  forCommands(csr: string): Promise<Answer> {
    return this.#issue(csr, (authority, key) => authority.issueCommandSigner(key));
  }

  async #issue(
    csr: string,
    issue: (authority: IssuingAuthority, key: PublicKey) => Promise<IssuedCertificate>,
  ): Promise<Answer> {
    const request = await checkEncodedRequest(csr);
    if (request.outcome === 'refused') {
      throw new ServiceError('invalid_request', { detail: request.detail });
    }
    const authority = this.authority.current();
    const { chain } = await issue(authority, request.publicKey);
    return { certificateChain: chain, trustDomain: authority.trustDomain };
  }
}

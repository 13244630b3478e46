import { isIP } from 'node:net';
import type { issueGatewayCertificate } from '@keystead/contracts/agent-link';
import { ServiceError } from '@keystead/contracts/errors';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { checkEncodedRequest } from '../certificate-authority/certificate-request.ts';
import { AuthorityKeeper } from './authority-keeper.ts';

const hostPattern =
  /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/i;

/** Server certificates of the agent link, under the root that agents pin. */
@Injectable()
export class GatewayCertificates {
  constructor(@Inject(AuthorityKeeper) private readonly authority: AuthorityKeeper) {}

  async issue(
    input: z.output<typeof issueGatewayCertificate.input>,
  ): Promise<z.input<typeof issueGatewayCertificate.output>> {
    for (const host of input.hosts) {
      if (isIP(host) === 0 && !hostPattern.test(host)) {
        throw new ServiceError('invalid_request', { detail: 'hosts: not a host name or address' });
      }
    }
    const request = await checkEncodedRequest(input.csr);
    if (request.outcome === 'refused') {
      throw new ServiceError('invalid_request', { detail: request.detail });
    }
    const authority = this.authority.current();
    const issued = await authority.issueServerCertificate(request.publicKey, input.hosts);
    const [leaf, intermediate, root] = issued.chain;
    return {
      certificateChain: [leaf, intermediate],
      root,
      caFingerprint: authority.fingerprint,
      trustDomain: authority.trustDomain,
    };
  }
}

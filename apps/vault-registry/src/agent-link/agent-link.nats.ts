import {
  admitAgent,
  enrollAgent,
  issueCommandSigner,
  issueGatewayCertificate,
  issuePolicySigner,
  renewCertificate,
} from '@keystead/contracts/agent-link';
import type { Ctx } from '@keystead/contracts/context';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import type { z } from 'zod';
import { GatewayCertificates } from '../issuing/gateway-certificates.ts';
import { SignerCertificates } from '../issuing/signer-certificates.ts';
import { Admission } from './admission.ts';
import { Enrollment } from './enrollment.ts';
import { Renewal } from './renewal.ts';

@Controller()
export class AgentLinkBus {
  constructor(
    @Inject(Enrollment) private readonly enrollment: Enrollment,
    @Inject(Renewal) private readonly renewal: Renewal,
    @Inject(Admission) private readonly admission: Admission,
    @Inject(GatewayCertificates) private readonly gatewayCertificates: GatewayCertificates,
    @Inject(SignerCertificates) private readonly signerCertificates: SignerCertificates,
  ) {}

  @Answers(enrollAgent)
  enroll(@Caller() ctx: Ctx, @Given() input: z.output<typeof enrollAgent.input>) {
    return this.enrollment.enroll(ctx, input);
  }

  @Answers(renewCertificate)
  renew(@Caller() ctx: Ctx, @Given() input: z.output<typeof renewCertificate.input>) {
    return this.renewal.renew(ctx, input);
  }

  @Answers(admitAgent)
  admit(@Given() input: z.output<typeof admitAgent.input>) {
    return this.admission.admit(input.identities);
  }

  @Answers(issueGatewayCertificate)
  issueGatewayCertificate(@Given() input: z.output<typeof issueGatewayCertificate.input>) {
    return this.gatewayCertificates.issue(input);
  }

  @Answers(issuePolicySigner)
  issuePolicySigner(@Given() input: z.output<typeof issuePolicySigner.input>) {
    return this.signerCertificates.forPolicySets(input.organizationId, input.csr);
  }

  @Answers(issueCommandSigner)
  issueCommandSigner(@Given() input: z.output<typeof issueCommandSigner.input>) {
    return this.signerCertificates.forCommands(input.csr);
  }
}

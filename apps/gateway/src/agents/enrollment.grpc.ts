/** Enrolment over gRPC: checks the shape, asks the registry, translates its answer. */

import { type sendUnaryData, status } from '@grpc/grpc-js';
import type {
  EnrollRequest,
  EnrollResponse,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/enrollment';
import type { LinkPeer } from '@keystead/agent-protocol/link-server';
import { protocolVersion } from '@keystead/agent-protocol/services';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { AgentBackend, EnrollOutput } from './agent-backend.ts';
import { derOf } from './certificate-chain.ts';

const inFlightMax = 64;
const waitingMax = 2_000;
const nameMaxLength = limits.nameMaxLength * 4;

const refusals = {
  token_invalid: status.UNAUTHENTICATED,
  csr_invalid: status.INVALID_ARGUMENT,
  name_invalid: status.INVALID_ARGUMENT,
  limit_reached: status.RESOURCE_EXHAUSTED,
} as const;

export class Enrollment {
  readonly counters = { enrolled: 0, refused: 0, failed: 0 };
  readonly #backend: AgentBackend;
  readonly #warn: (message: string, details: Record<string, unknown>) => void;
  #inFlight = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(
    backend: AgentBackend,
    warn: (message: string, details: Record<string, unknown>) => void,
  ) {
    this.#backend = backend;
    this.#warn = warn;
  }

  async enroll(
    request: EnrollRequest | undefined,
    peer: LinkPeer | undefined,
    answer: sendUnaryData<EnrollResponse>,
  ): Promise<void> {
    if (peer === undefined || peer.refusal !== undefined) {
      answer({ code: status.UNAUTHENTICATED, details: 'the client certificate was refused' });
      return;
    }
    const wrong = wrongIn(request);
    if (request === undefined || wrong !== undefined) {
      answer({ code: status.INVALID_ARGUMENT, details: `expected ${wrong}` });
      return;
    }
    if (this.#waiting.length >= waitingMax) {
      answer({ code: status.RESOURCE_EXHAUSTED, details: 'too many enrolments at once' });
      return;
    }
    if (this.#inFlight >= inFlightMax) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#inFlight += 1;
    try {
      const output = await this.#backend.enroll({
        token: request.token,
        csr: request.certificateRequest.toString('base64'),
        vaultName: request.vaultName || null,
        agentName: request.agentName || request.host?.hostname || null,
        address: peer.remoteAddress,
        requestId: newUuid(),
      });
      this.#answer(output, answer);
    } catch (error) {
      this.counters.failed += 1;
      this.#warn('an enrolment failed', { error: String(error) });
      answer({ code: status.UNAVAILABLE, details: 'enrolment is not possible at the moment' });
    } finally {
      this.#inFlight -= 1;
      this.#waiting.shift()?.();
    }
  }

  #answer(output: EnrollOutput, answer: sendUnaryData<EnrollResponse>): void {
    if (output.outcome === 'refused') {
      this.counters.refused += 1;
      answer({ code: refusals[output.reason], details: output.detail });
      return;
    }
    this.counters.enrolled += 1;
    const chain = output.certificateChain.map(derOf);
    answer(null, {
      organizationId: toId('organization', output.organizationId),
      vaultId: toId('vault', output.vaultId),
      agentId: toId('agent', output.agentId),
      vaultName: output.vaultName,
      agentName: output.agentName,
      trustDomain: output.trustDomain,
      certificateChain: chain.slice(0, 2),
      rootCertificate: chain[2] ?? Buffer.alloc(0),
    });
  }
}

function wrongIn(request: EnrollRequest | undefined): string | undefined {
  if (request === undefined) return 'an EnrollRequest';
  if (request.version !== protocolVersion) return 'protocol version 1.0';
  if (request.token.length === 0 || request.token.length > 200) return 'a token';
  if (request.certificateRequest.length === 0 || request.certificateRequest.length > 6_000) {
    return 'a certificate request of at most 6,000 bytes';
  }
  if (request.vaultName.length > nameMaxLength) return 'a shorter vault_name';
  if (request.agentName.length > nameMaxLength) return 'a shorter agent_name';
  if ((request.host?.hostname.length ?? 0) > 255) return 'a shorter host.hostname';
  return undefined;
}

/**
 * A control plane of one process for tests of the agent: the real agent link with a real authority,
 * and a ledger in memory instead of the services.
 */
import { X509Certificate } from 'node:crypto';
import {
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import type {
  EnrollRequest,
  EnrollResponse,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/enrollment';
import {
  type AgentMessage,
  type AssignPolicySet,
  CloseReason,
  type Command,
  type ControlMessage,
  type ControlPayload,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { certificateFingerprint } from '@keystead/agent-protocol/link-client';
import { AgentLinkServer } from '@keystead/agent-protocol/link-server';
import { appendSignature, hasValidSignature } from '@keystead/agent-protocol/message-signature';
import { formatAgentUri, peerIdentityOf } from '@keystead/agent-protocol/peer-identity';
import {
  organizationSignerUri,
  policySetDigest,
  signPolicySet,
} from '@keystead/agent-protocol/policy-set-signature';
import {
  encodeControlMessage,
  enrollmentServerService,
  type ReceivedAgentMessage,
  sessionServerService,
} from '@keystead/agent-protocol/services';
import {
  ExtendedKeyUsage,
  type Issued,
  Pkcs10CertificateRequest,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { type PolicySetContent, policySetForm } from '@keystead/contracts/policy-set-content';

type Content = NonNullable<ControlPayload['content']>;

export interface Heard {
  kind: string;
  bootId: string;
  sequence: number;
  message: AgentMessage;
}

export class ControlPlane {
  readonly authority: TestAuthority;
  readonly token = 'ket_test';
  readonly vaultId = toId('vault', newUuid());
  /** uuid of the organization of every agent that enrols here. */
  readonly organizationId = newUuid();
  readonly heard: Heard[] = [];
  /** Keys of events, with how often each came. */
  readonly events = new Map<string, number>();
  /** What is handed out in parts, by digest. */
  readonly policySets = new Map<string, Buffer>();
  readonly revoked = new Set<string>();
  readonly serials = new Set<string>();
  intervalMs = 500;
  recording = true;
  answering = true;
  receipting = true;
  /** Refuses streams with certificates that were renewed. */
  refuseRenewed = false;
  leafLifeMs = 7 * 86_400_000;
  enrolments = 0;
  retryAfterMs = 0;
  port = 0;
  #server: AgentLinkServer | undefined;
  readonly #streams = new Set<{
    serial: string;
    write: (bytes: Buffer) => void;
    end: (reason: CloseReason, code: number) => void;
  }>();

  private constructor(authority: TestAuthority) {
    this.authority = authority;
  }

  static async start(): Promise<ControlPlane> {
    const plane = new ControlPlane(await TestAuthority.create());
    await plane.up();
    return plane;
  }

  get fingerprint(): string {
    return certificateFingerprint(this.authority.rootDer);
  }

  get endpoint(): string {
    return `localhost:${this.port}`;
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /** Sends a signed command to every stream; `signer` is the control plane's own unless given. */
  async command(
    number: number,
    action: NonNullable<Command['action']>,
    signer?: Issued,
  ): Promise<void> {
    const issued =
      signer ??
      (await this.authority.issue({
        names: [{ type: 'url', value: `spiffe://${testTrustDomain}/control-plane/commands` }],
      }));
    const signerCertificate = new X509Certificate(issued.certificate).raw;
    const encoded = encodeControlMessage(
      this.#envelope({
        $case: 'command',
        value: { number, signerCertificate, signerIssuer: Buffer.alloc(0), action },
      }),
    );
    for (const stream of this.#streams) stream.write(appendSignature(encoded, issued.key));
  }

  /** A signed set of this organization, ready to be handed out; what assigns it is answered. */
  async signedSet(
    organizationId: string,
    number: number,
    changes: Partial<PolicySetContent> = {},
    signer?: Issued,
  ): Promise<AssignPolicySet> {
    const content = Buffer.from(
      JSON.stringify({
        form: policySetForm,
        organizationId: toId('organization', organizationId),
        setId: toId('policySet', newUuid()),
        number,
        predecessor: '',
        createdAt: new Date().toISOString(),
        staleness: null,
        configuration: {},
        set: {
          vault: { policies: [{ id: 'all', cedar: 'permit(principal, action, resource);' }] },
        },
        ...changes,
      }),
    );
    const by = signer ?? (await this.organizationSigner(organizationId));
    const digest = policySetDigest(content);
    this.policySets.set(digest, content);
    return {
      policySet: { version: number, digest },
      totalBytes: content.length,
      signature: signPolicySet(digest, by.key),
      signerChain: [by.certificate, this.authority.intermediate].map(
        (pem) => new X509Certificate(pem).raw,
      ),
    };
  }

  organizationSigner(organizationId: string): Promise<Issued> {
    return this.authority.issue({
      names: [{ type: 'url', value: organizationSignerUri(testTrustDomain, organizationId) }],
      usages: [ExtendedKeyUsage.codeSigning],
    });
  }

  /** Listens, on the same port as before where there was one. */
  async up(): Promise<void> {
    const server = new AgentLinkServer(await this.authority.issueServer());
    server.addService(enrollmentServerService, {
      enroll: (
        call: ServerUnaryCall<EnrollRequest | undefined, EnrollResponse>,
        answer: sendUnaryData<EnrollResponse>,
      ) => void this.#enroll(call.request, answer),
    });
    server.addService(sessionServerService, {
      session: (call: ServerDuplexStream<ReceivedAgentMessage, Buffer>) => {
        const certificate = server.peerOf(call)?.certificate;
        this.#session(call, certificate);
      },
    });
    this.port = await server.listen(this.port, '127.0.0.1');
    this.#server = server;
  }

  /** Gone without a word, as after kill -9. */
  async down(): Promise<void> {
    await this.#server?.close(0);
    this.#server = undefined;
  }

  revokeAll(): void {
    for (const stream of this.#streams) {
      this.revoked.add(stream.serial);
      stream.end(CloseReason.REVOKED, status.UNAUTHENTICATED);
    }
  }

  closeAll(reason: CloseReason): void {
    for (const stream of this.#streams) stream.end(reason, status.UNAVAILABLE);
  }

  count(kind: string): number {
    return this.heard.filter((heard) => heard.kind === kind).length;
  }

  async until(condition: () => boolean, withinMs = 30_000): Promise<void> {
    const endMs = performance.now() + withinMs;
    while (!condition()) {
      if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async #enroll(
    request: EnrollRequest | undefined,
    answer: sendUnaryData<EnrollResponse>,
  ): Promise<void> {
    if (request?.token !== this.token) {
      answer({ code: status.UNAUTHENTICATED, details: 'the token is unknown, used up or expired' });
      return;
    }
    this.enrolments += 1;
    const { organizationId } = this;
    const agentId = newUuid();
    answer(null, {
      organizationId: toId('organization', organizationId),
      vaultId: this.vaultId,
      agentId: toId('agent', agentId),
      vaultName: request.vaultName,
      agentName: request.agentName,
      trustDomain: testTrustDomain,
      certificateChain: await this.#certify(
        request.certificateRequest,
        formatAgentUri(testTrustDomain, organizationId, agentId),
      ),
      rootCertificate: this.authority.rootDer,
    });
  }

  async #certify(request: Buffer, uri: string): Promise<Buffer[]> {
    const publicKey = await new Pkcs10CertificateRequest(request).publicKey.export();
    const leaf = await this.authority.certify(publicKey, {
      names: [{ type: 'url', value: uri }],
      notBefore: new Date(Date.now() - 1_000),
      notAfter: new Date(Date.now() + this.leafLifeMs),
    });
    return [leaf, this.authority.intermediate].map((pem) => new X509Certificate(pem).raw);
  }

  #envelope(content: Content): ControlMessage {
    return {
      version: '1.0',
      timestampUnixMs: Date.now(),
      vaultId: this.vaultId,
      messageType: 6,
      payload: { encrypted: false, metadataOnly: true, content },
      signature: Buffer.alloc(0),
    };
  }

  #session(
    call: ServerDuplexStream<ReceivedAgentMessage, Buffer>,
    certificate: X509Certificate | undefined,
  ): void {
    call.on('error', () => {});
    const identity = certificate && peerIdentityOf(certificate, testTrustDomain);
    if (certificate === undefined || identity === undefined) {
      call.emit('error', { code: status.UNAUTHENTICATED, details: 'no certificate' });
      return;
    }
    const serial = identity.serialNumber;
    const isRenewed = this.serials.size > 0 && !this.serials.has(serial);
    const stream = {
      serial,
      write: (bytes: Buffer) => void call.write(bytes),
      end: (reason: CloseReason, code: number) => {
        send({ $case: 'close', value: { reason, retryAfterMs: this.retryAfterMs } });
        call.emit('error', { code, details: 'closed' });
        this.#streams.delete(stream);
      },
    };
    const send = (content: Content) => call.write(encodeControlMessage(this.#envelope(content)));
    this.#streams.add(stream);
    call.on('close', () => this.#streams.delete(stream));
    if (this.revoked.has(serial) || (this.refuseRenewed && isRenewed)) {
      stream.end(CloseReason.REVOKED, status.UNAUTHENTICATED);
      return;
    }
    call.on('data', ({ message, bytes }: ReceivedAgentMessage) => {
      const content = message?.payload?.content;
      if (message === undefined || content === undefined) return;
      const { bootId, sequence } = message;
      const kind = content.$case === 'event' ? (content.value.kind?.$case ?? '') : content.$case;
      this.heard.push({ kind, bootId, sequence, message });
      switch (content.$case) {
        case 'hello':
          this.serials.add(serial);
          send({
            $case: 'welcome',
            value: {
              heartbeatIntervalMs: this.intervalMs,
              answerDeadlineMs: 2_000,
              serverTimeUnixMs: Date.now(),
              assignedPolicySet: undefined,
              retainedWindow: 8,
            },
          });
          break;
        case 'heartbeat':
          if (this.answering) {
            send({
              $case: 'heartbeatAnswer',
              value: {
                number: content.value.number,
                recorded: this.recording,
                heartbeatIntervalMs: this.intervalMs,
                assignedPolicySet: undefined,
              },
            });
          }
          break;
        case 'event': {
          if (!hasValidSignature(bytes, certificate.publicKey)) {
            stream.end(CloseReason.PROTOCOL, status.INVALID_ARGUMENT);
            return;
          }
          if (!this.receipting) break;
          const key = `${bootId} ${sequence}`;
          this.events.set(key, (this.events.get(key) ?? 0) + 1);
          send({ $case: 'receipt', value: { bootId, sequences: [sequence] } });
          break;
        }
        case 'renewalRequest':
          void this.#certify(
            content.value.certificateRequest,
            formatAgentUri(testTrustDomain, identity.organizationId, identity.agentId),
          ).then((certificateChain) =>
            send({
              $case: 'certificateIssued',
              value: { certificateChain, rootCertificate: Buffer.alloc(0) },
            }),
          );
          break;
        case 'policySetRequest': {
          const { policySet, offset } = content.value;
          const set = this.policySets.get(policySet?.digest ?? '');
          send({
            $case: 'policySetChunk',
            value: {
              policySet,
              offset,
              content: set?.subarray(offset, offset + 48 * 1024) ?? Buffer.alloc(0),
            },
          });
          break;
        }
        case 'goodbye':
          call.end();
          break;
      }
    });
    call.on('end', () => call.end());
  }
}

/**
 * The other end for measuring the agent link alone, in a process of its own: the gateway's half with
 * a backend that answers from memory, or a bare grpc-js echo over the same TLS as the floor.
 * Run with --conditions=keystead-source; told what to be by its parent.
 */
import { randomBytes } from 'node:crypto';
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import type { ServerTrust } from '@keystead/agent-protocol/link-server';
import {
  policySetChunkBytes,
  policySetDigest,
} from '@keystead/agent-protocol/policy-set-signature';
import { encodeControlMessage } from '@keystead/agent-protocol/services';
import { testTrustDomain } from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { AgentBackend } from '../../apps/gateway/src/agents/agent-backend.ts';
import { AgentLink } from '../../apps/gateway/src/agents/agent-link.ts';

export interface LinkServerOrder {
  kind: 'echo' | 'link' | 'push' | 'hand-out';
  trust: ServerTrust;
  /** uuid of an agent → uuid of its vault. */
  vaults: Record<string, string>;
  commitMs: number;
  /** A free one when left out. */
  port?: number;
  /** For `push` and `hand-out`: how large the policy set is. */
  setBytes?: number;
  organizationId?: string;
}

process.once('message', (order: LinkServerOrder) => {
  void (order.kind === 'echo' || order.kind === 'hand-out' ? echo(order) : link(order));
});
process.on('disconnect', () => process.exit(0));

/** What grpc-js does with a stream and nothing else. */
async function echo({
  kind,
  setBytes = 0,
  trust,
  port: wanted = 0,
}: LinkServerOrder): Promise<void> {
  const server = new Server({ 'grpc.enable_channelz': 0 });
  const pass = (bytes: Buffer) => bytes;
  // For each message as many bytes as a part of a set has.
  const part = kind === 'echo' ? undefined : randomBytes(Math.min(setBytes, policySetChunkBytes));
  server.addService(
    {
      session: {
        path: '/keystead.agent.v1.SessionService/Session',
        requestStream: true,
        responseStream: true,
        requestSerialize: pass,
        requestDeserialize: pass,
        responseSerialize: pass,
        responseDeserialize: pass,
      },
    } as never,
    {
      session(call: ServerDuplexStream<Buffer, Buffer>) {
        call.on('data', (bytes: Buffer) => call.write(part ?? bytes));
        call.on('error', () => {});
        call.on('end', () => call.end());
      },
    },
  );
  const credentials = ServerCredentials.createSsl(
    Buffer.from(trust.authorities.join('\n')),
    [
      {
        cert_chain: Buffer.from(trust.certificateChain),
        private_key: Buffer.from(trust.privateKey),
      },
    ],
    true,
  );
  server.bindAsync(`127.0.0.1:${wanted}`, credentials, (_error, port) => report(port));
}

/** What the policy service would say: everybody is to hold one set, once it is assigned. */
function setOf(bytes: number) {
  const content = randomBytes(bytes);
  const policySet = { version: 1, digest: policySetDigest(content) };
  const signature = randomBytes(72);
  const certificate = randomBytes(650);
  const command = encodeControlMessage({
    version: '1.0',
    timestampUnixMs: Date.now(),
    vaultId: '',
    messageType: 4,
    payload: {
      encrypted: false,
      metadataOnly: true,
      content: {
        $case: 'command',
        value: {
          number: 1,
          signerCertificate: certificate,
          signerIssuer: certificate,
          action: {
            $case: 'assignPolicySet',
            value: {
              policySet,
              totalBytes: bytes,
              signature,
              signerChain: [certificate, certificate],
            },
          },
        },
      },
    },
    signature,
  }).toString('base64');
  return { content, command, held: { number: 1, digest: policySet.digest } };
}

async function link(order: LinkServerOrder): Promise<void> {
  const { trust, vaults, commitMs, port = 0, setBytes = 0, organizationId = '' } = order;
  const set = order.kind === 'push' ? setOf(setBytes) : undefined;
  let isAssigned = false;
  const wait = () => new Promise<void>((resolve) => setTimeout(resolve, commitMs));
  const backend: AgentBackend = {
    enroll: async () => ({ outcome: 'refused', reason: 'token_invalid', detail: '' }),
    admit: async (identities) => {
      await wait();
      return identities.map(({ agentId }) => ({
        outcome: 'admitted',
        vaultId: vaults[agentId] ?? newUuid(),
        intervalMs: 30_000,
        assignedPolicySetVersion: isAssigned ? 1 : null,
      }));
    },
    beats: async ({ beats }) => {
      // What the bus would do with it.
      Buffer.from(JSON.stringify(beats));
      await wait();
      return beats.map(() => ({
        outcome: 'recorded',
        intervalMs: 30_000,
        assignedPolicySetVersion: isAssigned ? 1 : null,
      }));
    },
    events: wait,
    deliver: async (agents) => {
      await wait();
      return agents.map(({ held }) => ({
        assigned: set && isAssigned ? set.held : null,
        command: set && isAssigned && held?.digest !== set.held.digest ? set.command : null,
        commands: [],
      }));
    },
    policySetPart: async ({ offset }) => {
      await wait();
      const part = set?.content.subarray(offset, offset + limits.policySetPartBytes);
      return { totalBytes: setBytes, content: part?.toString('base64') ?? null };
    },
    renew: async () => ({ outcome: 'refused', detail: '' }),
    signals: wait,
    revokedSince: async () => ({ revoked: [], cursor: '' }),
  };
  const agentLink = new AgentLink({ backend, trust, trustDomain: testTrustDomain });
  process.on('message', (message) => {
    if (message !== 'assign') return;
    isAssigned = true;
    agentLink.lookAtPolicies(organizationId);
  });
  report(await agentLink.start(port, '127.0.0.1'));
}

function report(port: number): void {
  process.send?.({ port });
  let before = process.cpuUsage();
  process.on('message', (message) => {
    if (message !== 'usage' && message !== 'collected-usage') return;
    // What is held, not what waits to be collected. It takes a second of a server with many streams.
    if (message === 'collected-usage') globalThis.gc?.();
    const used = process.cpuUsage(before);
    before = process.cpuUsage();
    process.send?.({
      rssBytes: process.memoryUsage.rss(),
      heapBytes: process.memoryUsage().heapUsed + process.memoryUsage().external,
      cpuMs: (used.user + used.system) / 1_000,
    });
  });
}

/**
 * The other end for measuring the agent link alone, in a process of its own: the gateway's half with
 * a backend that answers from memory, or a bare grpc-js echo over the same TLS as the floor.
 * Run with --conditions=keystead-source; told what to be by its parent.
 */
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import type { ServerTrust } from '@keystead/agent-protocol/link-server';
import { testTrustDomain } from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid } from '@keystead/contracts/ids';
import type { AgentBackend } from '../../apps/gateway/src/agents/agent-backend.ts';
import { AgentLink } from '../../apps/gateway/src/agents/agent-link.ts';

export interface LinkServerOrder {
  kind: 'echo' | 'link';
  trust: ServerTrust;
  /** uuid of an agent → uuid of its vault. */
  vaults: Record<string, string>;
  commitMs: number;
  /** A free one when left out. */
  port?: number;
}

process.once('message', (order: LinkServerOrder) => {
  void (order.kind === 'echo' ? echo(order) : link(order));
});
process.on('disconnect', () => process.exit(0));

/** What grpc-js does with a stream and nothing else. */
async function echo({ trust, port: wanted = 0 }: LinkServerOrder): Promise<void> {
  const server = new Server({ 'grpc.enable_channelz': 0 });
  const pass = (bytes: Buffer) => bytes;
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
        call.on('data', (bytes: Buffer) => call.write(bytes));
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

async function link({ trust, vaults, commitMs, port = 0 }: LinkServerOrder): Promise<void> {
  const wait = () => new Promise<void>((resolve) => setTimeout(resolve, commitMs));
  const backend: AgentBackend = {
    enroll: async () => ({ outcome: 'refused', reason: 'token_invalid', detail: '' }),
    admit: async (identities) => {
      await wait();
      return identities.map(({ agentId }) => ({
        outcome: 'admitted',
        vaultId: vaults[agentId] ?? newUuid(),
        intervalMs: 30_000,
        assignedPolicySetVersion: null,
      }));
    },
    beats: async ({ beats }) => {
      // What the bus would do with it.
      Buffer.from(JSON.stringify(beats));
      await wait();
      return beats.map(() => ({
        outcome: 'recorded',
        intervalMs: 30_000,
        assignedPolicySetVersion: null,
      }));
    },
    events: wait,
    deliver: async (agents) => agents.map(() => ({ assigned: null, command: null })),
    policySetPart: async () => ({ totalBytes: 0, content: null }),
    renew: async () => ({ outcome: 'refused', detail: '' }),
    signals: wait,
    revokedSince: async () => ({ revoked: [], cursor: '' }),
  };
  const agentLink = new AgentLink({ backend, trust, trustDomain: testTrustDomain });
  report(await agentLink.start(port, '127.0.0.1'));
}

function report(port: number): void {
  process.send?.({ port });
  let before = process.cpuUsage();
  process.on('message', () => {
    // What is held, not what waits to be collected.
    globalThis.gc?.();
    const used = process.cpuUsage(before);
    before = process.cpuUsage();
    process.send?.({
      rssBytes: process.memoryUsage.rss(),
      heapBytes: process.memoryUsage().heapUsed + process.memoryUsage().external,
      cpuMs: (used.user + used.system) / 1_000,
    });
  });
}

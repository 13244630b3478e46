/**
 * A policy set to a whole fleet at once: from the nudge to the last agent that has every byte, over real
 * mTLS streams, with half of the fleet away and coming back. The floor hands the same bytes out in the
 * same parts to the same clients on a bare grpc-js server. What the policy service adds (a query and a
 * signature an agent) is not in it.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  AgentMessage,
  type AgentPayload,
  ControlMessage,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { formatAgentUri } from '@keystead/agent-protocol/peer-identity';
import { policySetChunkBytes } from '@keystead/agent-protocol/policy-set-signature';
import {
  generateKeys,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { pause } from './fleet/echo-floor.ts';
import type { LinkServerOrder } from './fleet/link-server.ts';
import { RawSession } from './fleet/raw-session.ts';
import { calibrate, median, printTable, round, spread } from './report.ts';

const { values } = parseArgs({
  options: {
    agents: { type: 'string', default: '1000' },
    bytes: { type: 'string', default: '100000' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
});
const count = Number(values.agents);
const setBytes = Number(values.bytes);
const rounds = Number(values.rounds);
const parts = Math.ceil(setBytes / policySetChunkBytes);

const authority = await TestAuthority.create();
const trust = await authority.issueServer();
const organizationId = newUuid();
const keys = await Promise.all(Array.from({ length: 8 }, generateKeys));
const vaults: Record<string, string> = {};
const identities: { vaultId: string; certificateChain: string; privateKey: string }[] = [];
for (let index = 0; index < count; index += 1) {
  const agentId = newUuid();
  const vaultId = newUuid();
  vaults[agentId] = vaultId;
  const issued = await authority.issue({
    names: [{ type: 'url', value: formatAgentUri(testTrustDomain, organizationId, agentId) }],
    keys: keys[index % keys.length] as (typeof keys)[number],
  });
  identities.push({ vaultId: toId('vault', vaultId), ...issued });
}

interface Usage {
  rssBytes: number;
  heapBytes: number;
  cpuMs: number;
}

async function startServer(kind: LinkServerOrder['kind']) {
  const child: ChildProcess = fork(new URL('./fleet/link-server.ts', import.meta.url), {
    execArgv: [
      '--conditions=keystead-source',
      '--disable-warning=ExperimentalWarning',
      '--expose-gc',
    ],
  });
  const next = <T>() => new Promise<T>((resolve) => child.once('message', (m) => resolve(m as T)));
  const ready = next<{ port: number }>();
  const order: LinkServerOrder = { kind, trust, vaults, commitMs: 5, setBytes, organizationId };
  child.send(order);
  const { port } = await ready;
  return {
    port,
    assign: () => child.send('assign'),
    usage: (kind: 'usage' | 'collected-usage' = 'usage') => {
      const answer = next<Usage>();
      child.send(kind);
      return answer;
    },
    stop: () => child.disconnect(),
  };
}
type LinkServer = Awaited<ReturnType<typeof startServer>>;

type Content = NonNullable<AgentPayload['content']>;

/** The agent's end, as far as a set is concerned. */
class Puller {
  readonly #identity: (typeof identities)[number];
  readonly #bootId = newUuid();
  #session: RawSession | undefined;
  #received = 0;
  #isClosed = false;
  isOpen = false;
  doneAtMs = 0;

  constructor(identity: (typeof identities)[number]) {
    this.#identity = identity;
  }

  open(port: number, isFloor: boolean): void {
    const { certificateChain, privateKey } = this.#identity;
    this.#session = new RawSession({
      host: '127.0.0.1',
      port,
      root: authority.root,
      certificateChain,
      privateKey,
      onMessage: (bytes) => (isFloor ? this.#part(bytes.length) : this.#hear(bytes)),
      onEnd: () => {
        this.isOpen = false;
        // Asked to come back later, or dropped by a full backlog.
        if (!this.#isClosed) setTimeout(() => this.open(port, isFloor), 500);
      },
    });
    if (!isFloor) this.#send(MessageType.REGISTRATION, { $case: 'hello', value: hello });
    else this.#session.send(request);
  }

  /** The floor's way: every message is answered with a part. */
  pull(): void {
    this.#received = 0;
    this.#session?.send(request);
  }

  close(): void {
    this.#isClosed = true;
    this.#session?.destroy();
    this.isOpen = false;
  }

  #part(length: number): void {
    this.#received += length;
    if (!this.isOpen) this.isOpen = true;
    else if (this.#received >= setBytes) this.doneAtMs = performance.now();
    else this.#session?.send(request);
  }

  #hear(bytes: Buffer): void {
    const content = ControlMessage.decode(bytes).payload?.content;
    if (content?.$case === 'welcome') this.isOpen = true;
    if (content?.$case === 'command' && content.value.action?.$case === 'assignPolicySet') {
      this.#received = 0;
      this.#ask(content.value.action.value.policySet);
    }
    if (content?.$case === 'policySetChunk') {
      this.#received += content.value.content.length;
      if (this.#received >= setBytes) this.doneAtMs = performance.now();
      else this.#ask(content.value.policySet);
    }
  }

  #ask(policySet: { version: number; digest: string } | undefined): void {
    const value = { policySet, offset: this.#received };
    this.#send(MessageType.POLICY_UPDATE, { $case: 'policySetRequest', value });
  }

  #send(messageType: MessageType, content: Content): void {
    const encoded = AgentMessage.encode({
      version: '1.0',
      timestampUnixMs: Date.now(),
      vaultId: this.#identity.vaultId,
      messageType,
      payload: { encrypted: false, metadataOnly: true, content },
      offlineCapable: false,
      bootId: this.#bootId,
      sequence: 0,
      signature: Buffer.alloc(0),
    }).finish();
    this.#session?.send(encoded);
  }
}

const request = Buffer.alloc(150, 1);
const hello = {
  agentVersion: '0.1.0',
  host: {
    hostname: 'bench',
    platform: 'linux',
    release: '1',
    architecture: 'x64',
    cpuCount: 2,
    memoryBytes: 1,
    runtime: 'v24',
  },
  policySet: undefined,
  configurationDigest: '',
  startedAtUnixMs: Date.now(),
  queuedMessages: 0,
};

async function openAll(pullers: readonly Puller[], server: LinkServer, isFloor: boolean) {
  let begun = 0;
  while (begun < pullers.length) {
    const open = pullers.filter((puller, index) => index < begun && puller.isOpen).length;
    if (begun - open < 100) {
      for (const puller of pullers.slice(begun, begun + 50)) puller.open(server.port, isFloor);
      begun += 50;
    } else await pause(5);
  }
  while (pullers.some((puller) => !puller.isOpen)) await pause(5);
  await pause(500);
}

/** @returns how long after `begin` each agent had it all, and the server's peak of memory meanwhile */
async function untilDone(pullers: readonly Puller[], server: LinkServer, begin: () => void) {
  const { rssBytes } = await server.usage('collected-usage');
  for (const puller of pullers) puller.doneAtMs = 0;
  const fromMs = performance.now();
  begin();
  let peakRssBytes = 0;
  // Each answer counts from the one before.
  let cpuMs = 0;
  const look = async () => {
    const used = await server.usage();
    cpuMs += used.cpuMs;
    peakRssBytes = Math.max(peakRssBytes, used.rssBytes);
  };
  while (pullers.some(({ doneAtMs }) => doneAtMs === 0)) {
    await pause(250);
    await look();
  }
  await look();
  const took = pullers.map(({ doneAtMs }) => doneAtMs - fromMs);
  return {
    lastMs: Math.max(...took),
    took,
    cpuMs,
    peakBytes: peakRssBytes - rssBytes,
  };
}
type Measured = Awaited<ReturnType<typeof untilDone>>;

async function measureFloor(): Promise<Measured> {
  const server = await startServer('hand-out');
  const pullers = identities.map((identity) => new Puller(identity));
  await openAll(pullers, server, true);
  const measured = await untilDone(pullers, server, () => {
    for (const puller of pullers) puller.pull();
  });
  for (const puller of pullers) puller.close();
  server.stop();
  return measured;
}

/** The first half is there, the second half comes when it is assigned already. */
async function measurePush(): Promise<{ there: Measured; returning: Measured }> {
  const server = await startServer('push');
  const pullers = identities.map((identity) => new Puller(identity));
  await openAll(pullers, server, false);
  const there = await untilDone(pullers, server, server.assign);
  for (const puller of pullers) puller.close();
  await pause(1_000);
  const away = identities.slice(count / 2).map((identity) => new Puller(identity));
  const returning = await untilDone(away, server, () => void openAll(away, server, false));
  for (const puller of away) puller.close();
  server.stop();
  return { there, returning };
}

const floors: Measured[] = [];
const there: Measured[] = [];
const returning: Measured[] = [];
for (let index = 0; index < rounds; index += 1) {
  floors.push(await measureFloor());
  const pushed = await measurePush();
  there.push(pushed.there);
  returning.push(pushed.returning);
}
const of = (measured: Measured[], key: 'lastMs' | 'cpuMs' | 'peakBytes') =>
  median(measured.map((each) => each[key]));
const row = (what: string, agents: number, measured: Measured[]) => ({
  what,
  agents,
  'last ms': Math.round(of(measured, 'lastMs')),
  'p50 ms': Math.round(spread(measured.flatMap(({ took }) => took)).p50Ms),
  'MB/s': round((agents * setBytes) / of(measured, 'lastMs') / 1_000),
  'cpu ms/agent': round(of(measured, 'cpuMs') / agents),
  'peak MB': round(of(measured, 'peakBytes') / 1_000_000),
});
printTable([
  row(`bare grpc-js, ${parts} parts`, count, floors),
  row('pushed to streams that are open', count, there),
  row('given to agents that return', Math.ceil(count / 2), returning),
]);
const ratio = of(there, 'lastMs') / of(floors, 'lastMs');
console.log(`ratio ${round(ratio)} at ${count} agents and ${setBytes} bytes`);
if (values.json) {
  console.log(
    JSON.stringify({
      bench: 'policy-push',
      ratio: round(ratio),
      better: 'lower',
      floor: Math.round(of(floors, 'lastMs')),
      ours: Math.round(of(there, 'lastMs')),
      unit: 'ms to the last agent',
      ...spread(there.flatMap(({ took }) => took)),
      peakRssBytes: Math.round(of(there, 'peakBytes')),
      rounds,
      calibrationMs: calibrate(),
    }),
  );
}

process.exit(0);

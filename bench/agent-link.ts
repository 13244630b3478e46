/**
 * The agent link alone: beats through the gateway's half with a backend that answers from memory,
 * beside a bare grpc-js echo of the same message over the same mTLS, from the same clients. What the
 * services add is measured by `ingest`. Also the memory of a connected agent.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import { formatAgentUri } from '@keystead/agent-protocol/peer-identity';
import {
  generateKeys,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import { pause, sampleBeat } from './fleet/echo-floor.ts';
import { Fleet } from './fleet/fleet.ts';
import type { FleetIdentity } from './fleet/identities.ts';
import type { LinkServerOrder } from './fleet/link-server.ts';
import { RawSession } from './fleet/raw-session.ts';
import { calibrate, median, printTable, round } from './report.ts';

const { values } = parseArgs({
  options: {
    streams: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
});
const streams = Number(values.streams);
const seconds = Number(values.seconds);
const rounds = Number(values.rounds);

const authority = await TestAuthority.create();
const trust = await authority.issueServer();
const vaults: Record<string, string> = {};
const keys = await Promise.all(Array.from({ length: 8 }, generateKeys));
const identities: FleetIdentity[] = [];
for (let index = 0; index < streams; index += 1) {
  const organizationId = newUuid();
  const agentId = newUuid();
  const vaultId = newUuid();
  vaults[agentId] = vaultId;
  const issued = await authority.issue({
    names: [{ type: 'url', value: formatAgentUri(testTrustDomain, organizationId, agentId) }],
    keys: keys[index % keys.length] as (typeof keys)[number],
  });
  identities.push({
    agentId: toId('agent', agentId),
    vaultId: toId('vault', vaultId),
    certificateChain: issued.certificateChain,
    privateKey: issued.privateKey,
  });
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
  child.send({ kind, trust, vaults, commitMs: 5 } satisfies LinkServerOrder);
  const { port } = await ready;
  return {
    port,
    usage: () => {
      const answer = next<Usage>();
      child.send('collected-usage');
      return answer;
    },
    stop: () => child.disconnect(),
  };
}

interface Measured {
  perSecond: number;
  cpuMsPerThousand: number;
  bytesPerConnection: number;
  heldPerConnection: number;
  p50Ms: number;
  p99Ms: number;
  connectMs: number;
}

async function measureEcho(): Promise<Measured> {
  const server = await startServer('echo');
  const idle = await server.usage();
  let answered = 0;
  let open = 0;
  const sentMs = new Float64Array(streams);
  const times: number[] = [];
  const startedMs = performance.now();
  const sessions: RawSession[] = [];
  let running = false;
  for (const [index, { certificateChain, privateKey }] of identities.entries()) {
    sessions.push(
      new RawSession({
        host: '127.0.0.1',
        port: server.port,
        root: authority.root,
        certificateChain,
        privateKey,
        onMessage: () => {
          const now = performance.now();
          if (answered % 16 === 0) times.push(now - (sentMs[index] ?? 0));
          answered += 1;
          open += 1;
          if (running) {
            sentMs[index] = now;
            sessions[index]?.send(sampleBeat);
          }
        },
        onEnd: () => {
          if (open < streams) throw new Error('the echo lost a connection while it was set up');
        },
      }),
    );
    sessions[index]?.send(sampleBeat);
    // A bare listener drops what its backlog cannot hold.
    while (sessions.length - open >= 200) await pause(1);
  }
  while (open < streams) await pause(5);
  const connectMs = performance.now() - startedMs;
  await pause(500);
  const connected = await server.usage();
  running = true;
  times.length = 0;
  answered = 0;
  const fromMs = performance.now();
  for (const [index, session] of sessions.entries()) {
    sentMs[index] = performance.now();
    session.send(sampleBeat);
  }
  await pause(seconds * 1_000);
  const elapsedMs = performance.now() - fromMs;
  const count = answered;
  const used = await server.usage();
  running = false;
  for (const session of sessions) session.destroy();
  server.stop();
  return finish(count, elapsedMs, connectMs, idle, connected, used, times);
}

async function measureLink(): Promise<Measured> {
  const server = await startServer('link');
  const idle = await server.usage();
  const fleet = new Fleet({
    host: '127.0.0.1',
    port: server.port,
    root: authority.root,
    beats: 'none',
    reconnect: false,
  });
  const { elapsedMs: connectMs } = await fleet.connect(identities, 1_000_000);
  await pause(500);
  const connected = await server.usage();
  fleet.options.beats = 'closed';
  fleet.latencies.clear();
  const before = fleet.counters.beatsRecorded;
  const fromMs = performance.now();
  for (const agent of fleet.agents) agent.beat();
  await pause(seconds * 1_000);
  const elapsedMs = performance.now() - fromMs;
  const count = fleet.counters.beatsRecorded - before;
  const used = await server.usage();
  const { p50Ms, p99Ms } = fleet.latencies.read();
  fleet.close();
  server.stop();
  return { ...finish(count, elapsedMs, connectMs, idle, connected, used, []), p50Ms, p99Ms };
}

function finish(
  count: number,
  elapsedMs: number,
  connectMs: number,
  idle: Usage,
  connected: Usage,
  used: Usage,
  times: number[],
): Measured {
  times.sort((one, other) => one - other);
  return {
    perSecond: (count / elapsedMs) * 1_000,
    cpuMsPerThousand: (used.cpuMs / count) * 1_000,
    bytesPerConnection: (connected.rssBytes - idle.rssBytes) / streams,
    heldPerConnection: (connected.heapBytes - idle.heapBytes) / streams,
    p50Ms: times[Math.floor(times.length * 0.5)] ?? 0,
    p99Ms: times[Math.floor(times.length * 0.99)] ?? 0,
    connectMs,
  };
}

const echoes: Measured[] = [];
const links: Measured[] = [];
for (let index = 0; index < rounds; index += 1) {
  echoes.push(await measureEcho());
  links.push(await measureLink());
}
const of = (measured: Measured[], key: keyof Measured) => median(measured.map((each) => each[key]));
const row = (name: string, measured: Measured[]) => ({
  what: name,
  'beats/s': Math.round(of(measured, 'perSecond')),
  'cpu ms/1000': round(of(measured, 'cpuMsPerThousand')),
  'kB/connection': round(of(measured, 'bytesPerConnection') / 1_000),
  'held kB': round(of(measured, 'heldPerConnection') / 1_000),
  'p50 ms': round(of(measured, 'p50Ms')),
  'p99 ms': round(of(measured, 'p99Ms')),
  'connect ms': Math.round(of(measured, 'connectMs')),
});
printTable([row('bare grpc-js echo', echoes), row('agent link', links)]);
const ratio = of(links, 'perSecond') / of(echoes, 'perSecond');
console.log(`ratio ${round(ratio)} at ${streams} streams`);
if (values.json) {
  console.log(
    JSON.stringify({
      bench: 'agent-link',
      ratio: round(ratio),
      better: 'higher',
      floor: Math.round(of(echoes, 'perSecond')),
      ours: Math.round(of(links, 'perSecond')),
      unit: 'beats/s',
      p50Ms: round(of(links, 'p50Ms')),
      p99Ms: round(of(links, 'p99Ms')),
      peakRssBytes: Math.round(of(links, 'bytesPerConnection')),
      rounds,
      calibrationMs: calibrate(),
    }),
  );
}

process.exit(0);

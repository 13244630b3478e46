/**
 * Secret values read over HTTPS from a running agent, on one core: authentication, authorization,
 * decryption and the audit on the disk before the answer are on. The floor is a bare Fastify over the
 * same TLS that answers the same bytes and does nothing else, from the same load, in turn.
 *
 *   npm run bench -- agent-read [--seconds 4] [--rounds 3] [--secrets 10000] [--growth 100000] [--http 1]
 *
 * `--growth` goes on to that many secrets and measures again at each power of ten. They are written beside
 * the agent, into its store: 1000000 take some minutes and 1 GB of the disk. "reads/s" is of 10,000 of
 * them, which the cache holds; "of all/s" of 200 for each connection, wherever they are, of which it holds few.
 */
import { startAgent, startBare } from './agent/agent-process.ts';
import { compare, figuresAt, measure, sender } from './agent/load.ts';
import { storeSecrets } from './agent/stored-secrets.ts';
import { argument, calibrate, finish, printTable, round } from './report.ts';

const seconds = argument('seconds', 4);
const rounds = argument('rounds', 3);
const secrets = argument('secrets', 10_000);
const growth = argument('growth', 100_000);
const tls = argument('http', 0) === 0;
const connectionCounts = [16, 64, 256];

const agent = await startAgent(tls);
const send = sender(agent.origin, agent.key, 64);
let paths = await storeSecrets(agent.configuration, Math.min(1_000, secrets));
const sample = await send('GET', paths[0] ?? '');
const bare = await startBare(sample.text, tls ? agent : undefined);
const headers = { authorization: `Bearer ${agent.key}` };

const drawn = (most: number) => {
  const step = Math.max(1, Math.floor(paths.length / most));
  return paths
    .filter((_, index) => index % step === 0)
    .map((path) => ({ method: 'GET' as const, path }));
};
const load = (origin: string, connections: number, over = seconds, most = 10_000) =>
  measure({ origin, connections, seconds: over, headers, requests: drawn(most) });

const growthRows: Record<string, string | number>[] = [];
async function measureGrowth(): Promise<void> {
  const floor = await load(bare.origin, 64);
  const ours = await load(agent.origin, 64);
  const rare = await load(agent.origin, 64, seconds, paths.length);
  growthRows.push({
    secrets: paths.length,
    'reads/s': Math.round(ours.perSecond),
    'p99 ms': round(ours.p99Ms),
    'bare/s': Math.round(floor.perSecond),
    ratio: round(ours.perSecond / floor.perSecond),
    'of all/s': Math.round(rare.perSecond),
    'RSS MiB': Math.round(agent.rssBytes() / 2 ** 20),
    'peak RSS MiB': Math.round(agent.peakRssBytes() / 2 ** 20),
  });
}

await load(agent.origin, 64, 2);
await load(bare.origin, 64, 2);
await measureGrowth();
paths = paths.concat(await storeSecrets(agent.configuration, secrets, paths.length));
await load(agent.origin, 64, 2);

const rows = await compare(connectionCounts, rounds, {
  ours: (connections) => load(agent.origin, connections),
  floor: (connections) => load(bare.origin, connections),
});
const rssAtSecrets = agent.peakRssBytes();
printTable(rows);

for (let next = 10_000; next <= growth; next *= 10) {
  const startedMs = performance.now();
  paths = paths.concat(await storeSecrets(agent.configuration, next, paths.length));
  console.log(`${next} secrets stored after ${round((performance.now() - startedMs) / 1_000)} s`);
  await load(agent.origin, 64, 2);
  await measureGrowth();
}
console.log('\nas the vault grows, 64 connections');
printTable(growthRows);

const first = growthRows[0]?.['reads/s'] as number;
const last = growthRows.at(-1)?.['reads/s'] as number;
finish({
  bench: 'agent-read',
  ...figuresAt(rows, 64),
  unit: 'reads/s',
  secrets,
  costOfGrowth: round(first / last),
  peakRssBytes: rssAtSecrets,
  rounds,
  calibrationMs: calibrate(),
});
send.end();
await bare.stop();
await agent.stop();
process.exit(0);

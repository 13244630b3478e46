/**
 * Secrets stored over HTTPS by a running agent on SQLite: each write is authenticated, authorized, audited
 * before and after, sealed, and on the disk when it is answered. The floor is a bare Fastify over the same
 * TLS that takes the same bodies and answers the same bytes without keeping anything, in turn; beside it
 * stands how many times a second this disk syncs a file, which one client alone cannot get past.
 *
 *   npm run bench -- agent-write [--seconds 4] [--rounds 3]
 */
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startAgent, startBare } from './agent/agent-process.ts';
import { compare, figuresAt, measure, sender } from './agent/load.ts';
import { argument, calibrate, finish, median, printTable } from './report.ts';

const seconds = argument('seconds', 4);
const rounds = argument('rounds', 3);
const connectionCounts = [1, 16, 64, 256];
const secrets = 2_000;

/** Of a file that grows by a line each time, for a second. */
function syncsPerSecond(): number {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-sync-'));
  const file = openSync(join(folder, 'file'), 'w');
  const line = Buffer.alloc(300, 0x61);
  const startedMs = performance.now();
  let count = 0;
  while (performance.now() - startedMs < 1_000) {
    writeSync(file, line);
    fdatasyncSync(file);
    count += 1;
  }
  closeSync(file);
  rmSync(folder, { recursive: true });
  return Math.round((1_000 * count) / (performance.now() - startedMs));
}

const agent = await startAgent(true);
const send = sender(agent.origin, agent.key, 16);
await send('POST', '/v1/namespaces', { name: 'bench' });
const path = (index: number) => `/v1/namespaces/bench/secrets/s%2F${index}/value`;
for (let start = 0; start < secrets; start += 100) {
  await Promise.all(
    Array.from({ length: 100 }, (_, offset) =>
      send('POST', '/v1/namespaces/bench/secrets', {
        name: `s/${start + offset}`,
        value: 'first',
        // New versions replace old ones: the store stays as large as it is.
        maxVersions: 2,
      }),
    ),
  );
}
const body = JSON.stringify({ value: 'a value of the length that a password may have' });
const requests = Array.from({ length: secrets }, (_, index) => ({
  method: 'PUT' as const,
  path: path(index),
  body,
}));
const sample = await send('PUT', path(0), JSON.parse(body));
if (sample.status !== 200) throw new Error(sample.text);
const bare = await startBare(sample.text, agent);
const headers = { authorization: `Bearer ${agent.key}`, 'content-type': 'application/json' };
const load = (origin: string, connections: number, over = seconds) =>
  measure({ origin, connections, seconds: over, headers, requests });

await load(agent.origin, 16, 2);
await load(bare.origin, 16, 2);
const syncs: number[] = [];
const rows = await compare(
  connectionCounts,
  rounds,
  {
    ours: (connections) => load(agent.origin, connections),
    floor: (connections) => load(bare.origin, connections),
  },
  () => syncs.push(syncsPerSecond()),
);
printTable(rows);
console.log(`\nthe disk syncs ${median(syncs).toLocaleString('en-US')} times a second`);

finish({
  bench: 'agent-write',
  ...figuresAt(rows, 64),
  unit: 'writes/s',
  syncsPerSecond: median(syncs),
  peakRssBytes: agent.peakRssBytes(),
  rounds,
  calibrationMs: calibrate(),
});
send.end();
await bare.stop();
await agent.stop();
process.exit(0);

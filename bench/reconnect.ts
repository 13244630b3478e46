/**
 * Agents that all come back after the gateway was killed: until every one is online again, beside
 * the time a bare grpc-js server takes to open as many streams. Also what a connected agent costs
 * the gateway in memory, and whether anybody was told of an outage that was ours.
 *
 *   npm run bench -- reconnect [--agents 2000]
 */
import { readFileSync } from 'node:fs';
import { EchoFloor, pause } from './fleet/echo-floor.ts';
import { startEnrolledFleet } from './fleet/enrolled-fleet.ts';
import { argument, calibrate, finish, printTable, round } from './report.ts';

const agents = argument('agents', 2_000);

const floor = await EchoFloor.prepare(agents);
const bare = await floor.measure(1);
const enrolled = await startEnrolledFleet(agents);
const { gateway } = enrolled.controlPlane.services;
const rssOf = (pid: number | undefined) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1_024;

await gateway.restart();
await pause(3_000);
const idle = rssOf(gateway.pid);
const fleet = enrolled.fleet({ beats: 'paced', reconnect: true });
const first = await fleet.connect(enrolled.identities, 1_000_000, 300_000);
await pause(5_000);
const connected = rssOf(gateway.pid);
await gateway.kill();
const launched = performance.now();
await gateway.start();
const readyMs = performance.now() - launched;
await fleet.until(() => fleet.online === agents, 300_000);
const backMs = performance.now() - launched;
await pause(15_000);
const outages = await enrolled.api.get<{ items: unknown[] }>('/v1/outages');
const alerts = await enrolled.api.get<{ items: unknown[] }>('/v1/alerts');
printTable([
  { what: 'bare grpc-js, all streams open', seconds: round(bare.connectMs / 1_000) },
  { what: 'first connect of the fleet', seconds: round(first.elapsedMs / 1_000) },
  { what: 'gateway ready after kill −9', seconds: round(readyMs / 1_000) },
  { what: 'all back after the restart', seconds: round(backMs / 1_000) },
]);
console.log(
  `\nmemory of the gateway: ${round((connected - idle) / agents / 1_000)} kB for each connected agent; ` +
    `false outages ${outages.items.length}, false alerts ${alerts.items.length}`,
);
finish({
  bench: 'reconnect',
  ratio: round(bare.connectMs / (backMs - readyMs)),
  better: 'higher',
  floor: Math.round((agents / bare.connectMs) * 1_000),
  ours: Math.round((agents / (backMs - readyMs)) * 1_000),
  unit: 'agents/s',
  bytesPerAgent: Math.round((connected - idle) / agents),
  falseOutages: outages.items.length,
  peakRssBytes: connected,
  rounds: 1,
  calibrationMs: calibrate(),
});
fleet.close();
await enrolled.controlPlane.stop();
process.exit(0);

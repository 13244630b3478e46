/**
 * Heartbeats through the whole path: real mTLS streams, gateway, NATS, monitoring, a PostgreSQL
 * commit on the disk, and back. Each stream sends its next beat when the last was answered. The
 * floor is a bare grpc-js echo of the same message, from the same clients, in turn.
 *
 *   npm run bench -- ingest [--streams 500] [--seconds 5] [--rounds 3]
 */
import { readdirSync, readFileSync } from 'node:fs';
import { EchoFloor, pause } from './fleet/echo-floor.ts';
import { startEnrolledFleet } from './fleet/enrolled-fleet.ts';
import { argument, calibrate, finish, median, printTable, round } from './report.ts';

const streams = argument('streams', 500);
const seconds = argument('seconds', 5);
const rounds = argument('rounds', 3);

/** Processor time of a process and its children so far, in ms (a tick of the clock is 10 ms). */
function cpuMs(pid: number | undefined): number {
  let total = 0;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const text = readFileSync(`/proc/${entry}/stat`, 'utf8');
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      // The fleet is the parent of all the others, and counts for itself alone.
      const child = Number(fields[1]) === pid && pid !== process.pid;
      if (Number(entry) !== pid && !child) continue;
      // A child that ended is counted where its parent took note of it.
      const ended = Number(entry) === pid ? Number(fields[13]) + Number(fields[14]) : 0;
      total += (Number(fields[11]) + Number(fields[12]) + ended) * 10;
    } catch {
      // It ended while we looked.
    }
  }
  return total;
}

const floor = await EchoFloor.prepare(streams);
const enrolled = await startEnrolledFleet(streams, Math.ceil(streams / 2));
const { services, infrastructure } = enrolled.controlPlane;
const parts = {
  fleet: () => process.pid,
  gateway: () => services.gateway.pid,
  nats: () => infrastructure.nats.pid(),
  monitoring: () => services.monitoring.pid,
  postgresql: () => infrastructure.postgresql.pid(),
};
const cpu: Record<string, number>[] = [];
const ours: { perSecond: number; p50Ms: number; p95Ms: number; p99Ms: number }[] = [];
const echoes: Awaited<ReturnType<EchoFloor['measure']>>[] = [];
for (let index = 0; index < rounds; index += 1) {
  echoes.push(await floor.measure(seconds));
  const fleet = enrolled.fleet({ beats: 'none', reconnect: false });
  await fleet.connect(enrolled.identities, 400);
  fleet.options.beats = 'closed';
  fleet.latencies.clear();
  const before = fleet.counters.beatsRecorded;
  const usedBefore = Object.values(parts).map((pid) => cpuMs(pid()));
  const fromMs = performance.now();
  for (const agent of fleet.agents) agent.beat();
  await pause(seconds * 1_000);
  const beats = fleet.counters.beatsRecorded - before;
  cpu.push(
    Object.fromEntries(
      Object.entries(parts).map(([name, pid], part) => [
        `${name} ms/1000`,
        round(((cpuMs(pid()) - (usedBefore[part] ?? 0)) / beats) * 1_000),
      ]),
    ),
  );
  const perSecond =
    ((fleet.counters.beatsRecorded - before) / (performance.now() - fromMs)) * 1_000;
  ours.push({ perSecond, ...fleet.latencies.read() });
  fleet.close();
  await pause(500);
}
printTable(
  ours.map((each, index) => ({
    round: index + 1,
    'ours beats/s': Math.round(each.perSecond),
    'p50 ms': round(each.p50Ms),
    'p99 ms': round(each.p99Ms),
    'bare echo/s': Math.round(echoes[index]?.perSecond ?? 0),
    'its p50 ms': round(echoes[index]?.p50Ms ?? 0),
    'its p99 ms': round(echoes[index]?.p99Ms ?? 0),
    ratio: round(each.perSecond / (echoes[index]?.perSecond ?? 1)),
  })),
);
console.log('\nprocessor time of each part for a thousand beats');
printTable(cpu.map((each, index) => ({ round: index + 1, ...each })));
const perSecond = median(ours.map((each) => each.perSecond));
const echo = median(echoes.map((each) => each.perSecond));
finish({
  bench: 'ingest',
  ratio: round(perSecond / echo),
  better: 'higher',
  floor: Math.round(echo),
  ours: Math.round(perSecond),
  unit: 'beats/s',
  p50Ms: round(median(ours.map((each) => each.p50Ms))),
  p95Ms: round(median(ours.map((each) => each.p95Ms))),
  p99Ms: round(median(ours.map((each) => each.p99Ms))),
  streams,
  peakRssBytes: process.resourceUsage().maxRSS * 1_024,
  rounds,
  calibrationMs: calibrate(),
});
await enrolled.controlPlane.stop();
process.exit(0);

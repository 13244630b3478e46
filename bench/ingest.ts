/**
 * Heartbeats through the whole path: real mTLS streams, gateway, NATS, monitoring, a PostgreSQL
 * commit on the disk, and back. Each stream sends its next beat when the last was answered. The
 * floor is a bare grpc-js echo of the same message, from the same clients, in turn.
 *
 *   npm run bench -- ingest [--streams 500] [--seconds 5] [--rounds 3]
 */
import { EchoFloor, pause } from './fleet/echo-floor.ts';
import { startEnrolledFleet } from './fleet/enrolled-fleet.ts';
import { argument, calibrate, finish, median, printTable, round } from './report.ts';

const streams = argument('streams', 500);
const seconds = argument('seconds', 5);
const rounds = argument('rounds', 3);

const floor = await EchoFloor.prepare(streams);
const enrolled = await startEnrolledFleet(streams, Math.ceil(streams / 2));
const ours: { perSecond: number; p50Ms: number; p95Ms: number; p99Ms: number }[] = [];
const echoes: Awaited<ReturnType<EchoFloor['measure']>>[] = [];
for (let index = 0; index < rounds; index += 1) {
  echoes.push(await floor.measure(seconds));
  const fleet = enrolled.fleet({ beats: 'none', reconnect: false });
  await fleet.connect(enrolled.identities, 400);
  fleet.options.beats = 'closed';
  fleet.latencies.clear();
  const before = fleet.counters.beatsRecorded;
  const fromMs = performance.now();
  for (const agent of fleet.agents) agent.beat();
  await pause(seconds * 1_000);
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

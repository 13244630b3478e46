/**
 * Liveness as a simulation: agents beat, gateways crash, restart and go deaf, the sweeper is late
 * or absent, all in virtual time from a printed seed. The decisions are the real ones; only rows
 * and clock are held in memory.
 */
import { limits } from '@keystead/contracts/limits';
import { heartbeatIntervalMs } from '@keystead/contracts/threshold';
import { describe, expect, it } from 'vitest';
import {
  type DeafnessRow,
  deafnessBeforeTick,
  type GatewayRow,
  Hearing,
  silenceOfGateway,
} from './hearing.ts';
import { dueAfterBeat, type LivenessRow, nextLiveness } from './liveness.ts';

const runs = process.env.KEYSTEAD_PROVE === 'full' ? 2_000 : 60;
const firstSeed = Number(process.env.KEYSTEAD_SEED ?? 20_261_121);

/** Mulberry32: small, and the same everywhere. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

interface SimulatedAgent {
  row: LivenessRow;
  dueAt: number | null;
  nextBeatAt: number;
  /** From then on it is silent; it would have gone on beating otherwise. */
  diesAt: number;
  outages: { silentSince: number; openedAt: number }[];
}

/** What the database holds about gateways, and the two duties that write it. */
class GatewayTable {
  readonly gateways: GatewayRow[] = [];
  readonly deafness: DeafnessRow[] = [];

  tick(id: string, now: number): void {
    const known = this.gateways.find((gateway) => gateway.id === id);
    if (!known) {
      this.gateways.push({ id, startedAt: now, lastTickAt: now, drainedAt: null, goneAt: null });
      return;
    }
    const deaf = deafnessBeforeTick(known.lastTickAt, now);
    if (deaf) this.deafness.push({ gatewayId: id, ...deaf });
    Object.assign(known, { lastTickAt: now, goneAt: null, drainedAt: null });
  }

  settle(now: number): void {
    for (const gateway of this.gateways) {
      if (gateway.goneAt !== null) continue;
      const silence = silenceOfGateway(gateway, this.gateways, this.deafness, now);
      if (silence?.state !== 'ended') continue;
      this.deafness.push({ gatewayId: gateway.id, ...silence });
      gateway.goneAt = now;
    }
  }
}

interface World {
  seed: number;
  thresholdMs: number;
  /** Spells in which nothing is heard and nothing is swept, as [from, to]. */
  darkness: [number, number][];
  endsAt: number;
  agents: SimulatedAgent[];
  deafMs: (from: number, to: number) => number;
}

const stepMs = 250;

function simulate(seed: number): World {
  const random = randomFrom(seed);
  const thresholdMs = Math.round(15_000 + random() * (random() < 0.5 ? 45_000 : 285_000));
  const intervalMs = heartbeatIntervalMs(thresholdMs / 1_000);
  const endsAt = thresholdMs * 6 + 600_000;
  const darkness: [number, number][] = [];
  for (let at = 60_000; at < endsAt * 0.5; ) {
    at += 30_000 + random() * thresholdMs * 2;
    const length = random() < 0.3 ? random() * 4_000 : 6_000 + random() * thresholdMs * 2;
    darkness.push([at, at + length]);
    // Closer together, the one allowance of a silence may not cover both.
    at += length + 45_000;
  }
  const dark = (now: number) => darkness.some(([from, to]) => now >= from && now < to);
  const crashes = random() < 0.5;
  const table = new GatewayTable();
  let gatewayId = 'gateway-0';
  let generation = 0;
  let darkSince: number | null = null;
  const agents: SimulatedAgent[] = Array.from({ length: 6 }, (_, index) => ({
    row: {
      status: 'pending',
      lastSeenAt: null,
      statusSince: 0,
      countsFrom: null,
      gatewayId: null,
      offlineAfterMs: thresholdMs,
      intervalMs,
      maintenanceUntil: null,
    },
    dueAt: null,
    nextBeatAt: random() * intervalMs,
    diesAt: index < 3 ? Number.POSITIVE_INFINITY : endsAt * (0.05 + random() * 0.6),
    outages: [],
  }));
  let nextTickAt = 0;
  let nextSweepAt = 0;
  let nextSettleAt = 0;
  for (let now = 1; now < endsAt; now += stepMs) {
    if (dark(now)) {
      darkSince ??= now;
      continue;
    }
    if (darkSince !== null) {
      const lasted = now - darkSince;
      darkSince = null;
      // Either the same gateway hears again, or another process has taken its place.
      if (crashes) {
        generation += 1;
        gatewayId = `gateway-${generation}`;
      }
      // Streams survive a short spell; otherwise each agent connects again within the allowance.
      const apart = crashes || lasted > limits.gatewayDeafAfterMs;
      for (const agent of agents) {
        agent.nextBeatAt = now + (apart ? random() * limits.reconnectAllowanceMs * 0.95 : 0);
      }
      nextSweepAt = now + random() * 1_000;
      nextTickAt = now + random() * 200;
    }
    for (const agent of agents) {
      if (now < agent.nextBeatAt || now >= agent.diesAt) continue;
      // The beat proves the hearing: a gateway's first tick is written with or before it.
      table.tick(gatewayId, now);
      agent.row.lastSeenAt = now;
      agent.row.gatewayId = gatewayId;
      if (agent.row.status !== 'online') {
        agent.row.status = 'online';
        agent.dueAt = dueAfterBeat(now, intervalMs);
      }
      agent.nextBeatAt = now + intervalMs * (0.9 + random() * 0.2);
    }
    if (now >= nextTickAt) {
      table.tick(gatewayId, now);
      nextTickAt = now + limits.gatewayTickMs;
    }
    if (now >= nextSettleAt) {
      table.settle(now);
      nextSettleAt = now + 2_000;
    }
    if (now < nextSweepAt) continue;
    nextSweepAt = now + 250 + random() * 750;
    const hearing = new Hearing(table.gateways, table.deafness, now);
    for (const agent of agents) {
      if (agent.dueAt === null || agent.dueAt > now) continue;
      const verdict = nextLiveness(agent.row, now, hearing);
      if (verdict.status === 'offline' && agent.row.status !== 'offline') {
        agent.outages.push({ silentSince: agent.row.lastSeenAt ?? 0, openedAt: now });
      }
      agent.row.status = verdict.status;
      agent.dueAt = verdict.dueAt;
    }
  }
  const deafMs = (from: number, to: number) =>
    darkness.reduce((sum, [start, end]) => {
      return sum + Math.max(0, Math.min(end, to) - Math.max(start, from));
    }, 0);
  return { seed, thresholdMs, darkness, endsAt, agents, deafMs };
}

describe(`silence under failure (seeds from ${firstSeed})`, () => {
  for (const [name, check] of [
    ['never calls a living agent offline, whatever happens to us', neverFalse],
    ['tells every death once, within the threshold of hearing time and one allowance', alwaysTold],
  ] as const) {
    it(`${name}: ${runs} worlds`, { timeout: 600_000 }, () => {
      for (let run = 0; run < runs; run += 1) check(simulate(firstSeed + run));
    });
  }

  function neverFalse(world: World): void {
    for (const agent of world.agents.filter((each) => each.diesAt === Number.POSITIVE_INFINITY)) {
      expect(agent.outages, `seed ${world.seed}`).toEqual([]);
    }
  }

  function alwaysTold(world: World): void {
    for (const agent of world.agents.filter((each) => each.diesAt < world.endsAt)) {
      const label = `seed ${world.seed}, dies at ${agent.diesAt}`;
      const silentSince = agent.row.lastSeenAt;
      if (silentSince === null) continue;
      const [outage] = agent.outages;
      const latest = (until: number) =>
        world.thresholdMs +
        world.deafMs(silentSince, until) +
        // Short spells are not noticed as deafness; each costs at most what it lasted.
        limits.reconnectAllowanceMs +
        limits.gatewayTickMs * (1 + world.darkness.length) +
        2_000;
      if (silentSince + latest(world.endsAt) < world.endsAt) {
        expect(agent.outages, label).toHaveLength(1);
      }
      if (outage) {
        expect(outage.silentSince, label).toBe(silentSince);
        expect(outage.openedAt - silentSince, label).toBeLessThanOrEqual(latest(outage.openedAt));
        expect(outage.openedAt - silentSince, label).toBeGreaterThanOrEqual(world.thresholdMs);
      }
    }
  }
});

import { randomBytes } from 'node:crypto';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { OperationCountsReport } from '@keystead/contracts/agent-link';
import { getVaultUsage } from '@keystead/contracts/analytics';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import { permissionsOf } from '@keystead/contracts/permissions';
import { Database } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { hourOfReport, ReportedUsage } from './reported-usage.ts';
import { Usage } from './usage.ts';
import { hourMs } from './usage-range.ts';
import { UsageRollUp } from './usage-roll-up.ts';

interface Vault {
  organizationId: string;
  vaultId: string;
}
interface Beat extends Vault {
  agentId: string;
  atMs: number;
}

const seed = Number(process.env.KEYSTEAD_TEST_SEED ?? 20_261_121);
/** Mulberry32: small, and the same everywhere. */
function randomFrom(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

let urls: TestDatabase;
let database: Database;
let usage: Usage;
let rollUp: UsageRollUp;
let reported: ReportedUsage;

beforeAll(async () => {
  urls = await createTestDatabase();
  database = new Database({ serviceUrl: urls.serviceUrl, acrossUrl: urls.acrossUrl });
  usage = new Usage(new TenantWork(database, new InstallationKey(randomBytes(32))));
  rollUp = new UsageRollUp(database);
  reported = new ReportedUsage(database);
});
afterAll(async () => {
  await database.close();
  await urls.drop();
});
beforeEach(async () => {
  // The roll-up is about the whole installation: each test begins with none.
  await database.acrossTenants('roll-up-usage', async (transaction) => {
    await transaction.$executeRaw`delete from analytics.rolled_up_hour`;
    await transaction.$executeRaw`delete from analytics.vault_hour`;
    await transaction.$executeRaw`delete from monitoring.agent_hour`;
    await transaction.$executeRaw`delete from monitoring.agent_liveness`;
    await transaction.$executeRaw`delete from monitoring.outage`;
  });
});

const ctxOf = (organizationId: string): TenantCtx => ({
  organizationId,
  actor: { kind: 'person', id: 'usr', name: 'Viewer' },
  role: 'viewer',
  permissions: [...permissionsOf.viewer],
  personId: newUuid(),
  credentialId: newUuid(),
  requestId: newUuid(),
  address: null,
  userAgent: null,
  idempotencyKey: null,
});

const ask = (vault: Vault, query: Record<string, string> = {}) =>
  usage.ofVault(ctxOf(vault.organizationId), {
    params: { id: toId('vault', vault.vaultId) },
    query: getVaultUsage.query.parse(query),
    body: {},
    ifMatch: null,
  });

async function newVault(agentCount: number): Promise<Vault & { agents: string[] }> {
  const organizationId = newUuid();
  const vaultId = newUuid();
  const agents = Array.from({ length: agentCount }, () => newUuid());
  await database.withTenant({ organizationId }, async (transaction) => {
    await transaction.organization.create({ data: { organizationId, name: 'Example' } });
    await transaction.vault.create({ data: { organizationId, id: vaultId, name: 'v' } });
    await transaction.agent.createMany({
      data: agents.map((id) => ({
        organizationId,
        id,
        vaultId,
        name: 'a',
        serialNumber: id,
        notBefore: new Date(),
        expiresAt: new Date(),
      })),
    });
  });
  return { organizationId, vaultId, agents };
}

const hourOf = (ms: number) => Math.floor(ms / hourMs) * hourMs;
const minuteOf = (ms: number) => Math.floor((ms - hourOf(ms)) / 60_000);

/** As monitoring keeps them: each agent's last hour beside its state, earlier ones as rows. */
async function keep(beats: readonly Beat[]): Promise<void> {
  const perAgent = new Map<string, Map<number, { beat: Beat; count: number; minutes: bigint }>>();
  for (const beat of beats) {
    const hours = perAgent.get(beat.agentId) ?? new Map();
    perAgent.set(beat.agentId, hours);
    const hour = hours.get(hourOf(beat.atMs)) ?? { beat, count: 0, minutes: 0n };
    hours.set(hourOf(beat.atMs), hour);
    hour.count += 1;
    hour.minutes |= 1n << BigInt(minuteOf(beat.atMs));
  }
  for (const hours of perAgent.values()) {
    const last = Math.max(...hours.keys());
    for (const [start, { beat, count, minutes }] of hours) {
      const { organizationId, agentId, vaultId } = beat;
      await database.withTenant({ organizationId }, async (transaction) => {
        if (start < last) {
          await transaction.agentHour.create({
            data: {
              organizationId,
              agentId,
              vaultId,
              hour: new Date(start),
              beats: count,
              minutes,
            },
          });
          return;
        }
        const kept = { hour: new Date(start), hourBeats: count, hourMinutes: minutes };
        await transaction.agentLiveness.upsert({
          where: { organizationId_agentId: { organizationId, agentId } },
          create: {
            organizationId,
            agentId,
            vaultId,
            offlineAfterMs: 270_000,
            intervalMs: 30_000,
            ...kept,
          },
          update: kept,
        });
      });
    }
  }
}

async function openOutages(vault: Vault & { agents: string[] }, times: readonly number[]) {
  await database.withTenant(vault, (transaction) =>
    transaction.outage.createMany({
      data: times.map((ms, index) => ({
        organizationId: vault.organizationId,
        id: newUuid(),
        agentId: vault.agents[index % vault.agents.length] ?? '',
        vaultId: vault.vaultId,
        silentSince: new Date(ms - 60_000),
        openedAt: new Date(ms),
        closedAt: new Date(ms + 1_000),
        closedBy: 'heartbeat',
      })),
    }),
  );
}

function recount(beats: readonly Beat[], outages: readonly number[], hours: readonly number[]) {
  return hours.map((start) => {
    const inHour = beats.filter(({ atMs }) => hourOf(atMs) === start);
    return {
      hour: new Date(start).toISOString(),
      heartbeats: inHour.length,
      onlineMinutes: new Set(inHour.map(({ atMs }) => minuteOf(atMs))).size,
      outages: outages.filter((ms) => hourOf(ms) === start).length,
      operations: 0,
    };
  });
}

describe(`usage by the hour, seed ${seed}`, () => {
  it('equals a recount over random beats, before and after every roll-up', async () => {
    const random = randomFrom(seed);
    const openHour = hourOf(Date.now());
    const span = 40;
    const hours = Array.from({ length: span }, (_, i) => openHour - (span - 1 - i) * hourMs);
    const vaults = await Promise.all([newVault(3), newVault(1), newVault(2)]);
    const cases = vaults.map((vault) => {
      const beats: Beat[] = [];
      const outages: number[] = [];
      for (const agentId of vault.agents) {
        for (const hour of hours) {
          if (random() < 0.4) continue;
          const count = Math.floor(random() * 30);
          for (let index = 0; index < count; index += 1) {
            beats.push({ ...vault, agentId, atMs: hour + Math.floor(random() * hourMs) });
          }
        }
      }
      for (let index = 0; index < 12; index += 1) {
        outages.push(
          (hours[Math.floor(random() * span)] ?? openHour) + Math.floor(random() * hourMs),
        );
      }
      return { vault, beats, outages: [...new Set(outages)] };
    });
    for (const { vault, beats, outages } of cases) {
      await keep(beats);
      await openOutages(vault, outages);
    }
    const query = { since: new Date(hours[0] ?? 0).toISOString() };
    const check = async () => {
      for (const { vault, beats, outages } of cases) {
        const answer = await ask(vault, query);
        expect(answer.hours).toEqual(recount(beats, outages, hours));
        expect(answer.totals.heartbeats).toBe(beats.length);
        expect(answer.totals.outages).toBe(outages.length);
      }
    };
    await check();
    expect(await rollUp.rollUp()).toBeGreaterThanOrEqual(span - 2);
    await check();
    expect(await rollUp.rollUp()).toBe(0);
    await Promise.all([rollUp.rollUp(), rollUp.rollUp()]);
    await check();
  });

  it('stays the same when an agent returns after days and its last hour is put away', async () => {
    const vault = await newVault(1);
    const agentId = vault.agents[0] ?? '';
    const long = hourOf(Date.now()) - 50 * hourMs;
    const beats = [long + 1_000, long + 2_000, long + 70_000].map((atMs) => ({
      ...vault,
      agentId,
      atMs,
    }));
    await keep(beats);
    await rollUp.rollUp();
    const query = { since: new Date(long).toISOString() };
    const before = await ask(vault, query);
    expect(before.totals).toMatchObject({ heartbeats: 3, onlineMinutes: 2, outages: 0 });
    const back = { ...vault, agentId, atMs: hourOf(Date.now()) };
    await keep([...beats, back]);
    expect((await ask(vault, query)).totals).toMatchObject({
      heartbeats: 4,
      onlineMinutes: 3,
      outages: 0,
    });
  });

  it('goes on where it stopped, with the rows of a half-done hour', async () => {
    const vault = await newVault(2);
    const hour = hourOf(Date.now()) - 5 * hourMs;
    const beats = vault.agents.map((agentId) => ({ ...vault, agentId, atMs: hour + 5_000 }));
    await keep(beats);
    await rollUp.rollUp();
    await database.acrossTenants('roll-up-usage', async (transaction) => {
      await transaction.$executeRaw`delete from analytics.rolled_up_hour
        where hour > ${new Date(hour - hourMs).toISOString()}::timestamptz`;
    });
    await rollUp.rollUp();
    const rows = await database.withTenant(vault, (transaction) =>
      transaction.vaultHour.findMany(),
    );
    expect(rows).toMatchObject([{ heartbeats: 2, minutes: 1n, hour: new Date(hour) }]);
  });

  it('answers hours without a beat as zero', async () => {
    const vault = await newVault(1);
    const answer = await ask(vault);
    expect(answer.hours.length).toBeGreaterThanOrEqual(24);
    expect(answer.totals).toEqual({
      heartbeats: 0,
      onlineMinutes: 0,
      outages: 0,
      operations: 0,
    });
  });

  it('answers for a vault of another organization as for one that is not there', async () => {
    const [own, foreign] = await Promise.all([newVault(1), newVault(1)]);
    const errors = await Promise.all(
      [foreign.vaultId, newUuid()].map((vaultId) =>
        ask({ organizationId: own.organizationId, vaultId }).catch((error: unknown) => error),
      ),
    );
    expect(errors[0]).toMatchObject({ code: 'not_found' });
    expect(errors[1]).toEqual(errors[0]);
  });

  it('keeps the place of the roll-up when it removes what is too old', async () => {
    const vault = await newVault(1);
    const old = hourOf(Date.now()) - 420 * 24 * hourMs;
    await database.acrossTenants('roll-up-usage', async (transaction) => {
      await transaction.$executeRaw`insert into analytics.rolled_up_hour (hour)
        select ${new Date(old).toISOString()}::timestamptz - make_interval(hours => i)
        from generate_series(0, 3) i`;
      await transaction.vaultHour.create({
        data: { ...idsOf(vault), hour: new Date(old), heartbeats: 1 },
      });
    });
    await rollUp.removeOld();
    const left = await database.acrossTenants('roll-up-usage', async (transaction) => ({
      hours: await transaction.rolledUpHour.findMany({ select: { hour: true } }),
      rows: await transaction.vaultHour.count(),
    }));
    expect(left).toEqual({ hours: [{ hour: new Date(old) }], rows: 0 });
  });
});

describe(`what agents report, seed ${seed}`, () => {
  type Report = OperationCountsReport;
  const report = (changes: Partial<Report>): Report => ({
    periodStartMs: hourOf(Date.now()),
    periodEndMs: hourOf(Date.now()) + 60_000,
    counts: [],
    topSecrets: [],
    namespaces: 0,
    secrets: 0,
    storedBytes: 0,
    ...changes,
  });
  const count = (operation: string, count: number, p99Us = 0) => ({
    operation,
    outcome: 'done',
    count,
    p50Us: 0,
    p95Us: 0,
    p99Us,
  });
  const owe = (vault: Vault, agentId: string, reports: readonly Report[]) =>
    database.withTenant(vault, (transaction) =>
      enqueueMany(
        transaction,
        'usage.reported',
        reports.map((operationCounts) => ({
          organizationId: vault.organizationId,
          payload: { vaultId: vault.vaultId, agentId, operationCounts },
        })),
      ),
    );

  it('counts every report once, in any order, by two processes at once', async () => {
    const random = randomFrom(seed);
    const [vault, other] = await Promise.all([newVault(2), newVault(1)]);
    const open = hourOf(Date.now());
    const hours = [open - 3 * hourMs, open - 2 * hourMs, open - hourMs];
    const sent: { hour: number; agentId: string; report: Report }[] = [];
    for (let index = 0; index < 300; index += 1) {
      const hour = hours[Math.floor(random() * hours.length)] ?? open;
      const agentId = vault.agents[Math.floor(random() * 2)] ?? '';
      const secretRef = Math.floor(random() * 20)
        .toString(16)
        .padStart(64, '0');
      sent.push({
        hour,
        agentId,
        report: report({
          periodStartMs: hour + index,
          periodEndMs: hour + index + 1_000,
          counts: [
            count('secret_read', Math.floor(random() * 50), index),
            count('secret_list', Math.floor(random() * 5)),
          ],
          topSecrets: [{ secretRef, count: 1 + Math.floor(random() * 9) }],
          secrets: index,
        }),
      });
    }
    await owe(other, other.agents[0] ?? '', [report({ counts: [count('secret_read', 7)] })]);
    for (const { agentId, report: one } of sent) await owe(vault, agentId, [one]);
    const added = await Promise.all([
      reported.addUp(),
      new ReportedUsage(database).addUp(),
      reported.addUp(),
    ]);
    expect(added.reduce((sum, one) => sum + one, 0)).toBe(301);
    expect(await reported.addUp()).toBe(0);

    const answer = await ask(vault);
    const total = (operation: string, among = sent) =>
      among
        .flatMap(({ report: { counts } }) => counts)
        .filter((one) => one.operation === operation)
        .reduce((sum, one) => sum + one.count, 0);
    expect(answer.operations).toMatchObject([
      { operation: 'secret_list', outcome: 'done', count: total('secret_list') },
      { operation: 'secret_read', outcome: 'done', count: total('secret_read'), p99Us: 299 },
    ]);
    for (const hour of hours) {
      const among = sent.filter((one) => one.hour === hour);
      expect(
        answer.hours.find((one) => one.hour === new Date(hour).toISOString())?.operations,
      ).toBe(total('secret_list', among) + total('secret_read', among));
    }
    const reads = new Map<string, number>();
    for (const { secretRef, count: times } of sent.flatMap(({ report: one }) => one.topSecrets)) {
      reads.set(secretRef, (reads.get(secretRef) ?? 0) + times);
    }
    expect(answer.topSecrets).toEqual(
      [...reads]
        .map(([secretRef, times]) => ({ secretRef, count: times }))
        .sort((a, b) => b.count - a.count || (a.secretRef < b.secretRef ? -1 : 1))
        .slice(0, 10),
    );
    const newest = sent.reduce((a, b) => (b.report.periodEndMs > a.report.periodEndMs ? b : a));
    expect(answer.stock?.secrets).toBe(newest.report.secrets);
    const agentId = vault.agents[0] ?? '';
    expect((await ask(vault, { agentId: toId('agent', agentId) })).totals.operations).toBe(
      sent
        .filter((one) => one.agentId === agentId)
        .flatMap(({ report: { counts } }) => counts)
        .reduce((sum, one) => sum + one.count, 0),
    );
    expect((await ask(other)).totals.operations).toBe(7);
  });

  it('takes what an agent says of the future as said of now', () => {
    const now = Date.UTC(2026, 10, 24, 12, 30);
    expect(hourOfReport(now + 365 * 24 * hourMs, now)).toBe(Date.UTC(2026, 10, 24, 12));
    expect(hourOfReport(0, now)).toBe(Date.UTC(2026, 10, 24, 12));
    expect(hourOfReport(now - 20 * 24 * hourMs, now)).toBe(Date.UTC(2026, 10, 4, 12));
  });

  it('removes what is too old', async () => {
    const vault = await newVault(1);
    const agentId = vault.agents[0] ?? '';
    await owe(vault, agentId, [
      report({
        counts: [count('secret_read', 1)],
        topSecrets: [{ secretRef: 'a'.repeat(64), count: 1 }],
      }),
    ]);
    await reported.addUp();
    await database.acrossTenants('roll-up-usage', async (transaction) => {
      await transaction.$executeRaw`update analytics.operation_hour set hour = hour - interval '401 days'`;
      await transaction.$executeRaw`update analytics.secret_hour set hour = hour - interval '401 days'`;
      await transaction.$executeRaw`update analytics.stock_hour set hour = hour - interval '401 days'`;
    });
    await rollUp.removeOld();
    const left = await database.withTenant(vault, async (transaction) => [
      await transaction.operationHour.count(),
      await transaction.secretHour.count(),
      await transaction.stockHour.count(),
    ]);
    expect(left).toEqual([0, 0, 0]);
  });
});

const idsOf = ({ organizationId, vaultId }: Vault) => ({ organizationId, vaultId });

/** Ticks of gateways: each acknowledged batch proves that its gateway could hear up to then. */
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueue } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import {
  type DeafnessRow,
  deafnessBeforeTick,
  type GatewayRow,
  Hearing,
  silenceOfGateway,
} from './hearing.ts';

/** Spells older than the longest silence that can still matter are forgotten. */
const keepMs = (limits.offlineAfterMaxSeconds + 3_600) * 1_000;
/** A spell shorter than this is not worth waking anybody for. */
const worthTellingMs = 15_000;
/** How far the database's clock may step back before what was seen is moved with it. */
const backwardsMs = 2_000;

@Injectable()
export class GatewayTicks {
  readonly #lastWrite = new Map<string, number>();

  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
  ) {}

  /**
   * Notes that the gateway is heard, at most once a tick however many batches it sends.
   * @returns the database's time in milliseconds
   */
  async tick(transaction: Transaction, gatewayId: string): Promise<number> {
    const last = this.#lastWrite.get(gatewayId) ?? 0;
    const local = performance.now();
    if (last > 0 && local - last < limits.gatewayTickMs / 2) {
      const [row] = await transaction.$queryRaw<{ now: number }[]>`
        select (extract(epoch from clock_timestamp()) * 1000)::float8 as now`;
      return row?.now ?? 0;
    }
    const [row] = await transaction.$queryRaw<{ now: number; last_tick_at: Date | null }[]>`
      select (extract(epoch from clock_timestamp()) * 1000)::float8 as now,
        (select last_tick_at from monitoring.gateway where id = ${gatewayId}::uuid for update) as last_tick_at`;
    const now = row?.now ?? 0;
    const at = new Date(now);
    const previous = row?.last_tick_at?.getTime();
    if (previous !== undefined && now < previous - backwardsMs) {
      await this.#followClockBack(transaction, at);
    }
    const deaf = previous === undefined ? undefined : deafnessBeforeTick(previous, now);
    if (deaf) await this.#recordDeafness(transaction, { gatewayId, ...deaf });
    await transaction.gateway.upsert({
      where: { id: gatewayId },
      create: { id: gatewayId, startedAt: at, lastTickAt: at },
      update: { lastTickAt: at, goneAt: null, drainedAt: null },
    });
    this.#lastWrite.set(gatewayId, local);
    return now;
  }

  async drained(gatewayId: string): Promise<void> {
    await this.database.acrossTenants(
      'hearing',
      (transaction) =>
        transaction.$executeRaw`
          update monitoring.gateway set drained_at = clock_timestamp()
          where id = ${gatewayId}::uuid and drained_at is null`,
    );
    this.#lastWrite.delete(gatewayId);
  }

  /** What we could hear, for the judgement of silences. */
  async hearing(transaction: Transaction, now: number): Promise<Hearing> {
    const { gateways, recorded } = await this.#read(transaction, now);
    return new Hearing(gateways, recorded, now);
  }

  /** Closes the deafness of gateways that will not come back, and forgets what cannot matter. */
  async settle(): Promise<void> {
    const told = await this.database.acrossTenants('hearing', async (transaction) => {
      const [clock] = await transaction.$queryRaw<{ now: number }[]>`
        select (extract(epoch from clock_timestamp()) * 1000)::float8 as now`;
      const now = clock?.now ?? 0;
      const { gateways, recorded } = await this.#read(transaction, now);
      let ended = 0;
      for (const gateway of gateways) {
        if (gateway.goneAt !== null) continue;
        const silence = silenceOfGateway(gateway, gateways, recorded, now);
        if (silence?.state !== 'ended') continue;
        ended += 1;
        const spell = { gatewayId: gateway.id, ...silence };
        await this.#recordDeafness(transaction, spell, gateway.drainedAt === null);
        await transaction.gateway.update({
          where: { id: gateway.id },
          data: { goneAt: new Date(now) },
        });
      }
      const old = new Date(now - keepMs);
      await transaction.deafness.deleteMany({ where: { endedAt: { lt: old } } });
      await transaction.gateway.deleteMany({ where: { goneAt: { lt: old } } });
      return ended;
    });
    if (told > 0) this.bus.nudge('notification');
  }

  async #read(
    transaction: Transaction,
    now: number,
  ): Promise<{ gateways: GatewayRow[]; recorded: DeafnessRow[] }> {
    const gateways = await transaction.gateway.findMany({
      where: { OR: [{ goneAt: null }, { goneAt: { gt: new Date(now - keepMs) } }] },
    });
    const recorded = await transaction.deafness.findMany({
      where: { endedAt: { gt: new Date(now - keepMs) } },
    });
    return {
      gateways: gateways.map((row) => ({
        id: row.id,
        startedAt: row.startedAt.getTime(),
        lastTickAt: row.lastTickAt.getTime(),
        drainedAt: row.drainedAt?.getTime() ?? null,
        goneAt: row.goneAt?.getTime() ?? null,
      })),
      recorded: recorded.map((row) => ({
        gatewayId: row.gatewayId,
        startedAt: row.startedAt.getTime(),
        endedAt: row.endedAt.getTime(),
      })),
    };
  }

  /** @param tell whether operators want to know: not of a gateway that stopped in order */
  async #recordDeafness(transaction: Transaction, row: DeafnessRow, tell = true): Promise<void> {
    const startedAt = new Date(row.startedAt);
    const endedAt = new Date(row.endedAt);
    const { count } = await transaction.deafness.createMany({
      data: { id: newUuid(), gatewayId: row.gatewayId, startedAt, endedAt },
      skipDuplicates: true,
    });
    if (count === 0 || !tell || row.endedAt - row.startedAt < worthTellingMs) return;
    await enqueue(transaction, null, 'installation.deaf', {
      gatewayId: row.gatewayId,
      startedAt: startedAt.toISOString(),
      endedAt: endedAt.toISOString(),
    });
  }

  /**
   * The clock of the database went back. What was seen "later than now" is moved to now, so that a
   * silence is not hidden for as long as the clock stepped.
   */
  async #followClockBack(transaction: Transaction, at: Date): Promise<void> {
    await transaction.$executeRaw`
      update monitoring.agent_liveness set last_seen_at = ${at} where last_seen_at > ${at}`;
    await transaction.$executeRaw`
      update monitoring.agent_due set due_at = ${at} where due_at > ${at}`;
    await transaction.gateway.updateMany({
      where: { lastTickAt: { gt: at } },
      data: { lastTickAt: at },
    });
  }
}

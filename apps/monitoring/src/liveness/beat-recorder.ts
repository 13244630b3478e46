/**
 * Writes a batch of heartbeats of one gateway: one statement into the hot table, whatever the size
 * of the batch, and more only for agents whose state changes. The batch is answered after its
 * commit. Time is the database's at receipt.
 */
import type { Beat } from '@keystead/contracts/agent-link';
import { heartbeatIntervalMs } from '@keystead/contracts/threshold';
import { Database, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';
import type { Config } from '../config.ts';
import { MONITORING_METRICS, type MonitoringMetrics } from '../metrics.ts';
import { CONFIG } from '../tokens.ts';
import { CloneWatch } from './clone-watch.ts';
import { GatewayTicks } from './gateway-ticks.ts';
import { dueAfterBeat } from './liveness.ts';
import { closeOutages, setDue, setStatuses } from './status-changes.ts';

interface Recorded {
  organization_id: string;
  agent_id: string;
  vault_id: string;
  status: string;
  interval_ms: number;
  previous_boot_id: string | null;
  boot_id: string;
  at: Date;
}

export interface BeatBatch {
  gatewayId: string;
  number: number;
  beats: Beat[];
}

type Result = {
  outcome: 'recorded' | 'unknown';
  intervalMs: number;
  assignedPolicySetVersion: number | null;
};

const keyOf = (row: { organization_id: string; agent_id: string }) =>
  `${row.organization_id}/${row.agent_id}`;

@Injectable()
export class BeatRecorder {
  readonly #defaultMs: number;

  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(GatewayTicks) private readonly ticks: GatewayTicks,
    @Inject(CloneWatch) private readonly clones: CloneWatch,
    @Inject(MONITORING_METRICS) private readonly metrics: MonitoringMetrics,
    @Inject(CONFIG) config: Config,
  ) {
    this.#defaultMs = config.KEYSTEAD_OFFLINE_AFTER_SECONDS * 1_000;
  }

  async record(batch: BeatBatch): Promise<{ results: Result[]; databaseMs: number }> {
    const merged = mergeBeats(batch.beats);
    const outcome = await this.database.acrossTenants('record-beats', async (transaction) => {
      const now = await this.ticks.tick(transaction, batch.gatewayId);
      if (merged.length === 0) {
        return {
          now,
          rows: [] as Recorded[],
          told: new Set<string>(),
          assigned: new Map<string, number>(),
        };
      }
      let rows = await this.#write(transaction, batch.gatewayId, merged);
      if (rows.length < merged.length) {
        const heard = new Set(rows.map(keyOf));
        const rest = merged.filter(
          ({ beat }) => !heard.has(`${beat.organizationId}/${beat.agentId}`),
        );
        await this.#adopt(
          transaction,
          rest.map(({ beat }) => beat),
        );
        rows = rows.concat(await this.#write(transaction, batch.gatewayId, rest));
      }
      await this.#writeFacts(
        transaction,
        merged.map(({ beat }) => beat),
      );
      const told = await this.#welcomeBack(transaction, rows);
      const swapped = rows.filter(
        (row) => row.previous_boot_id !== null && row.previous_boot_id !== row.boot_id,
      );
      for (const organization of await this.clones.seen(
        transaction,
        now,
        swapped.map((row) => ({
          organizationId: row.organization_id,
          agentId: row.agent_id,
          vaultId: row.vault_id,
          oldBootId: row.previous_boot_id as string,
          newBootId: row.boot_id,
        })),
      )) {
        told.add(organization);
      }
      return { now, rows, told, assigned: await this.#assigned(transaction, rows) };
    });
    this.metrics.beats.inc(batch.beats.length);
    if (outcome.told.size > 0) this.bus.nudge('notification');
    const changed = outcome.rows.filter((row) => row.status !== 'online');
    for (const organization of new Set(changed.map((row) => row.organization_id))) {
      this.bus.nudge('liveEvents', organization);
    }
    return {
      results: await this.#answer(batch.beats, outcome.rows, outcome.assigned),
      databaseMs: outcome.now,
    };
  }

  /**
   * The one statement. A beat that is not newer than the row changes nothing. The hour that a beat
   * leaves behind is put away in the same statement.
   */
  async #write(
    transaction: Transaction,
    gatewayId: string,
    merged: readonly { beat: Beat; count: number }[],
  ): Promise<Recorded[]> {
    const beats = merged.map(({ beat }) => beat);
    return transaction.$queryRaw<Recorded[]>`
      with moment as materialized (
        select clock_timestamp() as at, date_trunc('hour', clock_timestamp(), 'UTC') as hour
      ), heard as materialized (
        select i.*, m.at, m.hour,
          1::bigint << extract(minute from m.at at time zone 'UTC')::int as minute
        from unnest(
          ${beats.map((beat) => beat.organizationId)}::uuid[],
          ${beats.map((beat) => beat.agentId)}::uuid[],
          ${beats.map((beat) => beat.bootId)}::uuid[],
          ${beats.map((beat) => beat.sequence)}::bigint[],
          ${beats.map((beat) => beat.health)}::text[],
          ${beats.map((beat) => beat.policySetVersion)}::int[],
          ${merged.map(({ count }) => count)}::int[]
        ) as i(organization_id, agent_id, boot_id, sequence, health, policy_set_version, beats), moment m
      ), before as materialized (
        select l.organization_id, l.agent_id, l.vault_id, l.boot_id, l.hour, l.hour_beats, l.hour_minutes
        from monitoring.agent_liveness l
        join heard h on l.organization_id = h.organization_id and l.agent_id = h.agent_id
      ), finished as (
        insert into monitoring.agent_hour (organization_id, agent_id, hour, vault_id, beats, minutes)
        select b.organization_id, b.agent_id, b.hour, b.vault_id, b.hour_beats, b.hour_minutes
        from before b, moment m where b.hour < m.hour
        on conflict (organization_id, agent_id, hour) do update
          set beats = greatest(agent_hour.beats, excluded.beats),
            minutes = agent_hour.minutes | excluded.minutes
      ), written as (
        update monitoring.agent_liveness l set
          last_seen_at = h.at,
          boot_id = h.boot_id,
          sequence = h.sequence,
          gateway_id = ${gatewayId}::uuid,
          health = h.health,
          policy_set_version = h.policy_set_version,
          hour = h.hour,
          hour_beats = case when l.hour = h.hour then l.hour_beats else 0 end + h.beats,
          hour_minutes = case when l.hour = h.hour then l.hour_minutes else 0 end | h.minute
        from heard h
        where l.organization_id = h.organization_id and l.agent_id = h.agent_id
          and l.status <> 'revoked'
          and (l.boot_id is distinct from h.boot_id or l.sequence < h.sequence)
        returning l.organization_id, l.agent_id, l.vault_id, l.status, l.interval_ms, l.boot_id, h.at
      )
      select w.*, b.boot_id as previous_boot_id
      from written w
      join before b on b.organization_id = w.organization_id and b.agent_id = w.agent_id`;
  }

  /** Rows for agents that enrolled a moment ago; the reconcile gives them their threshold. */
  async #adopt(transaction: Transaction, beats: readonly Beat[]): Promise<void> {
    await transaction.$executeRaw`
      insert into monitoring.agent_liveness
        (organization_id, agent_id, vault_id, offline_after_ms, interval_ms)
      select a.organization_id, a.id, a.vault_id, ${this.#defaultMs}::int, ${heartbeatIntervalMs(this.#defaultMs / 1_000)}::int
      from registry.agent a
      join unnest(${beats.map((beat) => beat.organizationId)}::uuid[], ${beats.map((beat) => beat.agentId)}::uuid[])
        as k(organization_id, agent_id)
        on a.organization_id = k.organization_id and a.id = k.agent_id
      where a.deleted_at is null and a.revoked_at is null
      on conflict do nothing`;
  }

  async #writeFacts(transaction: Transaction, beats: readonly Beat[]): Promise<void> {
    const told = beats.filter((beat) => beat.facts !== null);
    if (told.length === 0) return;
    await transaction.$executeRaw`
      insert into monitoring.agent_report
        (organization_id, agent_id, version, hostname, platform, architecture, runtime, updated_at)
      select k.*, clock_timestamp() from unnest(
        ${told.map((beat) => beat.organizationId)}::uuid[],
        ${told.map((beat) => beat.agentId)}::uuid[],
        ${told.map((beat) => beat.facts?.version)}::text[],
        ${told.map((beat) => beat.facts?.hostname)}::text[],
        ${told.map((beat) => beat.facts?.platform)}::text[],
        ${told.map((beat) => beat.facts?.architecture)}::text[],
        ${told.map((beat) => beat.facts?.runtime)}::text[]
      ) as k(organization_id, agent_id, version, hostname, platform, architecture, runtime)
      join registry.agent a on a.organization_id = k.organization_id and a.id = k.agent_id
      on conflict (organization_id, agent_id) do update set
        version = excluded.version, hostname = excluded.hostname, platform = excluded.platform,
        architecture = excluded.architecture, runtime = excluded.runtime, updated_at = excluded.updated_at`;
  }

  /** Agents that were anything but online: outages are closed and recoveries raised with the beat. */
  async #welcomeBack(transaction: Transaction, rows: readonly Recorded[]): Promise<Set<string>> {
    const back = rows.filter((row) => row.status !== 'online');
    const [first] = back;
    if (!first) return new Set();
    const now = first.at.getTime();
    const keys = back.map((row) => ({
      organizationId: row.organization_id,
      agentId: row.agent_id,
      vaultId: row.vault_id,
      status: row.status,
      dueAt: dueAfterBeat(now, row.interval_ms),
    }));
    await setStatuses(
      transaction,
      first.at,
      keys.map((key) => ({ ...key, status: 'online' as const })),
    );
    await setDue(transaction, keys);
    await this.desk.resolveStopped(
      transaction,
      now,
      keys.filter(({ status }) => status === 'stopped' || status === 'offline'),
    );
    const returned = keys.filter(({ status }) => status === 'offline');
    if (returned.length === 0) return new Set();
    await closeOutages(transaction, first.at, returned, 'heartbeat');
    return this.desk.settle(transaction, now, returned);
  }

  async #answer(
    beats: readonly Beat[],
    rows: readonly Recorded[],
    assigned: ReadonlyMap<string, number>,
  ): Promise<Result[]> {
    const byAgent = new Map(rows.map((row) => [keyOf(row), row]));
    const silent = beats.filter((beat) => !byAgent.has(`${beat.organizationId}/${beat.agentId}`));
    const known = silent.length > 0 ? await this.#known(silent) : new Map<string, number>();
    return beats.map((beat) => {
      const key = `${beat.organizationId}/${beat.agentId}`;
      const row = byAgent.get(key);
      const intervalMs = row?.interval_ms ?? known.get(key);
      return {
        outcome: intervalMs === undefined ? 'unknown' : 'recorded',
        intervalMs: intervalMs ?? heartbeatIntervalMs(this.#defaultMs / 1_000),
        assignedPolicySetVersion: row ? (assigned.get(row.vault_id) ?? null) : null,
      };
    });
  }

  /** Beats that changed nothing: repeated ones of agents we know, or agents we do not. */
  async #known(beats: readonly Beat[]): Promise<Map<string, number>> {
    const rows = await this.database.acrossTenants(
      'record-beats',
      (transaction) =>
        transaction.$queryRaw<{ organization_id: string; agent_id: string; interval_ms: number }[]>`
        select l.organization_id, l.agent_id, l.interval_ms from monitoring.agent_liveness l
        join unnest(${beats.map((beat) => beat.organizationId)}::uuid[], ${beats.map((beat) => beat.agentId)}::uuid[])
          as k(organization_id, agent_id)
          on l.organization_id = k.organization_id and l.agent_id = k.agent_id
        where l.status <> 'revoked'`,
    );
    return new Map(rows.map((row) => [keyOf(row), row.interval_ms]));
  }

  /** The versions assigned to the vaults of a batch, as they are now. */
  async #assigned(
    transaction: Transaction,
    rows: readonly Recorded[],
  ): Promise<Map<string, number>> {
    const found = await transaction.$queryRaw<{ vault_id: string; version: number }[]>`
      select p.vault_id, p.version from policy.policy_set_assignment p
      where (p.organization_id, p.vault_id) in (
        select * from unnest(
          ${rows.map((row) => row.organization_id)}::uuid[],
          ${rows.map((row) => row.vault_id)}::uuid[]
        ))`;
    return new Map(found.map((row) => [row.vault_id, row.version]));
  }
}

/** The newest beat of each agent, and how many there were. */
export function mergeBeats(beats: readonly Beat[]): { beat: Beat; count: number }[] {
  const merged = new Map<string, { beat: Beat; count: number }>();
  for (const beat of beats) {
    const key = `${beat.organizationId}/${beat.agentId}`;
    const known = merged.get(key);
    if (!known) {
      merged.set(key, { beat, count: 1 });
      continue;
    }
    const repeated = known.beat.bootId === beat.bootId && beat.sequence === known.beat.sequence;
    if (!repeated) known.count += 1;
    const newer = known.beat.bootId !== beat.bootId || beat.sequence > known.beat.sequence;
    if (newer) known.beat = { ...beat, facts: beat.facts ?? known.beat.facts };
  }
  return [...merged.values()];
}

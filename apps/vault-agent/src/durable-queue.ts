/**
 * What must not be lost, in an SQLite file of its own: events wait here until the control plane's
 * receipt, under the sequence that their run gave them, so that a replay is the same message.
 *
 * Written through before `append` answers (WAL, synchronous FULL). One process at a time: the lock
 * is the operating system's and goes with the process, however that ends.
 *
 * Bounded. What is less worth makes room for what is worth more, the oldest first: usage, then what
 * else happened, then heads of the audit that a newer head of the same chain covers. The newest head of a
 * chain goes for nothing: what people must be told of is refused before, and the oldest of that makes room
 * for the first head of a chain. Usage fills at most half, and makes room for newer usage there. What was
 * dropped or could not be kept is counted, with the first and last time; when there is room again the
 * count itself becomes an event.
 */
import { chmodSync, existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { Event } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { makePrivateFolder } from './durable-file.ts';

export type EventKind = NonNullable<Event['kind']>;

export interface WaitingEvent {
  /** Order of arrival over all runs. */
  position: number;
  bootId: string;
  sequence: number;
  event: Event;
}

export interface Run {
  bootId: string;
  endedCleanly: boolean;
  /** Digests of the configuration's sections. */
  configuration: Record<string, string>;
}

export class QueueInUse extends Error {
  constructor(file: string) {
    super(`${file} is in use: another agent runs with this data`);
    this.name = 'QueueInUse';
  }
}

const schemaVersion = 3;

const eventByChain =
  'create index event_by_chain on event (chain, position) where chain is not null;';

/** What an event is worth when there is no room for all. */
export const eventRanks = ['usage', 'ordinary', 'auditHead', 'notice'] as const;
export type EventRank = (typeof eventRanks)[number];

export function rankOf(kind: EventKind): EventRank {
  switch (kind.$case) {
    case 'operationCounts':
    case 'policyDecisionCounts':
      return 'usage';
    case 'auditHead':
      return 'auditHead';
    case 'securityNotice':
    case 'queueOverflowed':
    case 'approvalReported':
    case 'approvalAnswered':
      return 'notice';
    default:
      return 'ordinary';
  }
}

/** Of a head of the audit: whose newest head covers the others. */
function chainOf(kind: EventKind | undefined): Uint8Array | null {
  return kind?.$case === 'auditHead' ? kind.value.chainId : null;
}

/** The part of the queue that usage may fill. */
const usageShare = 0.5;

export class DurableQueue {
  readonly #database: DatabaseSync;
  readonly #maxEvents: number;
  readonly #bootId: string;
  readonly #insert: StatementSync;
  readonly #remove: StatementSync;
  readonly #after: StatementSync;
  readonly #overflow: StatementSync;
  readonly #removeAt: StatementSync;
  readonly #oldest: StatementSync;
  readonly #coveredHead: StatementSync;
  readonly #headOfChain: StatementSync;
  #waiting: Record<EventRank, number>;
  #refused = 0;
  /** The run before this one. */
  readonly previousRun: Run | undefined;

  /**
   * Opens the file, which is made when it is missing, and begins a run.
   * @throws QueueInUse where another process has it open
   */
  constructor(
    file: string,
    run: { bootId: string; startedAtUnixMs: number; configuration: Record<string, string> },
    maxEvents: number,
  ) {
    makePrivateFolder(dirname(file));
    const isNew = !existsSync(file);
    this.#database = new DatabaseSync(file, { timeout: 3_000 });
    try {
      this.#database.exec('pragma locking_mode = exclusive; pragma journal_mode = wal');
      this.#database.exec('pragma synchronous = full');
      this.#migrate();
    } catch (error) {
      this.#database.close();
      if (/locked|busy/i.test((error as Error).message)) throw new QueueInUse(file);
      throw error;
    }
    if (isNew) chmodSync(file, 0o600);
    this.#maxEvents = maxEvents;
    this.#bootId = run.bootId;
    const previous = this.#database
      .prepare(
        'select boot_id, ended_cleanly, configuration from run order by position desc limit 1',
      )
      .get() as { boot_id: string; ended_cleanly: number; configuration: string } | undefined;
    this.previousRun = previous && {
      bootId: previous.boot_id,
      endedCleanly: previous.ended_cleanly === 1,
      configuration: JSON.parse(previous.configuration),
    };
    this.#database
      .prepare(
        `insert into run (boot_id, started_at_ms, ended_cleanly, next_sequence, configuration)
         values (?, ?, 0, 1, ?)`,
      )
      .run(run.bootId, run.startedAtUnixMs, JSON.stringify(run.configuration));
    // Runs of which nothing waits any more are history; the last few stay for a look.
    this.#database.exec(`delete from run where boot_id not in (select boot_id from event)
      and position <= (select max(position) - 20 from run)`);
    this.#insert = this.#database.prepare(
      `insert into event (boot_id, sequence, rank, content, chain)
       select boot_id, next_sequence, ?, ?, ? from run where boot_id = ? returning sequence`,
    );
    this.#remove = this.#database.prepare(
      'delete from event where boot_id = ? and sequence = ? returning rank',
    );
    this.#removeAt = this.#database.prepare('delete from event where position = ?');
    this.#oldest = this.#database.prepare(
      'select position, content from event where rank = ? order by position limit 1',
    );
    this.#coveredHead = this.#database.prepare(
      `select position, content from event as head
       where rank = ${eventRanks.indexOf('auditHead')} and exists (select 1 from event as newer
         where newer.chain = head.chain and newer.position > head.position)
       order by position limit 1`,
    );
    this.#headOfChain = this.#database.prepare(
      'select position, content from event where chain = ? order by position limit 1',
    );
    this.#after = this.#database.prepare(
      `select position, boot_id, sequence, content from event
       where position > ? order by position limit ?`,
    );
    this.#overflow = this.#database.prepare(
      `update overflow set count = count + 1,
         first_at_ms = case when count = 0 then ?1 else min(first_at_ms, ?1) end,
         last_at_ms = max(last_at_ms, ?1)`,
    );
    this.#waiting = { usage: 0, ordinary: 0, auditHead: 0, notice: 0 };
    for (const { rank, waiting } of this.#database
      .prepare('select rank, count(*) as waiting from event group by rank')
      .all() as { rank: number; waiting: number }[]) {
      this.#waiting[eventRanks[rank] ?? 'ordinary'] += waiting;
    }
  }

  /** Events that wait for a receipt. */
  get waiting(): number {
    const { usage, ordinary, auditHead, notice } = this.#waiting;
    return usage + ordinary + auditHead + notice;
  }

  /** Those of one rank. */
  waitingOf(rank: EventRank): number {
    return this.#waiting[rank];
  }

  /** Events that were counted in this run instead of kept: refused, or dropped for worthier ones. */
  get refused(): number {
    return this.#refused;
  }

  get isFull(): boolean {
    return this.waiting >= this.#maxEvents;
  }

  /** Whether the event is kept: it is on the disk then. Counted otherwise. */
  append(kind: EventKind, occurredAtUnixMs: number): boolean {
    return this.#transaction(() => {
      const rank = rankOf(kind);
      if (!this.#makeRoom(rank, chainOf(kind))) {
        this.#overflow.run(occurredAtUnixMs);
        this.#refused += 1;
        return false;
      }
      this.#insertEvent(kind, occurredAtUnixMs);
      return true;
    });
  }

  /** Whether there is room for one more of the rank, if need be by dropping one of less worth. */
  #makeRoom(rank: EventRank, chain: Uint8Array | null): boolean {
    const usageMax = Math.floor(this.#maxEvents * usageShare);
    if (rank === 'usage' && this.#waiting.usage >= usageMax) return this.#dropOldest('usage');
    if (!this.isFull) return true;
    if (rank === 'usage') return false;
    if (this.#dropOldest('usage')) return true;
    if (rank === 'ordinary') return false;
    if (this.#dropOldest('ordinary') || this.#drop('auditHead', this.#coveredHead.get())) {
      return true;
    }
    if (chain === null) return false;
    return (
      this.#drop('auditHead', this.#headOfChain.get(chain)) ||
      this.#dropOldest('notice') ||
      this.#dropOldest('auditHead')
    );
  }

  #dropOldest(rank: EventRank): boolean {
    return this.#waiting[rank] > 0 && this.#drop(rank, this.#oldest.get(eventRanks.indexOf(rank)));
  }

  #drop(rank: EventRank, found: unknown): boolean {
    const victim = found as { position: number; content: Uint8Array } | undefined;
    if (victim === undefined) return false;
    this.#removeAt.run(victim.position);
    this.#overflow.run(Event.decode(victim.content).occurredAtUnixMs);
    this.#waiting[rank] -= 1;
    this.#refused += 1;
    return true;
  }

  /** The oldest events after a position, in the order of their arrival. */
  after(position: number, limit: number): WaitingEvent[] {
    const rows = this.#after.all(position, limit) as {
      position: number;
      boot_id: string;
      sequence: number;
      content: Uint8Array;
    }[];
    return rows.map((row) => ({
      position: row.position,
      bootId: row.boot_id,
      sequence: row.sequence,
      event: Event.decode(row.content),
    }));
  }

  /** The control plane has these: they are forgotten. */
  receipt(bootId: string, sequences: number[], nowUnixMs: number): void {
    this.#transaction(() => {
      for (const sequence of sequences) {
        const removed = this.#remove.get(bootId, sequence) as { rank: number } | undefined;
        if (removed !== undefined) this.#waiting[eventRanks[removed.rank] ?? 'ordinary'] -= 1;
      }
      this.#tellOverflow(nowUnixMs);
    });
  }

  /** The last word of an orderly end. */
  endCleanly(): void {
    this.#database.prepare('update run set ended_cleanly = 1 where boot_id = ?').run(this.#bootId);
  }

  /** The number of the last command that was carried out. */
  get lastCommand(): number {
    return (
      this.#database.prepare('select last_command from agent').get() as { last_command: number }
    ).last_command;
  }

  set lastCommand(number: number) {
    this.#database.prepare('update agent set last_command = ?').run(number);
  }

  close(): void {
    this.#database.close();
  }

  #insertEvent(kind: EventKind, occurredAtUnixMs: number): void {
    const content = Event.encode({ occurredAtUnixMs, kind }).finish();
    const rank = rankOf(kind);
    this.#insert.get(eventRanks.indexOf(rank), content, chainOf(kind), this.#bootId);
    this.#database
      .prepare('update run set next_sequence = next_sequence + 1 where boot_id = ?')
      .run(this.#bootId);
    this.#waiting[rank] += 1;
  }

  /** When there is room again, says what could not be kept. */
  #tellOverflow(nowUnixMs: number): void {
    if (this.isFull) return;
    const row = this.#database
      .prepare('select count, first_at_ms, last_at_ms from overflow')
      .get() as {
      count: number;
      first_at_ms: number;
      last_at_ms: number;
    };
    if (row.count === 0) return;
    this.#insertEvent(
      {
        $case: 'queueOverflowed',
        value: {
          count: Math.min(row.count, 2 ** 32 - 1),
          firstAtUnixMs: row.first_at_ms,
          lastAtUnixMs: row.last_at_ms,
        },
      },
      nowUnixMs,
    );
    this.#database.exec('update overflow set count = 0, first_at_ms = 0, last_at_ms = 0');
  }

  #transaction<T>(work: () => T): T {
    const before = { ...this.#waiting };
    const refused = this.#refused;
    this.#database.exec('begin immediate');
    try {
      const result = work();
      this.#database.exec('commit');
      return result;
    } catch (error) {
      this.#waiting = before;
      this.#refused = refused;
      this.#database.exec('rollback');
      throw error;
    }
  }

  #migrate(): void {
    const { user_version: version } = this.#database.prepare('pragma user_version').get() as {
      user_version: number;
    };
    if (version === schemaVersion) return;
    if (version > schemaVersion) throw new Error('the queue was written by a newer version');
    if (version > 0) {
      this.#database.exec('begin immediate');
      if (version === 1) {
        // Everything that the first version kept was of the same rank.
        this.#database.exec(`
          alter table event add column rank integer not null default ${eventRanks.indexOf('ordinary')};
          create index event_by_rank on event (rank, position);`);
      }
      this.#database.exec(`alter table event add column chain blob; ${eventByChain}`);
      const setChain = this.#database.prepare('update event set chain = ? where position = ?');
      const heads = this.#database.prepare('select position, content from event where rank = ?');
      for (const row of heads.all(eventRanks.indexOf('auditHead'))) {
        const { position, content } = row as { position: number; content: Uint8Array };
        setChain.run(chainOf(Event.decode(content).kind), position);
      }
      this.#database.exec(`pragma user_version = ${schemaVersion}; commit`);
      return;
    }
    this.#database.exec(`begin immediate;
      create table run (
        position integer primary key,
        boot_id text not null unique,
        started_at_ms integer not null,
        ended_cleanly integer not null,
        next_sequence integer not null,
        configuration text not null
      ) strict;
      create table event (
        position integer primary key autoincrement,
        boot_id text not null,
        sequence integer not null,
        content blob not null,
        rank integer not null,
        chain blob,
        unique (boot_id, sequence)
      ) strict;
      create index event_by_rank on event (rank, position);
      ${eventByChain}
      create table overflow (
        only integer primary key check (only = 1),
        count integer not null,
        first_at_ms integer not null,
        last_at_ms integer not null
      ) strict;
      insert into overflow values (1, 0, 0, 0);
      create table agent (only integer primary key check (only = 1), last_command integer not null) strict;
      insert into agent values (1, 0);
      pragma user_version = ${schemaVersion};
      commit;`);
  }
}

/** Column types that mean the same on SQLite, PostgreSQL and MySQL/MariaDB. */
import { type RawBuilder, sql } from 'kysely';
import type { SqlKind } from './sql-store.ts';

type ColumnType = RawBuilder<unknown>;

/** ASCII text of bounded length, compared byte by byte, so that `A` is never `a`. */
export function nameColumn(kind: SqlKind, length: number): ColumnType {
  if (kind === 'sqlite') return sql`text`;
  if (kind === 'postgresql') return sql.raw(`varchar(${length}) collate "C"`);
  return sql.raw(`varchar(${length}) character set ascii collate ascii_bin`);
}

/** Text in any language, of any length that a limit allows. */
export function textColumn(kind: SqlKind): ColumnType {
  return kind === 'mysql' ? sql`mediumtext character set utf8mb4 collate utf8mb4_bin` : sql`text`;
}

/** Up to 16 MiB. */
export function bytesColumn(kind: SqlKind): ColumnType {
  if (kind === 'sqlite') return sql`blob`;
  return kind === 'postgresql' ? sql`bytea` : sql`mediumblob`;
}

/** A whole number of up to 2^53; also milliseconds since 1970. */
export function integerColumn(kind: SqlKind): ColumnType {
  return kind === 'sqlite' ? sql`integer` : sql`bigint`;
}

/** 0 or 1. */
export function flagColumn(kind: SqlKind): ColumnType {
  return kind === 'sqlite' ? sql`integer` : sql`smallint`;
}

/** A key that the database counts up. */
export function positionColumn(kind: SqlKind): ColumnType {
  if (kind === 'sqlite') return sql`integer primary key autoincrement`;
  return kind === 'postgresql'
    ? sql`bigint generated always as identity primary key`
    : sql`bigint auto_increment primary key`;
}

/**
 * Composing raw statements: values become parameters, never text. For what Prisma's language
 * cannot say, such as an aggregate beside each row of a page.
 */
import { Prisma } from './generated/client.ts';
import type { Position } from './keyset.ts';

export type Sql = Prisma.Sql;
export const sql = Prisma.sql;
export const nothing = Prisma.empty;

/** Conditions of a `where`, all of which hold. */
export function allOf(conditions: readonly Sql[]): Sql {
  return conditions.length === 0 ? sql`true` : Prisma.join([...conditions], ' and ');
}

/** What a page is ordered by, beside the id. */
export interface SqlKeyset {
  /** The sort value; an id as its own sort value is not needed here. */
  column: Sql;
  id: Sql;
  /** `text`, `timestamptz`: the type a position's value is read as. */
  type: 'text' | 'timestamptz';
  descending: boolean;
  /** Rows without a value come last, in both directions. */
  nullable: boolean;
}

/** The rows after a position. */
export function afterPosition(keyset: SqlKeyset, position: Position | undefined): Sql {
  if (!position) return sql`true`;
  const { column, id, descending } = keyset;
  const beyond = descending ? sql`<` : sql`>`;
  if (position.value === null) {
    return sql`(${column} is null and ${id} ${beyond} ${position.id}::uuid)`;
  }
  const value =
    keyset.type === 'timestamptz'
      ? sql`${String(position.value)}::timestamptz`
      : sql`${String(position.value)}::text`;
  const later = sql`(${column}, ${id}) ${beyond} (${value}, ${position.id}::uuid)`;
  return keyset.nullable ? sql`(${later} or ${column} is null)` : later;
}

/** The order that goes with {@link afterPosition}. */
export function inOrder(keyset: SqlKeyset): Sql {
  const direction = keyset.descending ? sql`desc` : sql`asc`;
  const last = keyset.nullable ? sql`nulls last` : nothing;
  return sql`${keyset.column} ${direction} ${last}, ${keyset.id} ${direction}`;
}

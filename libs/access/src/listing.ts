/**
 * Lists: one page by key. The cursor is signed and bound to the organization, the caller, the
 * operation and its filters, so that it opens nothing elsewhere.
 */
import { timingSafeEqual } from 'node:crypto';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { after, type Keyset, order, type Position } from '@keystead/database/keyset';
import { z } from 'zod';
import { thoseThatFit } from './answer-size.ts';
import type { InstallationKey } from './sealing.ts';

const positionSchema = z.object({
  value: z.union([z.string(), z.number(), z.null()]),
  id: z.string(),
});

export interface ListQuery {
  limit: number;
  cursor?: string | undefined;
  sort: string;
}

type Read = (value: string | number) => unknown;

/** How the sort fields of an operation map onto a model. */
export interface SortField {
  /** Default: the sort's own name. */
  field?: string;
  nullable?: boolean;
  read?: Read;
}

export const asDate: Read = (value) => new Date(value);

export class Listing {
  readonly #key: InstallationKey;

  constructor(key: InstallationKey) {
    this.#key = key;
  }

  /**
   * Reads one page.
   * @param fields what each sort means; `idField` is the model's id (default `id`)
   * @param fetch takes Prisma's `where`, `orderBy`, `take`
   * @param valueOf the sort value of a row
   */
  async page<Row, Item>(
    ctx: TenantCtx,
    operationId: string,
    query: ListQuery,
    options: {
      fields: Record<string, SortField>;
      idField?: string;
      where?: Record<string, unknown>;
      fetch: (page: {
        where: Record<string, unknown>;
        orderBy: Record<string, unknown>[];
        take: number;
      }) => Promise<Row[]>;
      valueOf: (row: Row, sort: string) => Date | string | number | bigint | null;
      idOf: (row: Row) => string;
      toItem: (row: Row) => Item;
    },
  ): Promise<{ items: Item[]; nextCursor: string | null }> {
    return this.walk(ctx, operationId, query, {
      ...options,
      fetch: async ({ sort, descending, position, take }) => {
        const field = options.fields[sort];
        if (!field) throw new ServiceError('internal', { internal: `no sort field for ${sort}` });
        const keyset: Keyset = {
          field: field.field ?? sort,
          descending,
          nullable: field.nullable ?? false,
          ...(options.idField ? { idField: options.idField } : {}),
          ...(field.read ? { read: field.read } : {}),
        };
        const conditions = [options.where ?? {}, after(keyset, position)].filter(
          (condition) => Object.keys(condition).length > 0,
        );
        return options.fetch({
          where: conditions.length > 0 ? { AND: conditions } : {},
          orderBy: order(keyset),
          take,
        });
      },
    });
  }

  /** As {@link page}, for a list that is read by a statement of its own. */
  async walk<Row, Item>(
    ctx: TenantCtx,
    operationId: string,
    query: ListQuery,
    options: {
      fetch: (page: {
        sort: string;
        descending: boolean;
        position: Position | undefined;
        take: number;
      }) => Promise<Row[]>;
      valueOf: (row: Row, sort: string) => Date | string | number | bigint | null;
      idOf: (row: Row) => string;
      toItem: (row: Row) => Item;
    },
  ): Promise<{ items: Item[]; nextCursor: string | null }> {
    const descending = query.sort.startsWith('-');
    const sort = descending ? query.sort.slice(1) : query.sort;
    const scope = this.#scope(ctx, operationId, query);
    const position = query.cursor === undefined ? undefined : this.#open(scope, query.cursor);
    const rows = await options.fetch({ sort, descending, position, take: query.limit + 1 });
    // A page of large items is shorter than asked for: the cursor goes on from there.
    const items = thoseThatFit(rows.slice(0, query.limit).map(options.toItem));
    const last = rows[items.length - 1];
    return {
      items,
      nextCursor:
        rows.length > items.length && last !== undefined
          ? this.#close(scope, {
              value: plain(options.valueOf(last, sort)),
              id: options.idOf(last),
            })
          : null,
    };
  }

  #scope(ctx: TenantCtx, operationId: string, query: ListQuery): string {
    const {
      cursor: _cursor,
      limit: _limit,
      ...filters
    } = query as unknown as Record<string, unknown>;
    return JSON.stringify([ctx.organizationId, ctx.actor.id, operationId, filters]);
  }

  #close(scope: string, position: Position): string {
    const body = Buffer.from(JSON.stringify(position)).toString('base64url');
    return `${body}.${this.#tag(scope, body).toString('base64url')}`;
  }

  #open(scope: string, cursor: string): Position {
    const [body, tag, ...rest] = cursor.split('.');
    const given = Buffer.from(tag ?? '', 'base64url');
    const expected = this.#tag(scope, body ?? '');
    if (!body || rest.length > 0 || given.length !== expected.length) {
      throw new ServiceError('invalid_cursor');
    }
    if (!timingSafeEqual(given, expected)) throw new ServiceError('invalid_cursor');
    return positionSchema.parse(JSON.parse(Buffer.from(body, 'base64url').toString('utf8')));
  }

  #tag(scope: string, body: string): Buffer {
    return this.#key.sign('cursor', `${scope}\n${body}`).subarray(0, 16);
  }
}

function plain(value: Date | string | number | bigint | null): string | number | null {
  if (value instanceof Date) return value.toISOString();
  return typeof value === 'bigint' ? value.toString() : value;
}

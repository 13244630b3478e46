/**
 * Pages by key: the next page begins after the last row's sort value and id, however many rows
 * come and go meanwhile.
 */

/** Where a page ended. Dates travel as ISO strings. */
export interface Position {
  value: string | number | null;
  id: string;
}

export interface Keyset {
  /** Field of the model, or a path through one-to-one relations: `liveness.lastSeenAt`. */
  field: string;
  descending: boolean;
  /** Rows without a value come last, in both directions. */
  nullable: boolean;
  /** The model's own id field. Default `id`. */
  idField?: string;
  /** How a position's value becomes the field's type. */
  read?: (value: string | number) => unknown;
}

type Where = Record<string, unknown>;

function nest(path: string, condition: unknown): Where {
  const [head, ...rest] = path.split('.') as [string, ...string[]];
  return rest.length === 0
    ? { [head]: condition }
    : { [head]: { is: nest(rest.join('.'), condition) } };
}

function isNull(path: string): Where {
  const [head, ...rest] = path.split('.') as [string, ...string[]];
  if (rest.length === 0) return { [head]: null };
  return { OR: [{ [head]: { is: null } }, { [head]: { is: isNull(rest.join('.')) } }] };
}

/** Prisma's `where` for the rows after a position. */
export function after(keyset: Keyset, position: Position | undefined): Where {
  if (!position) return {};
  const id = keyset.idField ?? 'id';
  const beyond = keyset.descending ? 'lt' : 'gt';
  if (keyset.field === id) return { [id]: { [beyond]: position.id } };
  const later = { [id]: { [beyond]: position.id } };
  if (position.value === null) return { AND: [isNull(keyset.field), later] };
  const value = keyset.read ? keyset.read(position.value) : position.value;
  const alternatives: Where[] = [
    nest(keyset.field, { [beyond]: value }),
    { AND: [nest(keyset.field, value), later] },
  ];
  if (keyset.nullable) alternatives.push(isNull(keyset.field));
  return { OR: alternatives };
}

/** Prisma's `orderBy` that goes with {@link after}. */
export function order(keyset: Keyset): Where[] {
  const direction = keyset.descending ? 'desc' : 'asc';
  const id = keyset.idField ?? 'id';
  if (keyset.field === id) return [{ [id]: direction }];
  const path = keyset.field.split('.');
  const direct = path.length === 1;
  const leaf =
    keyset.nullable && direct ? { sort: direction, nulls: 'last' } : (direction as unknown);
  const nested = path.reduceRight<unknown>((inner, part) => ({ [part]: inner }), leaf) as Where;
  return [nested, { [id]: direction }];
}

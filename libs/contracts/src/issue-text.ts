/**
 * What a validator finds wrong, as a sentence for whoever sent it: what is allowed, not what was received.
 * Given to each parse whose faults somebody reads; what a schema says by itself comes first.
 *
 *     schema.safeParse(value, inOurWords)
 */
import type { z } from 'zod';

type RawIssue = z.core.$ZodRawIssue;

/** An issue that stands at one place and says one thing. */
export interface LeafIssue {
  path: PropertyKey[];
  message: string;
  code?: string;
  keys?: string[];
}

export const inOurWords = { error: issueText };

export function issueText(issue: RawIssue): string {
  if (issue.code !== 'custom' && issue.input === undefined) return 'is missing';
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${kindText(issue)}`;
    case 'invalid_value':
      return oneOf(issue.values);
    case 'too_small':
    case 'too_big':
      return sizeText(issue);
    case 'not_multiple_of':
      return `must be a multiple of ${issue.divisor}`;
    case 'invalid_format':
      return formatText(issue);
    case 'unrecognized_keys':
      return `must not hold ${issue.keys.map((key) => JSON.stringify(key)).join(', ')}`;
    case 'invalid_union':
      if ('options' in issue && Array.isArray(issue.options)) return oneOf(issue.options);
      return alternatives(issue.errors.flatMap((branch) => branch.slice(0, 1)));
    case 'invalid_key':
      return `its name ${issue.issues[0]?.message ?? 'is not valid'}`;
    case 'invalid_element':
      return `an entry ${issue.issues[0]?.message ?? 'is not valid'}`;
    default:
      return 'is not valid';
  }
}

/**
 * An issue of a choice between shapes is told as what is wrong with the shape that was meant: the one that
 * fits best. Where none does, all of them are told in one sentence.
 */
export function leafIssues(issues: readonly LeafIssue[]): LeafIssue[] {
  const told = issues.flatMap((issue) => {
    const branches = (issue as { errors?: LeafIssue[][] }).errors ?? [];
    if (issue.code !== 'invalid_union' || branches.length === 0) return [issue];
    const meant = closest(branches);
    if (meant.length === 1) {
      return leafIssues(meant[0] ?? []).map((inner) => ({
        ...inner,
        path: [...issue.path, ...inner.path],
      }));
    }
    return [{ ...issue, message: alternatives(meant.flatMap((branch) => branch.slice(0, 1))) }];
  });
  // Two checks of one range say the same.
  return told.filter(({ message, path }, index) => {
    const before = told[index - 1];
    return (
      before?.message !== message ||
      before.path.map(String).join('/') !== path.map(String).join('/')
    );
  });
}

/** The branches in which the value is at least of the right kind, and of those the ones with the fewest faults. */
function closest(branches: readonly LeafIssue[][]): readonly LeafIssue[][] {
  const isOtherKind = ({ path, code }: LeafIssue) =>
    path.length === 0 && (code === 'invalid_type' || code === 'invalid_value');
  const sameKind = branches.filter((branch) => !branch.some(isOtherKind));
  const candidates = sameKind.length === 0 ? branches : sameKind;
  const fewest = Math.min(...candidates.map((branch) => branch.length));
  return candidates.filter((branch) => branch.length === fewest);
}

function alternatives(issues: readonly LeafIssue[]): string {
  const texts = issues.map(({ path, message }) =>
    path.length === 0 ? message : `${path.map(String).join('.')} ${message}`,
  );
  const unique = [...new Set(texts)];
  const start = 'must be ';
  if (unique.length > 1 && unique.every((text) => text.startsWith(start))) {
    return `${start}${unique.map((text) => text.slice(start.length)).join(' or ')}`;
  }
  return unique.length === 0 ? 'is not valid' : unique.join(', or ');
}

function oneOf(values: readonly unknown[]): string {
  const [only] = values;
  if (values.length === 1) return `must be ${JSON.stringify(only)}`;
  return `must be one of: ${values.map(String).join(', ')}`;
}

interface Bounds {
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  isWhole?: boolean;
}

/** What all checks of the schema together allow, so that one fault tells the whole range. */
function boundsOf({ schema, inst }: RawIssue): Bounds {
  const owner = schema ?? inst;
  const { def } = owner === undefined ? { def: {} } : owner._zod;
  const { checks = [], type, items, rest } = def as SchemaParts;
  const bounds: Bounds = {};
  if (type === 'tuple' && !rest) {
    bounds.minimum = items?.length ?? 0;
    bounds.maximum = bounds.minimum;
  }
  for (const check of [...checks.map(({ _zod }) => _zod.def), def as CheckParts]) {
    switch (check.check) {
      case 'number_format':
        bounds.isWhole = check.format?.includes('int') ?? false;
        break;
      case 'greater_than':
        bounds[check.inclusive ? 'minimum' : 'exclusiveMinimum'] = Number(check.value);
        break;
      case 'less_than':
        bounds[check.inclusive ? 'maximum' : 'exclusiveMaximum'] = Number(check.value);
        break;
      case 'min_length':
        bounds.minimum = check.minimum ?? 0;
        break;
      case 'max_length':
        bounds.maximum = check.maximum ?? Number.POSITIVE_INFINITY;
        break;
      default:
    }
  }
  return bounds;
}

interface CheckParts {
  check?: string;
  format?: string;
  value?: unknown;
  inclusive?: boolean;
  minimum?: number;
  maximum?: number;
}
interface SchemaParts extends CheckParts {
  checks?: readonly { _zod: { def: CheckParts } }[];
  type?: string;
  items?: readonly unknown[];
  rest?: unknown;
}

function kindText(issue: Extract<RawIssue, { code: 'invalid_type' }>): string {
  switch (issue.expected) {
    case 'int':
    case 'number':
      return numberText(boundsOf(issue), issue.expected === 'int');
    case 'boolean':
      return 'true or false';
    case 'array':
    case 'tuple':
    case 'set':
      return 'a list';
    case 'object':
    case 'record':
    case 'map':
      return 'an object';
    case 'null':
      return 'null';
    case 'never':
    case 'undefined':
    case 'void':
      return 'left out';
    default:
      return `a ${issue.expected}`;
  }
}

function sizeText(issue: Extract<RawIssue, { code: 'too_small' | 'too_big' }>): string {
  const own: Bounds =
    issue.code === 'too_small'
      ? { [issue.inclusive === false ? 'exclusiveMinimum' : 'minimum']: Number(issue.minimum) }
      : { [issue.inclusive === false ? 'exclusiveMaximum' : 'maximum']: Number(issue.maximum) };
  const bounds = { ...own, ...boundsOf(issue) };
  switch (issue.origin) {
    case 'string':
      return `must ${countText(bounds, issue, 'character', 'characters')}`;
    case 'array':
    case 'set':
    case 'map':
    case 'object':
    case 'record':
      return `must ${countText(bounds, issue, 'entry', 'entries')}`;
    default:
      return `must be ${numberText(bounds, issue.origin === 'int')}`;
  }
}

function countText(
  { minimum = 0, maximum = Number.POSITIVE_INFINITY }: Bounds,
  { input, exact }: { input: unknown; exact?: boolean },
  one: string,
  many: string,
): string {
  const named = (count: number) => `${count} ${count === 1 ? one : many}`;
  const isEmpty = typeof input === 'string' || Array.isArray(input) ? input.length === 0 : false;
  if (exact || minimum === maximum) {
    return `have exactly ${named(Number.isFinite(maximum) ? maximum : minimum)}`;
  }
  if (isEmpty && minimum === 1) return 'not be empty';
  if (minimum <= (one === 'character' ? 1 : 0)) return `have at most ${named(maximum)}`;
  if (!Number.isFinite(maximum)) return `have at least ${named(minimum)}`;
  return `have ${minimum} to ${named(maximum)}`;
}

function numberText(bounds: Bounds, isInteger: boolean): string {
  const what = isInteger || bounds.isWhole ? 'a whole number' : 'a number';
  // What any whole number is bounded by is no bound of ours.
  const own = (bound: number | undefined) =>
    bound !== undefined && Math.abs(bound) < Number.MAX_SAFE_INTEGER ? bound : undefined;
  const [minimum, maximum] = [own(bounds.minimum), own(bounds.maximum)];
  const [above, below] = [own(bounds.exclusiveMinimum), own(bounds.exclusiveMaximum)];
  if (minimum !== undefined && maximum !== undefined)
    return `${what} from ${minimum} to ${maximum}`;
  const sides = [
    ...(minimum === undefined ? [] : [`of at least ${minimum}`]),
    ...(above === undefined ? [] : [`greater than ${above}`]),
    ...(maximum === undefined ? [] : [`of at most ${maximum}`]),
    ...(below === undefined ? [] : [`less than ${below}`]),
  ];
  return [what, sides.join(' and ')].filter((part) => part !== '').join(' ');
}

const formats: Record<string, string> = {
  email: 'a mail address',
  url: 'a URL, like https://example.com/path',
  uuid: 'a UUID',
  guid: 'a UUID',
  datetime: 'a time in UTC, like 2027-01-31T00:00:00Z',
  date: 'a date, like 2027-01-31',
  ipv4: 'an IPv4 address',
  ipv6: 'an IPv6 address',
  cidrv4: 'a network, like 10.0.0.0/8',
  cidrv6: 'a network, like fd00::/8',
  base64: 'base64 (RFC 4648, padded)',
  base64url: 'base64url (RFC 4648)',
  json_string: 'JSON',
};

function formatText(issue: Extract<RawIssue, { code: 'invalid_format' }>): string {
  const { format } = issue;
  if ('prefix' in issue) return `must begin with ${JSON.stringify(issue.prefix)}`;
  if ('suffix' in issue) return `must end with ${JSON.stringify(issue.suffix)}`;
  if ('includes' in issue) return `must hold ${JSON.stringify(issue.includes)}`;
  const form = formats[format];
  return form === undefined ? 'is not of the form that is expected here' : `must be ${form}`;
}

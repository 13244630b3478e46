/**
 * What a request says in text, taken apart with care: JSON, query strings and headers come from
 * anybody. Everything that is refused is refused here with the place where it stands.
 */
import { invalidRequest, type ProblemDetail, type ServiceError } from '../errors.ts';
import { limits } from '../limits.ts';

const utf8 = new TextDecoder('utf-8', { fatal: true });
const queryPairsMax = 100;

function wrong(location: ProblemDetail['in'], path: PropertyKey[], message: string): ServiceError {
  return invalidRequest(location, [{ path, message }]);
}

/** The first thing about a text that no field of ours accepts. */
function objection(text: string): string | undefined {
  if (text.includes('\0')) return 'must not hold a NUL character';
  if (!text.isWellFormed()) return 'must be well-formed Unicode';
  return undefined;
}

/** @throws ServiceError `invalid_request` naming line and column, or the field */
export function readJson(bytes: Buffer): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    throw wrong('body', [], 'is not UTF-8');
  }
  if (text.trim() === '') return undefined;
  checkDepth(text);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw wrong('body', [], `is not JSON: ${place(text, faultIn(text))}`);
  }
  checkTexts(value, []);
  return value;
}

// Counted in the text, so that a megabyte of brackets is never built.
function checkDepth(text: string): void {
  let depth = 0;
  let inString = false;
  for (let index = 0; index < text.length; index += 1) {
    const character = text.charCodeAt(index);
    if (inString) {
      if (character === 0x5c) index += 1;
      else if (character === 0x22) inString = false;
    } else if (character === 0x22) inString = true;
    else if (character === 0x5b || character === 0x7b) {
      depth += 1;
      if (depth > limits.bodyMaxDepth) {
        throw wrong(
          'body',
          [],
          `is nested deeper than ${limits.bodyMaxDepth} levels: ${place(text, index)}`,
        );
      }
    } else if (character === 0x5d || character === 0x7d) depth -= 1;
  }
}

function checkTexts(value: unknown, path: PropertyKey[]): void {
  if (typeof value === 'string') {
    const message = objection(value);
    if (message) throw wrong('body', path, message);
  } else if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) checkTexts(item, [...path, index]);
  } else if (typeof value === 'object' && value !== null) {
    for (const key of Object.keys(value)) {
      if (key === '__proto__') throw wrong('body', [...path, key], 'is not a field here');
      const message = objection(key);
      if (message) throw wrong('body', [...path, key.toWellFormed()], `its name ${message}`);
      checkTexts((value as Record<string, unknown>)[key], [...path, key]);
    }
  }
}

function place(text: string, index: number): string {
  const before = text.slice(0, index);
  const line = before.split('\n').length;
  return `line ${line}, column ${index - before.lastIndexOf('\n')}`;
}

const token =
  /[\t\n\r ]*(?:([{}[\],:])|("(?:[ !#-[\]-\uffff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null))/y;

/**
 * Where JSON goes wrong: the index of the first token that cannot stand there. The messages of
 * JSON.parse name a place only sometimes.
 */
function faultIn(text: string): number {
  const open: string[] = [];
  let expects: 'value' | 'valueOrEnd' | 'key' | 'keyOrEnd' | 'colon' | 'commaOrEnd' = 'value';
  let index = 0;
  while (true) {
    token.lastIndex = index;
    const found = token.exec(text);
    const start = index + (/^[\t\n\r ]*/.exec(text.slice(index))?.[0].length ?? 0);
    if (!found) return start;
    index = token.lastIndex;
    const [, mark, scalar] = found;
    const isText = scalar?.startsWith('"') ?? false;
    const ends =
      (mark === '}' || mark === ']') &&
      (expects === 'commaOrEnd' ||
        (mark === '}' ? expects === 'keyOrEnd' : expects === 'valueOrEnd')) &&
      open.at(-1) === mark;
    if (ends) {
      open.pop();
      expects = 'commaOrEnd';
    } else if (expects === 'commaOrEnd') {
      if (mark !== ',' || open.length === 0) return start;
      expects = open.at(-1) === '}' ? 'key' : 'value';
    } else if (expects === 'colon') {
      if (mark !== ':') return start;
      expects = 'value';
    } else if (expects === 'key' || expects === 'keyOrEnd') {
      if (!isText) return start;
      expects = 'colon';
    } else if (mark === '{' || mark === '[') {
      open.push(mark === '{' ? '}' : ']');
      expects = mark === '{' ? 'keyOrEnd' : 'valueOrEnd';
    } else if (scalar === undefined) return start;
    else expects = 'commaOrEnd';
  }
}

/**
 * The query of a request target. A key given once is a text, given twice a list: only the fields
 * that are lists accept that. @throws ServiceError `invalid_request`
 */
export function readQuery(target: string): Record<string, string | string[]> {
  const values: Record<string, string | string[]> = Object.create(null);
  const mark = target.indexOf('?');
  if (mark === -1) return values;
  const pairs = target
    .slice(mark + 1)
    .split('&')
    .filter((pair) => pair !== '');
  if (pairs.length > queryPairsMax)
    throw wrong('query', [], `has more than ${queryPairsMax} parts`);
  for (const pair of pairs) {
    const equals = pair.indexOf('=');
    const key = decode(equals === -1 ? pair : pair.slice(0, equals), []);
    const value = decode(equals === -1 ? '' : pair.slice(equals + 1), [key]);
    const there = values[key];
    if (there === undefined) values[key] = value;
    else values[key] = [...(Array.isArray(there) ? there : [there]), value];
  }
  return values;
}

function decode(text: string, path: PropertyKey[]): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw wrong('query', path, 'is not percent-encoded UTF-8');
  }
  const message = objection(decoded);
  if (message) throw wrong('query', path, message);
  return decoded;
}

const idempotencyKey = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;

/** @throws ServiceError `invalid_request` */
export function readIdempotencyKey(header: string | string[] | undefined): string | null {
  if (header === undefined) return null;
  const most = limits.idempotencyKeyMaxLength;
  if (typeof header !== 'string' || header.length > most || !idempotencyKey.test(header)) {
    throw wrong('header', ['Idempotency-Key'], `must be 1 to ${most} printable ASCII characters`);
  }
  return header;
}

const entityTags =
  /^(?:\*|(?:W\/)?"[\x21\x23-\x7e]{0,200}"(?:[ \t]*,[ \t]*(?:W\/)?"[\x21\x23-\x7e]{0,200}"){0,19})$/;

/** @throws ServiceError `invalid_request` */
export function readIfMatch(header: string | undefined): string | null {
  if (header === undefined) return null;
  if (!entityTags.test(header.trim())) {
    throw wrong('header', ['If-Match'], 'must be the ETag of an earlier answer, or *');
  }
  return header.trim();
}

const requestId = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** The caller's own request id where it is well-formed. */
export function readRequestId(header: string | string[] | undefined): string | undefined {
  return typeof header === 'string' && requestId.test(header) ? header : undefined;
}

const traceparent = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** The W3C trace the request belongs to, or a new one. */
export function readTraceparent(header: string | string[] | undefined): string {
  if (typeof header === 'string' && traceparent.test(header)) return header;
  const random = Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString('hex');
  return `00-${random.slice(0, 32)}-${random.slice(32)}-01`;
}

/**
 * A decision as it is kept for replays: everything that a policy can read of a request, and how it was
 * decided. JSON, one line each. Never a value: a request that is put to policies has none.
 */
import type { AccessRequest } from '@keystead/policy-engine/facts';

export type JournaledRequest = Omit<AccessRequest, 'resource'> & {
  resource: Omit<AccessRequest['resource'], 'vault'>;
};

export interface JournalEntry {
  /** Of the first of `count` equal ones. */
  atMs: number;
  count: number;
  allowed: boolean;
  /** The set that decided asked for an approval. */
  needsApproval: boolean;
  /** The resource is told with what the store knew of it. */
  isKnown: boolean;
  request: JournaledRequest;
}

/** Decisions of a minute that were too many to be kept. */
export interface NotKept {
  atMs: number;
  notKept: number;
}

export type JournalLine = JournalEntry | NotKept;

/** What makes decisions equal: all but the exact time, the age of the authentication and the use count. */
export function keyOf(
  { principal, action, resource, context }: JournaledRequest,
  allowed: boolean,
  needsApproval: boolean,
): string {
  const { kind, id, roles = [] } = principal;
  const { address = '', authentication, tls, headers, clockTrusted } = context;
  const namespace = resource.namespace?.name;
  const secret = resource.secret?.name;
  const flags =
    (allowed ? 1 : 0) +
    (needsApproval ? 2 : 0) +
    (clockTrusted === false ? 4 : 0) +
    (tls?.used === true ? 8 : 0) +
    (tls?.clientCertificate === true ? 16 : 0) +
    (namespace === undefined ? 32 : 0) +
    (secret === undefined ? 64 : 0);
  const sent = isEmpty(headers) ? '' : JSON.stringify(headers);
  // Made for every decision. Every part that somebody else chooses has its length before it.
  return `${flags} ${kind} ${action} ${authentication.method} ${id.length}:${id}${textOf(roles)}${textOf([namespace ?? '', secret ?? '', address, tls?.version ?? ''])}${sent}`;
}

function textOf(parts: readonly string[]): string {
  let text = `${parts.length};`;
  for (const part of parts) text += `${part.length}:${part}`;
  return text;
}

function isEmpty(record: Readonly<Record<string, string>> | undefined): boolean {
  for (const _ in record) return false;
  return true;
}

/** Undefined where the line is none of ours. */
export function parseEntry(line: string): JournalLine | undefined {
  try {
    const found = JSON.parse(line) as Partial<JournalEntry & NotKept> | null;
    if (typeof found !== 'object' || found === null || !isCount(found.atMs)) return undefined;
    if (isCount(found.notKept)) return { atMs: found.atMs, notKept: found.notKept };
    const { count, request } = found;
    const isWhole =
      isCount(count) &&
      typeof found.allowed === 'boolean' &&
      typeof request?.principal?.kind === 'string' &&
      typeof request.action === 'string' &&
      typeof request.resource === 'object' &&
      typeof request.context?.authentication === 'object';
    return isWhole ? (found as JournalEntry) : undefined;
  } catch {
    return undefined;
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

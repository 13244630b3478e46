/**
 * The form of the audit on the disk: JSON lines that chain by hash.
 *
 * A line is `{"sequence":7,"at":"…","type":"…",…,"hash":"…"}`. Its hash is the SHA-256, in hexadecimal
 * digits, of the hash of the line before it, as 64 ASCII digits, followed by the bytes of this line up
 * to `,"hash"`. Nothing is parsed or sorted to verify it: two lines of shell can.
 */
import { hash } from 'node:crypto';
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import type { ErrorCode } from '@keystead/contracts/errors';
import type { CallerIdentity, ResourceReference } from '../access/caller.ts';
import { auditLimits } from './audit-limits.ts';

/** Before the identity is known, or where there is none. */
export interface AuditIdentity extends Pick<CallerIdentity, 'id' | 'name'> {
  kind: CallerIdentity['kind'] | 'anonymous';
}

export type AuditResult = 'started' | 'done' | 'denied' | 'refused' | 'throttled' | 'failed';

/** What happened: who, what, on what, from where, with what result. Never a value. */
export interface AuditFact {
  requestId: string;
  identity: AuditIdentity;
  /** Where the request came from; empty for the agent's own work. */
  address: string;
  action: AgentAction | 'authenticate';
  /** The operation of the API, or the step of a duty, e.g. `secrets.read-value`, `rotation.promote`. */
  operation: string;
  resource: ResourceReference;
  /** `started` before a change is made; `outcome` before the answer leaves. */
  phase: 'started' | 'outcome';
  result: AuditResult;
  /** The code of the error, where it was not done. */
  code?: ErrorCode | undefined;
  /** Roles and policies that decided. */
  decidedBy?: readonly string[] | undefined;
  /** What else explains a decision or an outcome: the context of a denial (R8.4), counts, a version. */
  context?: Readonly<Record<string, string | number | boolean>> | undefined;
}

export type AuditLineType = 'file' | 'operation' | 'head' | 'mended' | 'resumed' | 'retired';

export const noHash = '0'.repeat(64);
export const auditFormat = 1;

/**
 * The body of an operation's line, without the sequence: it is numbered when it is written. Put together
 * by hand, as there is one for every request: most texts in it need no escaping.
 */
export function operationBody(fact: AuditFact, nowMs: number): string {
  const { resource } = fact;
  return `{"at":"${isoTime(nowMs)}","type":"operation","requestId":${quoted(fact.requestId)},"identity":${identityJson(fact.identity)},"address":${quoted(fact.address)},"action":"${fact.action}","operation":${quoted(fact.operation)}${field('namespace', resource.namespace)}${field('secret', resource.secret)}${field('other', resource.other)},"phase":"${fact.phase}","result":"${fact.result}"${field('code', fact.code)}${listField(fact.decidedBy)}${contextField(fact.context)}}`;
}

/** The body of a line of the audit's own bookkeeping. */
export function bookkeepingBody(
  type: Exclude<AuditLineType, 'operation'>,
  nowMs: number,
  fields: Record<string, unknown>,
): string {
  return JSON.stringify({ at: isoTime(nowMs), type, ...fields });
}

/** Numbers and chains a body: the line, with its end, and its hash. */
export function chainLine(
  body: string,
  sequence: number,
  previousHash: string,
): { line: string; hash: string } {
  const open = `{"sequence":${sequence},${body.slice(1, -1)}`;
  const lineHash = hash('sha256', previousHash + open, 'hex');
  return { line: `${open},"hash":"${lineHash}"}\n`, hash: lineHash };
}

/** `,"hash":"` and 64 digits and `"}`: what follows the bytes that are hashed. */
const hashTailLength = 9 + 64 + 2;

/** The two halves of a line without its end, or undefined where it has not the form. */
export function splitLine(line: Buffer): { open: Buffer; hash: string } | undefined {
  const cut = line.length - hashTailLength;
  if (cut < 1 || line.length > auditLimits.lineBytes) return undefined;
  const tail = line.toString('latin1', cut);
  if (!/^,"hash":"[0-9a-f]{64}"\}$/.test(tail)) return undefined;
  return { open: line.subarray(0, cut), hash: tail.slice(9, 73) };
}

export function hashOf(previousHash: string, open: Buffer): string {
  return hash('sha256', Buffer.concat([Buffer.from(previousHash, 'latin1'), open]), 'hex');
}

/** The sequence of a line, read from its first bytes; undefined where it does not begin like one. */
export function sequenceOf(line: Buffer): number | undefined {
  const match = /^\{"sequence":(\d{1,15}),/.exec(line.toString('latin1', 0, 32));
  return match === null ? undefined : Number(match[1]);
}

/** The time of a line in ms, read from its first bytes. */
export function timeOf(line: Buffer): number | undefined {
  const match = /^\{"sequence":\d{1,15},"at":"([^"]{24,27})"/.exec(line.toString('latin1', 0, 72));
  if (match === null) return undefined;
  const time = Date.parse(match[1] ?? '');
  return Number.isNaN(time) ? undefined : time;
}

/** Where the time stands in a line that begins at `start`; the text has 24 characters. */
export function timeOffset(bytes: Buffer, start: number): number {
  return bytes.indexOf(0x2c, start + 12) + 7;
}

export interface FileLine {
  sequence: number;
  at: string;
  type: 'file';
  format: number;
  /** 16 bytes in hexadecimal digits, the same in every file of a chain. */
  chain: string;
  /** The hash of the last line of the file before it; zeros in the first. */
  previous: string;
  /** The public key of the heads, SubjectPublicKeyInfo in base64. */
  signerKey: string;
  hash: string;
}

export interface HeadLine {
  sequence: number;
  at: string;
  type: 'head';
  /** What it signs: the line before it. */
  head: { sequence: number; hash: string; atUnixMs: number; signature: string };
  hash: string;
}

export interface RetiredLine {
  sequence: number;
  at: string;
  type: 'retired';
  /** Entries up to and including this one are no longer kept. */
  through: number;
  /** What the agent was told to keep, in days. */
  retentionDays: number;
  /** The time of the first line that is kept, which no retired entry is younger than. */
  before: string;
  /** The hash of the entry `through`, which the first line that is kept follows. */
  lastHash: string;
  /** Ed25519, by the key of the heads. */
  signature: string;
  hash: string;
}

/** An operation as it is on the disk. */
export interface OperationLine extends Omit<AuditFact, 'resource' | 'decidedBy' | 'context'> {
  sequence: number;
  at: string;
  type: 'operation';
  namespace?: string;
  secret?: string;
  other?: string;
  decidedBy?: string[];
  context?: Record<string, string | number | boolean>;
  hash: string;
}

export interface OtherLine {
  sequence: number;
  at: string;
  type: 'mended' | 'resumed';
  hash: string;
  [field: string]: unknown;
}

export type AuditLine = FileLine | HeadLine | RetiredLine | OperationLine | OtherLine;

/** Undefined where the bytes are no object of JSON. Its fields are what the writer wrote. */
export function parseLine(line: Buffer | string): AuditLine | undefined {
  try {
    const value = JSON.parse(line.toString()) as AuditLine | null;
    return typeof value === 'object' && value !== null && typeof value.type === 'string'
      ? value
      : undefined;
  } catch {
    return undefined;
  }
}

let second = Number.NaN;
let secondIso = '';

/** Of one second after another nearly everything is the same. */
function isoTime(nowMs: number): string {
  const thisSecond = Math.floor(nowMs / 1_000);
  if (thisSecond !== second) {
    // Up to the dot: also years of more than four digits.
    secondIso = new Date(thisSecond * 1_000).toISOString().slice(0, -4);
    second = thisSecond;
  }
  return `${secondIso}${String(1_000 + (Math.trunc(nowMs) - thisSecond * 1_000)).slice(1)}Z`;
}

function clip(text: string): string {
  return text.length > auditLimits.textLength ? text.slice(0, auditLimits.textLength) : text;
}

/** What JSON writes as it is. */
const plain = /^[ !#-[\]-~]*$/;

function quoted(text: string): string {
  const short = clip(text);
  return plain.test(short) ? `"${short}"` : JSON.stringify(short);
}

function field(name: string, text: string | undefined): string {
  return text === undefined ? '' : `,"${name}":${quoted(text)}`;
}

function listField(list: readonly string[] | undefined): string {
  if (list === undefined) return '';
  // One role, nearly always.
  if (list.length === 1) return `,"decidedBy":[${quoted(list[0] as string)}]`;
  return `,"decidedBy":[${list.slice(0, auditLimits.listLength).map(quoted).join(',')}]`;
}

function contextField(context: AuditFact['context']): string {
  return context === undefined ? '' : `,"context":${JSON.stringify(clippedContext(context))}`;
}

const identities = new WeakMap<AuditIdentity, string>();

/** Whoever calls often is one object that never changes. */
function identityJson(identity: AuditIdentity): string {
  const known = identities.get(identity);
  if (known !== undefined) return known;
  const { kind, id, name } = identity;
  const json = `{"kind":"${kind}","id":${quoted(id)},"name":${quoted(name)}}`;
  if (Object.isFrozen(identity)) identities.set(identity, json);
  return json;
}

function clippedContext(
  context: Readonly<Record<string, string | number | boolean>>,
): Record<string, string | number | boolean> {
  const most = auditLimits.contextTextLength;
  return Object.fromEntries(
    Object.entries(context)
      .slice(0, auditLimits.contextEntries)
      .map(([key, value]) => [
        key.slice(0, most),
        typeof value === 'string' ? value.slice(0, most) : value,
      ]),
  );
}

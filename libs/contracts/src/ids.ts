/**
 * Public ids: TypeID, a type prefix and a UUIDv7 in Crockford base 32 (26 characters), e.g.
 * `vlt_01h455vb4pex5vsknk084sn02q`. The database stores the `uuid` alone.
 */
import { z } from 'zod';

export const idPrefixes = {
  organization: 'org',
  person: 'usr',
  member: 'mbr',
  session: 'ses',
  apiKey: 'key',
  invitation: 'inv',
  auditEvent: 'aud',
  enrollmentToken: 'ent',
  vault: 'vlt',
  agent: 'agt',
  agentEvent: 'evt',
  auditHead: 'adh',
  outage: 'out',
  alert: 'alr',
  alertRule: 'alu',
  thresholdRule: 'thr',
  channel: 'chn',
  subscription: 'sub',
  delivery: 'dlv',
  policy: 'pol',
  policyComment: 'pcm',
  policySet: 'pst',
  rollout: 'rol',
  policyReplay: 'rpl',
  record: 'rec',
  rekey: 'rky',
  namespace: 'ns',
  secret: 'sec',
  rotation: 'rot',
  approval: 'apr',
  override: 'ovr',
  backup: 'bkp',
  backupRun: 'bkr',
} as const;

export type IdKind = keyof typeof idPrefixes;
export type Id<K extends IdKind> = `${(typeof idPrefixes)[K]}_${string}`;

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';
const values = new Map([...alphabet].map((character, value) => [character, value]));
const hexadecimal = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The public id of a stored uuid (lower-case, hyphenated). */
export function toId<K extends IdKind>(kind: K, uuid: string): Id<K> {
  if (!hexadecimal.test(uuid)) throw new TypeError(`not a lower-case uuid: ${uuid}`);
  let number = BigInt(`0x${uuid.replaceAll('-', '')}`);
  let suffix = '';
  for (let index = 0; index < 26; index += 1) {
    suffix = alphabet[Number(number & 31n)] + suffix;
    number >>= 5n;
  }
  return `${idPrefixes[kind]}_${suffix}` as Id<K>;
}

/** The stored uuid of a public id, or undefined where the text is not an id of that kind. */
export function parseId(kind: IdKind, text: string): string | undefined {
  const prefix = `${idPrefixes[kind]}_`;
  if (!text.startsWith(prefix) || text.length !== prefix.length + 26) return undefined;
  let number = 0n;
  for (const character of text.slice(prefix.length)) {
    const value = values.get(character);
    if (value === undefined) return undefined;
    number = (number << 5n) | BigInt(value);
  }
  if (number >> 128n !== 0n) return undefined;
  const digits = number.toString(16).padStart(32, '0');
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ].join('-');
}

/** As {@link parseId}, for ids that were validated at the border. @throws TypeError */
export function toUuid(kind: IdKind, id: string): string {
  const uuid = parseId(kind, id);
  if (uuid === undefined) throw new TypeError(`not an id of kind ${kind}`);
  return uuid;
}

/** A zod schema for a public id of one kind; its JSON Schema carries the pattern. */
export function idSchema<K extends IdKind>(kind: K) {
  return z
    .string()
    .regex(
      new RegExp(`^${idPrefixes[kind]}_[0-7][0-9a-hjkmnp-tv-z]{25}$`),
      `must be an id like ${idPrefixes[kind]}_01h455vb4pex5vsknk084sn02q`,
    ) as unknown as z.ZodType<Id<K>, string>;
}

/** A new UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits. */
export function newUuid(
  nowMs: number = Date.now(),
  random: (bytes: Uint8Array) => Uint8Array = (bytes) => crypto.getRandomValues(bytes),
): string {
  const bytes = random(new Uint8Array(16));
  let time = BigInt(Math.floor(nowMs));
  for (let index = 5; index >= 0; index -= 1) {
    bytes[index] = Number(time & 255n);
    time >>= 8n;
  }
  bytes[6] = 0x70 | ((bytes[6] ?? 0) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] ?? 0) & 0x3f);
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ].join('-');
}

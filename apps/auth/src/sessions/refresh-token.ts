/**
 * Refresh tokens: which session of which organization they belong to, 128 random bits, and a MAC.
 * The MAC tells a token of ours from an invented one, so that an old one is recognized however
 * many came after it, and nobody can end another's session by making one up.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { credentialPrefixes } from '@keystead/access/credential';
import type { InstallationKey } from '@keystead/access/sealing';

const uuidBytes = 16;
const randomLength = 16;
const macBytes = 16;
const length = 2 * uuidBytes + randomLength + macBytes;
const use = 'refresh-token';

export interface SessionName {
  organizationId: string;
  sessionId: string;
}

export function newRefreshToken(
  key: InstallationKey,
  session: SessionName,
  random: (length: number) => Buffer = randomBytes,
): { text: string; hash: Buffer } {
  const body = Buffer.concat([
    toBytes(session.organizationId),
    toBytes(session.sessionId),
    random(randomLength),
  ]);
  const token = Buffer.concat([body, macOf(key, body)]);
  const text = `${credentialPrefixes.refreshToken}${token.toString('base64url')}`;
  return { text, hash: hashRefreshToken(text) };
}

/** @returns undefined for anything we did not make */
export function openRefreshToken(key: InstallationKey, text: string): SessionName | undefined {
  if (!text.startsWith(credentialPrefixes.refreshToken)) return undefined;
  const encoded = text.slice(credentialPrefixes.refreshToken.length);
  const token = Buffer.from(encoded, 'base64url');
  // One spelling only: a lenient decoder would let two texts name one token.
  if (token.length !== length || token.toString('base64url') !== encoded) return undefined;
  const body = token.subarray(0, length - macBytes);
  if (!timingSafeEqual(token.subarray(length - macBytes), macOf(key, body))) return undefined;
  return {
    organizationId: toUuidText(body.subarray(0, uuidBytes)),
    sessionId: toUuidText(body.subarray(uuidBytes, 2 * uuidBytes)),
  };
}

export function hashRefreshToken(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function macOf(key: InstallationKey, body: Buffer): Buffer {
  return key.sign(use, body.toString('base64url')).subarray(0, macBytes);
}

const toBytes = (uuid: string) => Buffer.from(uuid.replaceAll('-', ''), 'hex');

function toUuidText(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

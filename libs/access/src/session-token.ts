/** Access tokens of people: a JWT (EdDSA only), fifteen minutes, naming a session row. */
import type { KeyObject } from 'node:crypto';
import { limits } from '@keystead/contracts/limits';
import { jwtVerify, SignJWT } from 'jose';
import { z } from 'zod';

const algorithm = 'EdDSA';
const issuer = 'keystead';
const audience = 'keystead-api';
const claims = z.object({ sub: z.uuid(), sid: z.uuid(), org: z.uuid() });

/** Ids are uuids. */
export interface SessionClaims {
  personId: string;
  sessionId: string;
  organizationId: string;
}

export async function signSessionToken(
  privateKey: KeyObject,
  session: SessionClaims,
  now: Date,
): Promise<{ token: string; expiresAt: Date }> {
  const seconds = Math.floor(now.getTime() / 1_000);
  const expiresAt = seconds + limits.accessTokenTtlSeconds;
  const token = await new SignJWT({ sid: session.sessionId, org: session.organizationId })
    .setProtectedHeader({ alg: algorithm, typ: 'at+jwt' })
    .setSubject(session.personId)
    .setIssuer(issuer)
    .setAudience(audience)
    .setIssuedAt(seconds)
    .setExpirationTime(expiresAt)
    .sign(privateKey);
  return { token, expiresAt: new Date(expiresAt * 1_000) };
}

/** @returns undefined for anything but a valid token of ours */
export async function verifySessionToken(
  publicKey: KeyObject,
  token: string,
): Promise<SessionClaims | undefined> {
  try {
    const { payload } = await jwtVerify(token, publicKey, {
      algorithms: [algorithm],
      issuer,
      audience,
      typ: 'at+jwt',
      requiredClaims: ['exp', 'iat', 'sub'],
    });
    const { sub, sid, org } = claims.parse(payload);
    return { personId: sub, sessionId: sid, organizationId: org };
  } catch {
    return undefined;
  }
}

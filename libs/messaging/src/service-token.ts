/**
 * Who calls travels signed: a compact JWS by the calling service's own Ed25519 key, bound to the
 * audience, the subject and the exact bytes of the payload, with thirty seconds of life. A service
 * believes no organization that it did not find in here.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Ctx, ctx as ctxSchema } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import { type ServiceName, services } from '@keystead/contracts/operation';
import { decodeJwt, jwtVerify, SignJWT } from 'jose';
import { z } from 'zod';

const algorithm = 'EdDSA';
const claims = z.object({ iss: z.enum(services), hash: z.string(), ctx: ctxSchema });

export interface ServiceKeys {
  service: ServiceName;
  privateKey: KeyObject;
  publicKeys: ReadonlyMap<ServiceName, KeyObject>;
}

/** Reads the own private key and everybody's public keys (`<service>.pem`). */
export function readServiceKeys(
  service: ServiceName,
  privateKeyFile: string,
  publicKeysFolder: string,
): ServiceKeys {
  const publicKeys = new Map<ServiceName, KeyObject>();
  for (const file of readdirSync(publicKeysFolder)) {
    const name = services.find((candidate) => `${candidate}.pem` === file);
    if (name) publicKeys.set(name, createPublicKey(readFileSync(join(publicKeysFolder, file))));
  }
  return { service, privateKey: createPrivateKey(readFileSync(privateKeyFile)), publicKeys };
}

const hashOf = (payload: string) => createHash('sha256').update(payload).digest('base64url');

export async function signCall(
  keys: ServiceKeys,
  call: { audience: ServiceName; subject: string; payload: string; ctx: Ctx },
): Promise<string> {
  return new SignJWT({ hash: hashOf(call.payload), ctx: call.ctx })
    .setProtectedHeader({ alg: algorithm })
    .setIssuer(keys.service)
    .setAudience(call.audience)
    .setSubject(call.subject)
    .setIssuedAt()
    .setExpirationTime(`${limits.serviceTokenTtlSeconds}s`)
    .sign(keys.privateKey);
}

/** @throws ServiceError `unauthenticated` when anything does not fit */
export async function verifyCall(
  keys: ServiceKeys,
  call: { subject: string; payload: string; token: string; callers: readonly ServiceName[] },
): Promise<{ caller: ServiceName; ctx: Ctx }> {
  try {
    const { payload } = await jwtVerify(
      call.token,
      () => {
        const key = keys.publicKeys.get(decodeJwt(call.token).iss as ServiceName);
        if (!key) throw new Error('no key for that issuer');
        return key;
      },
      {
        algorithms: [algorithm],
        audience: keys.service,
        subject: call.subject,
        clockTolerance: limits.serviceClockSkewSeconds,
        requiredClaims: ['exp', 'iat', 'aud', 'sub', 'iss'],
      },
    );
    const { iss, hash, ctx } = claims.parse(payload);
    if (hash !== hashOf(call.payload)) throw new Error('the payload is not the one signed');
    if (!call.callers.includes(iss)) throw new Error(`${iss} may not call ${call.subject}`);
    return { caller: iss, ctx };
  } catch (cause) {
    throw new ServiceError('unauthenticated', { internal: 'a call with a bad token', cause });
  }
}

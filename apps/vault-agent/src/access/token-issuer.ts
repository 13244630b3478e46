/**
 * JSON web tokens of one issuer (RFC 7519): issuer, audience, algorithm and times are checked, keys come
 * from a JWKS at a URL or in a file, roles from a claim. A token that was verified is remembered for a
 * minute at most, by its hash.
 */
import { hash } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  customFetch,
  errors,
  type FetchImplementation,
  type JSONWebKeySet,
  type JWTPayload,
  type JWTVerifyGetKey,
  jwtVerify,
} from 'jose';
import { LRUCache } from 'lru-cache';
import { accessLimits } from './access-limits.ts';
import type { CallerIdentity } from './caller.ts';
import type { TokenAlgorithm } from './token-algorithms.ts';

export interface TokenIssuerOptions {
  issuer: string;
  audience: readonly string[];
  keys: { url: string } | { set: JSONWebKeySet };
  algorithms: readonly TokenAlgorithm[];
  clockSkewSeconds: number;
  /** Since it was issued; longer-lived tokens are refused all the same. */
  maxAgeSeconds: number;
  /** Tokens of one subject in use at a time. */
  tokensPerSubjectMax: number;
  subjectClaim: string;
  /** A claim, with dots for what is inside, e.g. `realm_access.roles`. */
  rolesClaim: string;
  /** From what the claim holds to roles of the vault; without it they are taken as they are. */
  roles: Readonly<Record<string, readonly string[]>> | undefined;
  /** Everybody with a valid token. */
  defaultRoles: readonly string[];
  /** A claim with name patterns that narrow the roles. */
  namespacesClaim: string | undefined;
  now: () => number;
}

interface Remembered {
  identity: CallerIdentity;
  untilMs: number;
}

export type TokenVerdict =
  | { known: true; identity: CallerIdentity }
  | { known: false; reason: string };

export class TokenIssuer {
  readonly #options: TokenIssuerOptions;
  readonly #keys: JWTVerifyGetKey;
  readonly #remembered = new LRUCache<string, Remembered>({ max: accessLimits.verifiedTokensMax });
  readonly #inUse = new LRUCache<string, Map<string, number>>({
    max: accessLimits.verifiedTokensMax,
  });

  constructor(options: TokenIssuerOptions) {
    this.#options = options;
    this.#keys =
      'url' in options.keys
        ? createRemoteJWKSet(new URL(options.keys.url), {
            timeoutDuration: accessLimits.jwksTimeoutMs,
            cooldownDuration: accessLimits.jwksCooldownMs,
            cacheMaxAge: accessLimits.jwksMaxAgeMs,
            [customFetch]: fetchUpTo(accessLimits.jwksMaxBytes),
          })
        : createLocalJWKSet(options.keys.set);
  }

  /** What its tokens say that they are from. */
  get name(): string {
    return this.#options.issuer;
  }

  /** Who that is, where it was found out less than a minute ago. */
  recall(token: string): CallerIdentity | undefined {
    const remembered = this.#remembered.get(hash('sha256', token, 'base64url'));
    if (remembered === undefined || remembered.untilMs <= this.#options.now()) return undefined;
    return remembered.identity;
  }

  /** @throws ServiceError `unavailable` where the issuer's keys cannot be had */
  async verify(token: string): Promise<TokenVerdict> {
    const options = this.#options;
    const nowMs = options.now();
    let payload: JWTPayload;
    try {
      ({ payload } = await jwtVerify(token, this.#keys, {
        issuer: options.issuer,
        audience: [...options.audience],
        algorithms: [...options.algorithms],
        clockTolerance: options.clockSkewSeconds,
        maxTokenAge: options.maxAgeSeconds,
        requiredClaims: ['exp', options.subjectClaim],
        currentDate: new Date(nowMs),
      }));
    } catch (error) {
      return { known: false, reason: reasonOf(error) };
    }
    const subject = payload[options.subjectClaim];
    if (typeof subject !== 'string' || subject === '' || subject.length > 255) {
      return { known: false, reason: `its ${options.subjectClaim} names nobody` };
    }
    const digest = hash('sha256', token, 'base64url');
    const endsMs = ((payload.exp ?? 0) + options.clockSkewSeconds) * 1_000;
    if (!this.#admit(subject, digest, endsMs, nowMs)) {
      return {
        known: false,
        reason: `its subject has ${options.tokensPerSubjectMax} tokens in use already`,
      };
    }
    const identity = this.#identify(subject, payload);
    this.#remembered.set(digest, {
      identity,
      untilMs: Math.min(endsMs, nowMs + accessLimits.tokenVerdictMs),
    });
    return { known: true, identity };
  }

  #admit(subject: string, digest: string, endsMs: number, nowMs: number): boolean {
    const tokens = this.#inUse.get(subject) ?? new Map<string, number>();
    for (const [each, ends] of tokens) if (ends <= nowMs) tokens.delete(each);
    if (!tokens.has(digest) && tokens.size >= this.#options.tokensPerSubjectMax) return false;
    tokens.set(digest, endsMs);
    this.#inUse.set(subject, tokens);
    return true;
  }

  #identify(subject: string, payload: JWTPayload): CallerIdentity {
    const { issuer, rolesClaim, roles, defaultRoles, namespacesClaim } = this.#options;
    const claimed = textsOf(claimOf(payload, rolesClaim));
    const mapped =
      roles === undefined
        ? claimed
        : claimed.flatMap((each) => (Object.hasOwn(roles, each) ? (roles[each] ?? []) : []));
    const name = payload.preferred_username ?? payload.name ?? payload.email ?? subject;
    const namespaces =
      namespacesClaim === undefined ? undefined : textsOf(claimOf(payload, namespacesClaim));
    return Object.freeze({
      kind: 'jwt' as const,
      id: `${issuer}|${subject}`,
      name: typeof name === 'string' ? name.slice(0, 120) : subject,
      roles: Object.freeze([...new Set([...mapped, ...defaultRoles])]),
      ...(namespaces === undefined ? {} : { namespaces: Object.freeze(namespaces) }),
    });
  }
}

/** A JSON web key set in a file (RFC 7517). @throws Error that says what is wrong with it */
export function readKeySet(file: Buffer): JSONWebKeySet {
  const { jwksMaxBytes } = accessLimits;
  if (file.length > jwksMaxBytes) throw new Error(`has more than ${jwksMaxBytes} bytes`);
  try {
    const set = JSON.parse(file.toString()) as JSONWebKeySet;
    createLocalJWKSet(set);
    return set;
  } catch {
    throw new Error('is not a JSON web key set');
  }
}

/** Whoever answers in the issuer's place may not fill the memory. */
function fetchUpTo(maxBytes: number): FetchImplementation {
  return async (url, options) => {
    const answer = await fetch(url, options);
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    for await (const piece of answer.body ?? []) {
      bytes += piece.byteLength;
      if (bytes > maxBytes) throw new Error(`they have more than ${maxBytes} bytes`);
      pieces.push(piece);
    }
    return new Response(Buffer.concat(pieces), { status: answer.status });
  };
}

function claimOf(payload: JWTPayload, path: string): unknown {
  // A claim may have dots in its own name, like the URLs that some issuers use.
  if (Object.hasOwn(payload, path)) return payload[path];
  let value: unknown = payload;
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) {
      return undefined;
    }
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

/** A list, or one text with spaces between, as `scope` has them. */
function textsOf(claim: unknown): string[] {
  const list = typeof claim === 'string' ? claim.split(' ') : Array.isArray(claim) ? claim : [];
  return list
    .filter((each): each is string => typeof each === 'string' && each !== '')
    .slice(0, 50);
}

/** @throws ServiceError `unavailable` */
function reasonOf(error: unknown): string {
  if (error instanceof errors.JWTExpired) return 'it has expired';
  if (error instanceof errors.JWTClaimValidationFailed) return `its ${error.claim} does not fit`;
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'its signature does not fit';
  if (error instanceof errors.JOSEAlgNotAllowed) return 'its algorithm is not allowed';
  if (error instanceof errors.JWKSNoMatchingKey) return 'its key is not known';
  if (
    error instanceof errors.JWKSTimeout ||
    error instanceof errors.JWKSInvalid ||
    !(error instanceof errors.JOSEError)
  ) {
    throw new ServiceError('unavailable', {
      detail: 'The keys of the issuer cannot be had at the moment',
      internal: `the keys of the issuer: ${String(error)}`,
      cause: error,
    });
  }
  if (error instanceof errors.JOSEError && error.code === 'ERR_JOSE_GENERIC') {
    throw new ServiceError('unavailable', {
      detail: 'The keys of the issuer cannot be had at the moment',
      internal: `the keys of the issuer: ${error.message}`,
      cause: error,
    });
  }
  return 'it is not a valid token';
}

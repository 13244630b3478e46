/**
 * Who calls: by an API key or a token in `Authorization: Bearer …`, or by the client certificate of the
 * connection. What was verified before is recalled without waiting; everything else passes the guard
 * against guessing. Refusals are in the audit; of whoever is told to wait a sample.
 */
import { hash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { ServiceError } from '@keystead/contracts/errors';
import { decodeJwt } from 'jose';
import { LRUCache } from 'lru-cache';
import type { AuditFact } from '../audit/audit-entry.ts';
import type { AccessBook, VerifiedKey } from './access-book.ts';
import { accessLimits } from './access-limits.ts';
import type { Allowance } from './allowance.ts';
import { looksLikeApiKey, prefixOf } from './api-key-text.ts';
import type { Caller, CallerIdentity } from './caller.ts';
import type { CertificateRules } from './client-certificate.ts';
import { type GuessGuard, type Lock, networkOf } from './guess-guard.ts';
import type { TokenIssuer } from './token-issuer.ts';

export interface AuthenticationMethods {
  apiKeys: boolean;
  issuers: readonly TokenIssuer[];
  /** Undefined where certificates are no way in. */
  certificates: CertificateRules | undefined;
}

export interface Knocking {
  headers: IncomingHttpHeaders;
  socket: Socket;
  requestId: string;
}

export interface AuthenticatorOptions {
  book: AccessBook;
  guard: GuessGuard;
  methods: AuthenticationMethods;
  record: (fact: AuditFact) => Promise<void>;
  /** Of each credential at each address, where it was not verified before. */
  attempts: Allowance;
  /** Of all of them at an address together. */
  crowd: Allowance;
  now: () => number;
  /** Told of each lock: guessing at an address, or of one key. */
  onLock?: (kind: 'address' | 'key', guesses: number, keyPrefix: string | undefined) => void;
}

/** What a connection showed last: nearly all show the same again. */
interface Shown {
  authorization: string;
  key: VerifiedKey;
}

interface SeenCertificate {
  identity: CallerIdentity;
  notBeforeMs: number;
  notAfterMs: number;
  rules: CertificateRules;
}

const noHeaders: Readonly<Record<string, string>> = Object.freeze({});

export class Authenticator {
  readonly #book: AccessBook;
  readonly #guard: GuessGuard;
  readonly #record: AuthenticatorOptions['record'];
  readonly #attempts: Allowance;
  readonly #crowd: Allowance;
  readonly #now: () => number;
  readonly #onLock: AuthenticatorOptions['onLock'];
  readonly #shown = new WeakMap<Socket, Shown>();
  readonly #certificates = new WeakMap<Socket, SeenCertificate | null>();
  /** When the audit was last told of whoever has to wait. */
  readonly #waiting = new LRUCache<string, number>({ max: accessLimits.guessersRemembered });
  #methods: AuthenticationMethods;

  constructor(options: AuthenticatorOptions) {
    this.#book = options.book;
    this.#guard = options.guard;
    this.#methods = options.methods;
    this.#record = options.record;
    this.#attempts = options.attempts;
    this.#crowd = options.crowd;
    this.#now = options.now;
    this.#onLock = options.onLock;
  }

  set methods(methods: AuthenticationMethods) {
    this.#methods = methods;
  }

  /** @throws ServiceError `unauthenticated`, `invalid_credentials`, `rate_limited`, `unavailable` */
  authenticate(knocking: Knocking): Caller | Promise<Caller> {
    const { authorization } = knocking.headers;
    if (authorization === undefined) return this.#byCertificate(knocking);
    const shown = this.#shown.get(knocking.socket);
    if (
      shown !== undefined &&
      shown.authorization === authorization &&
      this.#methods.apiKeys &&
      this.#book.stillHolds(shown.key)
    ) {
      return this.#caller(knocking, shown.key.identity);
    }
    const credential = bearerOf(authorization);
    if (credential === undefined) {
      return this.#refuseUnknown(knocking);
    }
    if (looksLikeApiKey(credential)) {
      if (!this.#methods.apiKeys) return this.#refuseKey(knocking, credential);
      const known = this.#book.recall(credential);
      if (known !== undefined) {
        this.#shown.set(knocking.socket, { authorization, key: known });
        return this.#caller(knocking, known.identity);
      }
      return this.#verifyKey(knocking, credential);
    }
    for (const issuer of this.#methods.issuers) {
      const identity = issuer.recall(credential);
      if (identity !== undefined) return this.#caller(knocking, identity);
    }
    return this.#verifyToken(knocking, credential);
  }

  #caller({ requestId, socket }: Knocking, identity: CallerIdentity): Caller {
    return {
      identity,
      requestId,
      address: socket.remoteAddress ?? '',
      authenticatedAtMs: this.#now(),
      tls: socket instanceof TLSSocket,
      headers: noHeaders,
    };
  }

  async #verifyKey(knocking: Knocking, key: string): Promise<Caller> {
    const address = knocking.socket.remoteAddress ?? '';
    const prefix = prefixOf(key);
    const lock = this.#guard.lockOfKey(prefix, address);
    if (lock) return this.#tellToWait(knocking, prefix, 'the key is locked', locked(lock));
    await this.#countAttempt(knocking, prefix);
    const verdict = await this.#book.verify(key);
    if (verdict.known) {
      this.#guard.knew(prefix, address);
      return this.#caller(knocking, verdict.key.identity);
    }
    const keyLock =
      verdict.reason === 'wrong' ? this.#guard.guessedKey(prefix, address) : undefined;
    if (keyLock?.isNew) this.#onLock?.('key', keyLock.guesses, prefix);
    // Whoever has a key that holds no more has not guessed it.
    const isGuess = verdict.reason !== 'expired' && verdict.reason !== 'revoked';
    throw await this.#refuse(knocking, verdict.reason, prefix, isGuess);
  }

  async #verifyToken(knocking: Knocking, token: string): Promise<Caller> {
    await this.#countAttempt(knocking, hash('sha256', token, 'base64url'));
    let reason = 'it is neither an API key nor a token of a known issuer';
    if (token.length <= accessLimits.tokenMaxLength && token.split('.').length === 3) {
      const named = issuerOf(token);
      reason = named === undefined ? 'it is not a valid token' : 'its issuer is not known';
      // Nobody else's keys are asked: an issuer that is away is away for its own tokens alone.
      for (const issuer of this.#methods.issuers) {
        if (issuer.name !== named) continue;
        const verdict = await issuer.verify(token);
        if (verdict.known) return this.#caller(knocking, verdict.identity);
        reason = verdict.reason;
      }
    }
    throw await this.#refuse(knocking, reason, '', true);
  }

  /** One that repeats itself does not take the turns of others at its address. */
  async #countAttempt(knocking: Knocking, credential: string): Promise<void> {
    const network = networkOf(knocking.socket.remoteAddress ?? '');
    try {
      this.#attempts.take(`${network} ${credential}`);
      this.#crowd.take(network);
    } catch (error) {
      await this.#tellToWait(knocking, '', 'too many attempts', error);
    }
  }

  async #tellToWait(
    knocking: Knocking,
    keyPrefix: string,
    reason: string,
    told: unknown,
  ): Promise<never> {
    const who = `${keyPrefix} ${networkOf(knocking.socket.remoteAddress ?? '')} ${reason}`;
    const nowMs = this.#now();
    const lastMs = this.#waiting.get(who);
    if (lastMs === undefined || Math.abs(nowMs - lastMs) >= accessLimits.waitsToldEveryMs) {
      this.#waiting.set(who, nowMs);
      await this.#recordRefusal(knocking, 'rate_limited', keyPrefix, { reason });
    }
    throw told;
  }

  async #refuseKey(knocking: Knocking, key: string): Promise<never> {
    await this.#countAttempt(knocking, prefixOf(key));
    throw await this.#refuse(knocking, 'API keys are no way in', prefixOf(key), true);
  }

  #byCertificate(knocking: Knocking): Caller | Promise<Caller> {
    const { socket } = knocking;
    const rules = this.#methods.certificates;
    if (rules !== undefined && socket instanceof TLSSocket) {
      const seen = this.#certificateOf(socket, rules);
      const nowMs = this.#now();
      if (seen !== null && seen.notBeforeMs <= nowMs && nowMs < seen.notAfterMs) {
        return this.#caller(knocking, seen.identity);
      }
      return this.#refuseUnknown(knocking, seen === null ? problemOf(socket) : 'CERT_HAS_EXPIRED');
    }
    return this.#refuseUnknown(knocking);
  }

  /** Nothing was shown that could be right. @param certificate what is wrong with that of the connection */
  async #refuseUnknown(knocking: Knocking, certificate?: string): Promise<never> {
    await this.#countAttempt(knocking, '');
    await this.#recordRefusal(knocking, 'unauthenticated', '', {
      reason: 'no credentials',
      ...(certificate === undefined ? {} : { certificate }),
    });
    throw new ServiceError('unauthenticated', {
      detail: 'Send "Authorization: Bearer" with an API key or a token',
    });
  }

  #certificateOf(socket: TLSSocket, rules: CertificateRules): SeenCertificate | null {
    const known = this.#certificates.get(socket);
    if (known === null || known?.rules === rules) return known;
    const certificate = socket.authorized ? socket.getPeerCertificate() : undefined;
    const seen =
      certificate?.fingerprint256 === undefined
        ? null
        : {
            identity: rules.identify(certificate),
            notBeforeMs: Date.parse(certificate.valid_from),
            notAfterMs: Date.parse(certificate.valid_to),
            rules,
          };
    this.#certificates.set(socket, seen);
    return seen;
  }

  /** The same words for whatever is wrong with a credential; what it was is in the audit. */
  async #refuse(
    knocking: Knocking,
    reason: string,
    keyPrefix: string,
    isGuess: boolean,
  ): Promise<ServiceError> {
    const address = knocking.socket.remoteAddress ?? '';
    const lock = isGuess ? this.#guard.guessed(address) : undefined;
    if (lock?.isNew === false) {
      return this.#tellToWait(knocking, '', 'the address is locked', locked(lock));
    }
    await this.#recordRefusal(knocking, 'invalid_credentials', keyPrefix, {
      reason,
      ...(lock ? { guesses: lock.guesses, lockedForSeconds: lock.retryAfterSeconds } : {}),
    });
    if (lock) this.#onLock?.('address', lock.guesses, undefined);
    return new ServiceError('invalid_credentials');
  }

  #recordRefusal(
    knocking: Knocking,
    code: 'unauthenticated' | 'invalid_credentials' | 'rate_limited',
    keyPrefix: string,
    context: NonNullable<AuditFact['context']>,
  ): Promise<void> {
    return this.#record({
      requestId: knocking.requestId,
      identity: { kind: 'anonymous', id: keyPrefix, name: '' },
      address: knocking.socket.remoteAddress ?? '',
      action: 'authenticate',
      operation: 'authenticate',
      resource: {},
      phase: 'outcome',
      result: code === 'rate_limited' ? 'throttled' : 'denied',
      code,
      context,
    });
  }
}

/** In the words of OpenSSL: `CERT_REVOKED`, `CRL_HAS_EXPIRED`, …; undefined where none was shown. */
function problemOf(socket: TLSSocket): string | undefined {
  if (socket.getPeerCertificate().raw === undefined) return undefined;
  return String(socket.authorizationError ?? 'unknown');
}

const locked = (lock: Lock) =>
  new ServiceError('rate_limited', {
    detail: 'Too many credentials were refused',
    retryAfterSeconds: lock.retryAfterSeconds,
  });

/** Whom the token says it is from, without a check of anything. */
function issuerOf(token: string): string | undefined {
  try {
    return decodeJwt(token).iss;
  } catch {
    return undefined;
  }
}

function bearerOf(header: string): string | undefined {
  // Nearly every request writes it so.
  if (header.startsWith('Bearer ')) return header.slice(7).trim() || undefined;
  return /^bearer +(\S+)$/i.exec(header)?.[1];
}

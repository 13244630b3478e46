/**
 * passport's part: two strategies, for the session of a person and for an API key, both carried
 * as `Authorization: Bearer …`. The prefix tells them apart, so that each credential is looked at
 * by one of them alone, and the guard asks both.
 */
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { AuthGuard, PassportStrategy } from '@nestjs/passport';
import { Strategy } from 'passport-custom';
import type { Authenticator, RequestFacts } from './authenticator.ts';
import { credentialPrefixes } from './credential.ts';

/** What the strategies read of a request; `facts` is set before the guard runs. */
export interface BearerRequest {
  headers: { authorization?: string | undefined };
  facts: RequestFacts;
}

const sessionStrategy = 'keystead-session';
const apiKeyStrategy = 'keystead-api-key';
const bearerMaxLength = 4_096;
const retryAfterSeconds = 2;
const lookUpTimeoutMs = 5_000;

/** The credential of a request, or undefined where none was sent in the one way there is. */
export function bearerOf(request: Pick<BearerRequest, 'headers'>): string | undefined {
  const header = request.headers.authorization;
  if (header === undefined || header.length > bearerMaxLength) return undefined;
  return /^bearer +([A-Za-z0-9._~+/=-]+) *$/i.exec(header)?.[1];
}

export class SessionStrategy extends PassportStrategy(Strategy, sessionStrategy) {
  readonly #authenticator: Authenticator;

  constructor(authenticator: Authenticator) {
    super();
    this.#authenticator = authenticator;
  }

  async validate(request: BearerRequest): Promise<TenantCtx | false> {
    const bearer = bearerOf(request);
    if (bearer === undefined || bearer.startsWith(credentialPrefixes.apiKey)) return false;
    return orUnavailable(this.#authenticator.fromSession(bearer, request.facts));
  }
}

export class ApiKeyStrategy extends PassportStrategy(Strategy, apiKeyStrategy) {
  readonly #authenticator: Authenticator;

  constructor(authenticator: Authenticator) {
    super();
    this.#authenticator = authenticator;
  }

  async validate(request: BearerRequest): Promise<TenantCtx | false> {
    const bearer = bearerOf(request);
    if (!bearer?.startsWith(credentialPrefixes.apiKey)) return false;
    return orUnavailable(this.#authenticator.fromApiKey(bearer, request.facts));
  }
}

// A database that is away or hangs says nothing about the credential: the caller is asked to come
// back.
async function orUnavailable(found: Promise<TenantCtx | undefined>): Promise<TenantCtx | false> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the database hangs')), lookUpTimeoutMs);
  });
  try {
    return (await Promise.race([found, late])) ?? false;
  } catch (cause) {
    throw new ServiceError('unavailable', {
      internal: 'the credential could not be looked up',
      retryAfterSeconds,
      cause,
    });
  } finally {
    clearTimeout(timer);
  }
}

/** Lets a request through with its Ctx as `request.user`. @throws ServiceError `unauthenticated` */
export class BearerGuard extends AuthGuard([apiKeyStrategy, sessionStrategy]) {
  override handleRequest<T>(error: unknown, user: T | false | null): T {
    if (error) throw error;
    if (!user) throw new ServiceError('unauthenticated');
    return user;
  }
}

/**
 * Two kinds of error. Expected outcomes are typed results of the function that finds them; what
 * is left is a {@link ServiceError}, whose public half is mapped once to HTTP, gRPC and RPC and
 * whose internal half goes to the log alone.
 */
import { z } from 'zod';
import { type LeafIssue, leafIssues } from './issue-text.ts';

/** Every code a caller can see, with its HTTP status and gRPC status code. */
export const errorCodes = {
  invalid_request: { status: 400, grpc: 3, title: 'The request is not valid' },
  invalid_cursor: { status: 400, grpc: 3, title: 'The cursor is not valid here' },
  unauthenticated: { status: 401, grpc: 16, title: 'Sign in or send an API key' },
  invalid_credentials: { status: 401, grpc: 16, title: 'The credentials are not valid' },
  permission_denied: { status: 403, grpc: 7, title: 'That is not permitted' },
  sign_up_closed: { status: 403, grpc: 7, title: 'Sign-up is closed on this installation' },
  not_found: { status: 404, grpc: 5, title: 'There is no such thing' },
  method_not_allowed: { status: 405, grpc: 12, title: 'That method is not offered here' },
  not_acceptable: { status: 406, grpc: 3, title: 'That representation is not offered' },
  conflict: { status: 409, grpc: 6, title: 'That conflicts with what is there' },
  idempotency_conflict: {
    status: 422,
    grpc: 9,
    title: 'The idempotency key was used for another request',
  },
  gone: { status: 410, grpc: 9, title: 'That can no longer be used' },
  precondition_failed: { status: 412, grpc: 9, title: 'It has changed since you read it' },
  request_timeout: { status: 408, grpc: 4, title: 'The request did not arrive in time' },
  payload_too_large: { status: 413, grpc: 8, title: 'The body is too large' },
  uri_too_long: { status: 414, grpc: 3, title: 'The address is too long' },
  unsupported_media_type: { status: 415, grpc: 3, title: 'Send application/json' },
  unprocessable: { status: 422, grpc: 9, title: 'That cannot be done' },
  invalid_password: { status: 422, grpc: 9, title: 'The password is another one' },
  corrupt_record: { status: 422, grpc: 15, title: 'What is stored is not what was written' },
  precondition_required: { status: 428, grpc: 9, title: 'Send If-Match' },
  headers_too_large: { status: 431, grpc: 8, title: 'The headers are too large' },
  rate_limited: { status: 429, grpc: 8, title: 'Too many requests' },
  limit_reached: { status: 409, grpc: 8, title: 'A limit is reached' },
  internal: { status: 500, grpc: 13, title: 'Something went wrong on our side' },
  unavailable: { status: 503, grpc: 14, title: 'Not available at the moment' },
} as const;

export type ErrorCode = keyof typeof errorCodes;

/** One thing that is wrong, and where: `path` is a JSON pointer into `in`. */
export const problemDetail = z.object({
  in: z.enum(['body', 'query', 'path', 'header']),
  path: z.string(),
  message: z.string(),
});
export type ProblemDetail = z.infer<typeof problemDetail>;

/** RFC 9457 problem details, the body of every error answer. */
export const problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.number().int(),
  detail: z.string().optional(),
  code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]),
  errors: z.array(problemDetail).optional(),
  requestId: z.string(),
  timestamp: z.iso.datetime(),
});
export type Problem = z.infer<typeof problem>;

export interface ServiceErrorOptions {
  /** What is wrong, for the caller. Never names another organization or an internal part. */
  detail?: string;
  errors?: ProblemDetail[];
  /** When a further try makes sense. */
  retryAfterSeconds?: number;
  /** For the log alone. */
  internal?: string;
  cause?: unknown;
}

/** An unexpected outcome with a public half (`code`, `detail`, `errors`) and an internal one. */
export class ServiceError extends Error {
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  readonly errors: ProblemDetail[] | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, options: ServiceErrorOptions = {}) {
    super(options.internal ?? options.detail ?? errorCodes[code].title, { cause: options.cause });
    this.name = 'ServiceError';
    this.code = code;
    this.detail = options.detail;
    this.errors = options.errors;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/**
 * The one answer for an id that is absent and for an id of another organization. It is built
 * fresh, so that nothing of the look-up can show through.
 */
export function notFound(): ServiceError {
  return new ServiceError('not_found');
}

/** What an error looks like on the bus. */
export const wireError = z.object({
  code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]),
  detail: z.string().optional(),
  errors: z.array(problemDetail).optional(),
  retryAfterSeconds: z.number().optional(),
});
export type WireError = z.infer<typeof wireError>;

/** The public half of any thrown value; what is not a {@link ServiceError} is `internal`. */
export function toWireError(error: unknown): WireError {
  if (!(error instanceof ServiceError)) return { code: 'internal' };
  return {
    code: error.code,
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    ...(error.errors === undefined ? {} : { errors: error.errors }),
    ...(error.retryAfterSeconds === undefined
      ? {}
      : { retryAfterSeconds: error.retryAfterSeconds }),
  };
}

/** What was found wrong in one part of a request, by a parse with `inOurWords`. */
export function invalidRequest(
  location: ProblemDetail['in'],
  issues: readonly LeafIssue[],
): ServiceError {
  const errors = leafIssues(issues.slice(0, 20)).flatMap((issue) => {
    const base = issue.path.map((part) => `/${escaped(String(part))}`).join('');
    if (issue.code === 'unrecognized_keys' && issue.keys) {
      return issue.keys.slice(0, 20).map((key) => ({
        in: location,
        path: `${base}/${escaped(clip(key))}`,
        message: 'is not a field here',
      }));
    }
    return [{ in: location, path: base, message: issue.message }];
  });
  const first = errors[0];
  return new ServiceError('invalid_request', {
    detail: first
      ? `${first.in}${first.path ? ` ${clip(first.path)}` : ''}: ${first.message}`
      : 'The request is not valid',
    errors: errors.map((error) => ({ ...error, path: clip(error.path) })),
  });
}

const escaped = (part: string) => part.replaceAll('~', '~0').replaceAll('/', '~1');

function clip(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

/** Every error as RFC 9457 problem details: one mapping, for whatever was thrown. */
import { type ErrorCode, errorCodes, type Problem, ServiceError, toWireError } from '../errors.ts';

export const problemMediaType = 'application/problem+json';
const defaultRetryAfterSeconds = 2;

export interface ProblemAnswer {
  status: number;
  headers: Record<string, string>;
  body: Problem;
}

export function problemAnswer(error: ServiceError, requestId: string, now: Date): ProblemAnswer {
  const { code, detail, errors, retryAfterSeconds } = toWireError(error);
  const { status, title } = errorCodes[code];
  const headers: Record<string, string> = {
    'content-type': problemMediaType,
    'cache-control': 'no-store',
  };
  const retryAfter = retryAfterSeconds ?? (status === 503 ? defaultRetryAfterSeconds : undefined);
  if (retryAfter !== undefined) headers['retry-after'] = String(Math.max(1, Math.ceil(retryAfter)));
  if (status === 401) headers['www-authenticate'] = 'Bearer realm="keystead"';
  return {
    status,
    headers,
    body: {
      type: `urn:keystead:problem:${code}`,
      title,
      status,
      ...(detail === undefined ? {} : { detail }),
      code,
      ...(errors === undefined || errors.length === 0 ? {} : { errors }),
      requestId,
      timestamp: now.toISOString(),
    },
  };
}

const codeOfStatus: Record<number, ErrorCode> = {
  400: 'invalid_request',
  404: 'not_found',
  408: 'request_timeout',
  413: 'payload_too_large',
  414: 'uri_too_long',
  415: 'unsupported_media_type',
  431: 'headers_too_large',
  503: 'unavailable',
};

/**
 * What an HTTP server throws by itself, told by its status. Their words are not
 * ours to pass on: they may quote the request. `bodyMaxBytes` is what the route takes, where it is known.
 */
export function asServiceError(error: unknown, bodyMaxBytes?: number): ServiceError {
  if (error instanceof ServiceError) return error;
  const { status, statusCode } = (error ?? {}) as { status?: unknown; statusCode?: unknown };
  const found = typeof statusCode === 'number' ? statusCode : status;
  const code = typeof found === 'number' ? codeOfStatus[found] : undefined;
  if (code === 'payload_too_large' && bodyMaxBytes !== undefined) {
    const detail = `The body may have at most ${bodyMaxBytes} bytes here`;
    return new ServiceError(code, { detail, cause: error });
  }
  if (code) return new ServiceError(code, { cause: error });
  if (typeof found === 'number' && found >= 400 && found < 500) {
    return new ServiceError('invalid_request', { cause: error });
  }
  return new ServiceError('internal', { internal: String(error), cause: error });
}

/** What hooks set on every answer, for answers that are given before any hook runs. */
export function headersOfEarlyAnswers(requestId: string) {
  return {
    'x-request-id': requestId,
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  };
}

/** The answer to bytes out of which no request came: there is no reply to hand it to. */
import type { Socket } from 'node:net';
import { ServiceError } from '../errors.ts';
import { headersOfEarlyAnswers, problemAnswer } from './problem-answer.ts';

const statusOfClientError: Record<string, ConstructorParameters<typeof ServiceError>> = {
  HPE_HEADER_OVERFLOW: ['headers_too_large'],
  ERR_HTTP_REQUEST_TIMEOUT: ['request_timeout'],
};

/** Handles `clientError` of a Node HTTP server: a problem document, and the end of the connection. */
export function refuseUnreadable(
  error: Error & { code?: string },
  socket: Socket,
  newRequestId: () => string,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  const [code, details] = statusOfClientError[error.code ?? ''] ?? [
    'invalid_request',
    { detail: 'This is not a well-formed HTTP request' },
  ];
  const answer = problemAnswer(new ServiceError(code, details), newRequestId(), new Date());
  const body = JSON.stringify(answer.body);
  const headers = {
    ...answer.headers,
    'content-length': String(Buffer.byteLength(body)),
    ...headersOfEarlyAnswers(answer.body.requestId),
    connection: 'close',
  };
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  if (socket.writable) {
    socket.end(`HTTP/1.1 ${answer.status} ${answer.body.title}\r\n${head.join('')}\r\n${body}`);
  }
  setTimeout(() => socket.destroy(), 1_000).unref();
}

/** From a request to the input of an operation: every part is checked by the operation's schemas. */
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { readIfMatch, readJson, readQuery } from '@keystead/contracts/http/request-text';
import { inOurWords } from '@keystead/contracts/issue-text';
import type { Input, Operation } from '@keystead/contracts/operation';
import type { z } from 'zod';

export interface RawRequest {
  /** Decoded path parameters. */
  params: unknown;
  /** The request target, with its query. */
  target: string;
  headers: { 'if-match'?: string | undefined };
  body: Buffer | undefined;
}

/** @throws ServiceError `invalid_request`, `precondition_required` */
export function readInput(operation: Operation, request: RawRequest): Input<Operation> {
  const params = check(operation.params, 'path', request.params ?? {});
  const query = check(operation.query, 'query', readQuery(request.target));
  const ifMatch = readIfMatch(request.headers['if-match']);
  if (operation.ifMatch === 'required' && ifMatch === null) {
    throw new ServiceError('precondition_required', {
      detail: 'Send If-Match with the ETag you read, or *',
    });
  }
  // A missing body is an empty object: the schema then names the fields it misses.
  const sent = request.body === undefined ? undefined : readJson(request.body);
  const body = check(operation.body, 'body', sent === undefined ? {} : sent);
  return { params, query, body, ifMatch };
}

function check(schema: z.ZodType, location: 'path' | 'query' | 'body', value: unknown): unknown {
  const parsed = schema.safeParse(value, inOurWords);
  if (!parsed.success) throw invalidRequest(location, parsed.error.issues);
  return parsed.data;
}

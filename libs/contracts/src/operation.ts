/**
 * An operation is declared once: its zod schemas are the types, the validation at the door, the
 * OpenAPI document and the NATS payload. The gateway offers every operation in the table of
 * `operations.ts`; a service answers the ones that name it.
 */
import { z } from 'zod';
import type { Permission } from './permissions.ts';

export const services = [
  'gateway',
  'auth',
  'vault-registry',
  'monitoring',
  'policy',
  'analytics',
  'notification',
] as const;
export type ServiceName = (typeof services)[number];

type Empty = z.ZodObject<Record<never, never>, z.core.$strict>;
const empty: Empty = z.strictObject({});

export interface Operation<
  Params extends z.ZodType = z.ZodType,
  Query extends z.ZodType = z.ZodType,
  Body extends z.ZodType = z.ZodType,
  Output extends z.ZodType = z.ZodType,
> {
  /** Unique, e.g. `vaults.list`; the NATS subject is `<service>.<id>`. */
  id: string;
  service: ServiceName;
  subject: string;
  method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
  /** With `{name}` parameters, as OpenAPI writes them. */
  path: string;
  summary: string;
  tag: string;
  /** `public`: no credentials; `signedIn`: any caller with credentials. */
  permission: Permission | 'public' | 'signedIn';
  params: Params;
  query: Query;
  body: Body;
  output: Output;
  status: number;
  /** The answer's `etag` field travels as ETag header; a write asks for If-Match. */
  ifMatch: 'none' | 'required';
  /** What a list may be sorted by. */
  sorts: readonly string[];
}

export type Input<O extends Operation> = {
  params: z.output<O['params']>;
  query: z.output<O['query']>;
  body: z.output<O['body']>;
  ifMatch: string | null;
};
export type Output<O extends Operation> = z.input<O['output']>;

interface Declaration<P, Q, B, O> {
  method: Operation['method'];
  path: string;
  summary: string;
  tag: string;
  permission: Operation['permission'];
  params?: P;
  query?: Q;
  body?: B;
  output: O;
  status?: number;
  ifMatch?: Operation['ifMatch'];
  sorts?: readonly string[];
}

export function operation<
  P extends z.ZodType = Empty,
  Q extends z.ZodType = Empty,
  B extends z.ZodType = Empty,
  O extends z.ZodType = z.ZodType,
>(service: ServiceName, id: string, declared: Declaration<P, Q, B, O>): Operation<P, Q, B, O> {
  return {
    id,
    service,
    subject: `${service}.${id}`,
    method: declared.method,
    path: declared.path,
    summary: declared.summary,
    tag: declared.tag,
    permission: declared.permission,
    params: (declared.params ?? empty) as P,
    query: (declared.query ?? empty) as Q,
    body: (declared.body ?? empty) as B,
    output: declared.output,
    status: declared.status ?? (declared.method === 'POST' ? 201 : 200),
    ifMatch: declared.ifMatch ?? 'none',
    sorts: declared.sorts ?? [],
  };
}

/** What travels on the bus as the payload of an operation. */
export function inputSchema<P extends z.ZodType, Q extends z.ZodType, B extends z.ZodType>(
  declared: Operation<P, Q, B>,
) {
  return z.strictObject({
    params: declared.params,
    query: declared.query,
    body: declared.body,
    ifMatch: z.string().nullable(),
  });
}

/** A question between services that has no HTTP face. */
export interface InternalCall<I extends z.ZodType = z.ZodType, O extends z.ZodType = z.ZodType> {
  service: ServiceName;
  subject: string;
  callers: readonly ServiceName[];
  input: I;
  output: O;
}

export function internalCall<I extends z.ZodType, O extends z.ZodType>(
  service: ServiceName,
  name: string,
  declared: { callers: readonly ServiceName[]; input: I; output: O },
): InternalCall<I, O> {
  return { service, subject: `${service}.internal.${name}`, ...declared };
}

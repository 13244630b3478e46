/**
 * An operation of the agent's own REST API, declared once: its zod schemas are the types, the
 * validation, the OpenAPI document and what the SDKs are made from. Unlike the control plane's
 * operations these may carry secret values, because they never leave the customer's machines.
 */
import { z } from 'zod';
import type { AgentAction } from './actions.ts';

type Empty = z.ZodObject<Record<never, never>, z.core.$strict>;
const empty: Empty = z.strictObject({});

export interface AgentOperation<
  Params extends z.ZodType = z.ZodType,
  Query extends z.ZodType = z.ZodType,
  Body extends z.ZodType = z.ZodType,
  Output extends z.ZodType = z.ZodType,
> {
  /** Unique, e.g. `secrets.read-value`. */
  id: string;
  method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';
  /** With `{name}` parameters; a name may hold `/`, URL-encoded. */
  path: string;
  summary: string;
  tag: string;
  /** What the door is asked; `public` needs no credentials and is not audited. */
  action: AgentAction | 'public';
  /**
   * `write`: the audit holds that it was started before anything is done, and how it ended before
   * the answer leaves. `read`: one entry, before the answer leaves.
   */
  effect: 'read' | 'write';
  params: Params;
  query: Query;
  body: Body;
  output: Output;
  status: number;
  /** `optional`: an `If-Match` header, where it is there, must name the current `etag`. */
  ifMatch: 'none' | 'optional';
  /** Bodies beyond the ordinary limit, in bytes. */
  bodyMaxBytes: number | undefined;
  /** `stream`: bytes in or out that no schema describes; `output` and `body` are then not used. */
  streams: 'none' | 'in' | 'out';
  /**
   * For what takes long: who accepts `application/x-ndjson` is answered in lines of this schema, the last
   * of which is `{result}`, or `{problem}` where it went wrong after the first one.
   */
  lines: z.ZodType | undefined;
  /**
   * A list that shows only what `caller.sees`: it is answered also to who may see a part. Any other
   * list needs the right to all of it. `by_policies`: roles have to permit the whole, and what policies
   * hide is left out.
   */
  narrows: boolean | 'by_policies';
}

export type AgentInput<O extends AgentOperation> = {
  params: z.output<O['params']>;
  query: z.output<O['query']>;
  body: z.output<O['body']>;
  /** The `If-Match` header without its quotes, or null. */
  ifMatch: string | null;
};
export type AgentOutput<O extends AgentOperation> = z.input<O['output']>;

interface Declaration<P, Q, B, O> {
  method: AgentOperation['method'];
  path: string;
  summary: string;
  tag: string;
  action: AgentOperation['action'];
  effect?: AgentOperation['effect'];
  params?: P;
  query?: Q;
  body?: B;
  output?: O;
  status?: number;
  ifMatch?: AgentOperation['ifMatch'];
  bodyMaxBytes?: number;
  streams?: AgentOperation['streams'];
  lines?: z.ZodType;
  narrows?: AgentOperation['narrows'];
}

export function agentOperation<
  P extends z.ZodType = Empty,
  Q extends z.ZodType = Empty,
  B extends z.ZodType = Empty,
  O extends z.ZodType = Empty,
>(id: string, declared: Declaration<P, Q, B, O>): AgentOperation<P, Q, B, O> {
  return {
    id,
    method: declared.method,
    path: declared.path,
    summary: declared.summary,
    tag: declared.tag,
    action: declared.action,
    effect: declared.effect ?? (declared.method === 'GET' ? 'read' : 'write'),
    params: (declared.params ?? empty) as P,
    query: (declared.query ?? empty) as Q,
    body: (declared.body ?? empty) as B,
    output: (declared.output ?? empty) as O,
    status: declared.status ?? (declared.method === 'POST' ? 201 : 200),
    ifMatch: declared.ifMatch ?? 'none',
    bodyMaxBytes: declared.bodyMaxBytes,
    streams: declared.streams ?? 'none',
    lines: declared.lines,
    narrows: declared.narrows ?? false,
  };
}

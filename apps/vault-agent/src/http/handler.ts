/** What answers an operation: one expression that the HTTP adapter calls after its checks. */

import type { Readable } from 'node:stream';
import type {
  AgentInput,
  AgentOperation,
  AgentOutput,
} from '@keystead/contracts/agent-api/operation';
import type { Caller, ResourceReference } from '../access/caller.ts';
import type { AlsoNeeded } from '../access/door.ts';
import type { AuditFact } from '../audit/audit-entry.ts';

export interface AgentHandler {
  operation: AgentOperation;
  /** What the operation is about, from its checked input. */
  resource: (input: AgentInput<AgentOperation>) => ResourceReference;
  also: ((input: AgentInput<AgentOperation>) => readonly AlsoNeeded[]) | undefined;
  /** What else the audit is told of the input: references and counts, never a value. */
  context: ((input: AgentInput<AgentOperation>) => AuditFact['context']) | undefined;
  /** The answer, or a promise of it: what is at hand needs no waiting. */
  run: (caller: Caller, input: AgentInput<AgentOperation>, streams: HandlerStreams) => unknown;
}

/** For operations whose body or answer is bytes. */
export interface HandlerStreams {
  /** The request's body where the operation streams in. */
  readonly body: Readable;
  /** Headers of the request whose values a streaming operation reads, lower-case. */
  readonly headers: Readonly<Record<string, string>>;
  /** Tells how far it is, where the operation has lines and the caller wants them. */
  readonly progress: ((line: Record<string, unknown>) => void) | undefined;
}

/** What a handler of an operation that streams out answers. */
export interface StreamAnswer {
  contentType: string;
  fileName: string;
  content: Readable;
}

type Answer<O extends AgentOperation> = AgentOutput<O> | StreamAnswer;

export function handler<O extends AgentOperation>(
  operation: O,
  parts: {
    resource?: (input: AgentInput<O>) => ResourceReference;
    also?: (input: AgentInput<O>) => readonly AlsoNeeded[];
    context?: (input: AgentInput<O>) => AuditFact['context'];
    run: (
      caller: Caller,
      input: AgentInput<O>,
      streams: HandlerStreams,
    ) => Answer<O> | Promise<Answer<O>>;
  },
): AgentHandler {
  return {
    operation,
    resource: (parts.resource ?? (() => ({}))) as AgentHandler['resource'],
    also: parts.also as AgentHandler['also'],
    context: parts.context as AgentHandler['context'],
    run: parts.run as AgentHandler['run'],
  };
}

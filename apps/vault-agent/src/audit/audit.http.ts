/** The audit over HTTP. */
import { listAudit, listAuditHeads, verifyAuditChain } from '@keystead/contracts/agent-api/audit';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { AuditReader } from './audit-reader.ts';

export function auditHandlers(reader: AuditReader): AgentHandler[] {
  return [
    handler(listAudit, { run: (caller, { query }) => reader.list(query, caller.sees) }),
    handler(listAuditHeads, { run: (_caller, { query }) => reader.heads(query) }),
    handler(verifyAuditChain, {
      run: (_caller, { body }) => reader.verify(body.trustedHeads, body.log),
    }),
  ] as AgentHandler[];
}

/** Policies and approvals over HTTP. */
import {
  approveRequest,
  denyRequest,
  listApprovals,
  listPolicies,
  readApproval,
  readPolicies,
} from '@keystead/contracts/agent-api/policies';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { Approvals } from './approvals.ts';
import type { PolicyView } from './policy-view.ts';

const ofApproval = ({ params }: { params: { id: string } }) => ({ other: `approval:${params.id}` });

export function policyHandlers(approvals: Approvals, view: PolicyView): AgentHandler[] {
  return [
    handler(readPolicies, { run: () => view.read() }),
    handler(listPolicies, { run: (_caller, { query }) => view.list(query) }),
    handler(listApprovals, { run: (_caller, { query }) => approvals.list(query) }),
    handler(readApproval, {
      resource: ofApproval,
      run: (_caller, { params }) => approvals.get(params.id),
    }),
    handler(approveRequest, {
      resource: ofApproval,
      run: (caller, { params, body }) =>
        approvals.decide(caller, params.id, 'approve', body.comment),
    }),
    handler(denyRequest, {
      resource: ofApproval,
      run: (caller, { params, body }) => approvals.decide(caller, params.id, 'deny', body.comment),
    }),
  ];
}

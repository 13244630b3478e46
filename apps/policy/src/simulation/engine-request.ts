/** A request of the contract as the engine takes it. No I/O. */
import { type AgentAction, agentActions } from '@keystead/contracts/agent-api/actions';
import { invalidRequest } from '@keystead/contracts/errors';
import type { Output } from '@keystead/contracts/operation';
import type { explainPolicies, PolicyRequest } from '@keystead/contracts/policy';
import type { Decision } from '@keystead/policy-engine/decide';
import type { AccessRequest } from '@keystead/policy-engine/facts';

/** @throws ServiceError where the action is none of an agent's */
export function engineRequest(
  { principal, action, resource, context }: PolicyRequest,
  path: (string | number)[],
  nowMs: number,
): AccessRequest {
  if (!(agentActions as readonly string[]).includes(action)) {
    throw invalidRequest('body', [
      { path: [...path, 'action'], message: 'is no action of an agent' },
    ]);
  }
  const { type, id, name, roles, attributes } = principal;
  const { tags, metadata } = resource;
  const facts = { tags, metadata };
  const isSecret = resource.secret !== undefined;
  return {
    principal: { kind: type, id, roles, attributes, ...(name === undefined ? {} : { name }) },
    action: action as AgentAction,
    resource: {
      vault: {
        id: resource.vault,
        name: resource.vault,
        ...(resource.namespace === undefined ? facts : {}),
      },
      ...(resource.namespace === undefined
        ? {}
        : { namespace: { name: resource.namespace, ...(isSecret ? {} : facts) } }),
      ...(resource.secret === undefined ? {} : { secret: { name: resource.secret, ...facts } }),
    },
    context: {
      atMs: context.time === undefined ? nowMs : Date.parse(context.time),
      ...(context.address === undefined ? {} : { address: context.address }),
      authentication: {
        method: context.authenticationMethod ?? methodOf[type],
        ageSeconds: context.authenticationAgeSeconds ?? 0,
      },
      ...(context.tls === undefined ? {} : { tls: { used: context.tls } }),
      headers: context.headers,
      useCount: context.useCount,
    },
  };
}

const methodOf: Record<PolicyRequest['principal']['type'], string> = {
  user: 'local',
  api_key: 'api_key',
  jwt: 'jwt',
  certificate: 'certificate',
};

export function showDecision(decision: Decision): Output<typeof explainPolicies>['decision'] {
  return {
    decision: decision.decision,
    decidedBy: [...decision.policyIds],
    reason: decision.reason,
    obligations: decision.obligations.map((obligation) => ({ ...obligation })),
    errors: decision.errors.map(({ policyId, message }) =>
      policyId === undefined ? message : `${policyId}: ${message}`,
    ),
  };
}

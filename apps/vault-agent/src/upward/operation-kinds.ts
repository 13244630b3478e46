/** How the agent's actions and results are called on the agent link. */
import {
  Operation,
  OperationOutcome,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import type { AuditResult } from '../audit/audit-entry.ts';

export type CountedAction = AgentAction | 'authenticate';

/** What is not named here counts as other. */
const operations: Partial<Record<CountedAction, Operation>> = {
  authenticate: Operation.AUTHENTICATION,
  'namespace.create': Operation.NAMESPACE_WRITE,
  'namespace.read': Operation.NAMESPACE_READ,
  'namespace.list': Operation.NAMESPACE_READ,
  'namespace.update': Operation.NAMESPACE_WRITE,
  'namespace.delete': Operation.NAMESPACE_DELETE,
  'namespace.copy': Operation.SECRET_TRANSFER,
  'namespace.export': Operation.NAMESPACE_EXPORT,
  'namespace.import': Operation.NAMESPACE_IMPORT,
  'namespace.statistics': Operation.NAMESPACE_READ,
  'secret.create': Operation.SECRET_CREATE,
  'secret.read': Operation.SECRET_DESCRIBE,
  'secret.list': Operation.SECRET_LIST,
  'secret.read-value': Operation.SECRET_READ,
  'secret.update': Operation.SECRET_UPDATE,
  'secret.delete': Operation.SECRET_DELETE,
  'secret.list-versions': Operation.SECRET_DESCRIBE,
  'secret.rollback': Operation.SECRET_ROLL_BACK,
  'secret.undelete': Operation.SECRET_UNDELETE,
  'secret.destroy': Operation.SECRET_DESTROY,
  'secret.rotate': Operation.SECRET_ROTATE,
  'token.create': Operation.TOKEN_STORE,
  'token.read-value': Operation.TOKEN_RETRIEVE,
  'token.update': Operation.TOKEN_STORE,
  'token.delete': Operation.TOKEN_DELETE,
  'record.create': Operation.TOKEN_STORE,
  'record.read': Operation.TOKEN_RETRIEVE,
  'record.update': Operation.TOKEN_STORE,
  'record.delete': Operation.TOKEN_DELETE,
  'access.manage': Operation.ACCESS_CHANGE,
  'audit.read': Operation.AUDIT_READ,
  'audit.verify': Operation.AUDIT_READ,
  'backup.create': Operation.BACKUP,
  'backup.restore': Operation.RESTORE,
  'key.rotate': Operation.MASTER_KEY_ROTATION,
  'policy.read': Operation.POLICY,
  'approval.read': Operation.APPROVAL,
  'approval.decide': Operation.APPROVAL,
  'override.activate': Operation.POLICY,
};

const outcomes: Record<Exclude<AuditResult, 'started'>, OperationOutcome> = {
  done: OperationOutcome.DONE,
  denied: OperationOutcome.DENIED,
  refused: OperationOutcome.REFUSED,
  throttled: OperationOutcome.THROTTLED,
  failed: OperationOutcome.FAILED,
};

export function operationOf(action: CountedAction): Operation {
  return operations[action] ?? Operation.OTHER;
}

/** Undefined for what has only begun. */
export function outcomeOf(result: AuditResult): OperationOutcome | undefined {
  return result === 'started' ? undefined : outcomes[result];
}

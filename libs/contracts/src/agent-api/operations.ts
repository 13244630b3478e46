/** Every operation of the agent's own API. What is not in here is not in its OpenAPI document. */
import { accessOperations } from './access.ts';
import { auditOperations } from './audit.ts';
import { backupOperations } from './backup.ts';
import { keyOperations } from './keys.ts';
import { namespaceOperations } from './namespaces.ts';
import type { AgentOperation } from './operation.ts';
import { policyOperations } from './policies.ts';
import { recordOperations } from './records.ts';
import { rotationOperations } from './rotation.ts';
import { secretOperations } from './secrets.ts';
import { tokenOperations } from './tokens.ts';

export const agentOperations: readonly AgentOperation[] = [
  ...namespaceOperations,
  ...secretOperations,
  ...rotationOperations,
  ...keyOperations,
  ...auditOperations,
  ...accessOperations,
  ...policyOperations,
  ...backupOperations,
  ...tokenOperations,
  ...recordOperations,
];

const ids = new Set(agentOperations.map(({ id }) => id));
if (ids.size !== agentOperations.length) throw new Error('two operations of the agent have one id');

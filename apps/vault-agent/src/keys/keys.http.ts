import * as contract from '@keystead/contracts/agent-api/keys';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { KeyRing } from './key-ring.ts';

const masterKey = () => ({ other: 'master-key' });

export function keyHandlers(keys: KeyRing): AgentHandler[] {
  return [
    handler(contract.readKeys, { resource: masterKey, run: () => keys.describe() }),
    handler(contract.rotateMasterKey, { resource: masterKey, run: () => keys.rotateMaster() }),
  ];
}

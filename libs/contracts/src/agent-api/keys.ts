/** The keys of the vault: what guards them, and the master key's rotation. */
import { z } from 'zod';
import { agentOperation } from './operation.ts';

export const keyFacts = z.object({
  provider: z.string(),
  /** The provider's own key that wraps the master key; no secret. */
  keyId: z.string(),
  location: z.string(),
  masterVersion: z.number().int(),
  masterCreatedAt: z.string(),
  /** A rotation was begun and is not finished. */
  isRotating: z.boolean(),
  /** Keys that are wrapped under the master key. */
  wrappedKeys: z.number().int(),
});
export type KeyFacts = z.infer<typeof keyFacts>;

export const readKeys = agentOperation('keys.read', {
  method: 'GET',
  path: '/v1/keys',
  summary: 'Show what guards the keys of the vault',
  tag: 'Keys',
  action: 'key.read',
  output: keyFacts,
});

export const rotateMasterKey = agentOperation('keys.rotate-master', {
  method: 'POST',
  path: '/v1/keys/rotate',
  summary: 'Replace the master key, or finish a replacement that was begun',
  tag: 'Keys',
  action: 'key.rotate',
  output: z.object({
    masterVersion: z.number().int(),
    rewrappedKeys: z.number().int(),
    /** It was begun earlier. */
    resumed: z.boolean(),
  }),
  status: 200,
});

export const keyOperations = [readKeys, rotateMasterKey];

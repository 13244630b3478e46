/** Rotations over HTTP. */
import {
  deleteRotation,
  listRotationHistory,
  listRotations,
  pauseRotation,
  putRotation,
  type RotatorSettings,
  readRotation,
  rotateSecret,
} from '@keystead/contracts/agent-api/rotation';
import type { ResourceReference } from '../access/caller.ts';
import type { AlsoNeeded } from '../access/door.ts';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { Rotations } from './rotations.ts';
import { sendsValues } from './rotators/rotators.ts';

interface BySecret {
  params: { namespace: string; name: string };
}

const ofSecret = ({ params }: BySecret): ResourceReference => ({
  namespace: params.namespace,
  secret: params.name,
});

/**
 * Whoever says where values are sent, or which secret is used to get in somewhere, has to be somebody who
 * may read them.
 */
function valuesNeeded(own: ResourceReference, settings: RotatorSettings): AlsoNeeded[] {
  const references = [
    'administrator' in settings ? settings.administrator : undefined,
    'authorization' in settings ? settings.authorization?.secret : undefined,
  ].filter((reference) => reference !== undefined);
  return [...(sendsValues(settings) ? [own] : []), ...references].map((resource) => ({
    action: 'secret.read-value',
    resource,
  }));
}

export function rotationHandlers(rotations: Rotations): AgentHandler[] {
  return [
    handler(rotateSecret, {
      resource: ofSecret,
      run: (caller, { params, body }) =>
        rotations.rotateNow(caller, params.namespace, params.name, body.waitSeconds * 1_000),
    }),
    handler(readRotation, {
      resource: ofSecret,
      run: (_caller, { params }) => rotations.get(params.namespace, params.name),
    }),
    handler(putRotation, {
      resource: ofSecret,
      also: (input) => valuesNeeded(ofSecret(input), input.body.rotator),
      run: (_caller, { params, body, ifMatch }) =>
        rotations.set(params.namespace, params.name, body, ifMatch),
    }),
    handler(pauseRotation, {
      resource: ofSecret,
      run: (_caller, { params, body, ifMatch }) =>
        rotations.pause(params.namespace, params.name, body.paused, ifMatch),
    }),
    handler(deleteRotation, {
      resource: ofSecret,
      run: async (_caller, { params, ifMatch }) => {
        await rotations.remove(params.namespace, params.name, ifMatch);
        return {};
      },
    }),
    handler(listRotationHistory, {
      resource: ofSecret,
      run: (_caller, { params, query }) => rotations.history(params.namespace, params.name, query),
    }),
    handler(listRotations, {
      resource: ({ query }) =>
        query.namespace === undefined ? {} : { namespace: query.namespace },
      run: (caller, { query }) => rotations.list(query, caller.sees),
    }),
  ];
}

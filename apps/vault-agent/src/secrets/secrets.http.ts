import * as contract from '@keystead/contracts/agent-api/secrets';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { Secrets } from './secrets.ts';

interface SecretParams {
  params: { namespace: string; name: string };
}

const about = ({ params }: SecretParams) => ({ namespace: params.namespace, secret: params.name });

export function secretHandlers(secrets: Secrets): AgentHandler[] {
  return [
    handler(contract.createSecret, {
      resource: ({ params, body }) => ({ namespace: params.namespace, secret: body.name }),
      run: (caller, { params, body }) => secrets.create(caller, params.namespace, body),
    }),
    handler(contract.listSecrets, {
      resource: ({ params }) => ({ namespace: params.namespace }),
      run: (caller, { params, query }) => secrets.list(params.namespace, query, caller.sees),
    }),
    handler(contract.readSecret, {
      resource: about,
      run: (_caller, { params }) => secrets.get(params.namespace, params.name),
    }),
    handler(contract.updateSecret, {
      resource: about,
      run: (caller, { params, body, ifMatch }) =>
        secrets.update(caller, params.namespace, params.name, body, ifMatch),
    }),
    handler(contract.putSecretValue, {
      resource: about,
      run: (caller, { params, body, ifMatch }) =>
        secrets.update(caller, params.namespace, params.name, body, ifMatch),
    }),
    handler(contract.readSecretValue, {
      resource: about,
      run: (caller, { params, query }) =>
        secrets.readValue(caller, params.namespace, params.name, query),
    }),
    handler(contract.deleteSecret, {
      resource: about,
      run: (caller, { params, query, ifMatch }) =>
        secrets.delete(caller, params.namespace, params.name, { ...query, ifMatch }),
    }),
    handler(contract.destroySecret, {
      resource: about,
      run: async (caller, { params, body, ifMatch }) => {
        await secrets.destroy(caller, params.namespace, params.name, { ...body, ifMatch });
        return {};
      },
    }),
    handler(contract.undeleteSecret, {
      resource: about,
      run: (caller, { params, body, ifMatch }) =>
        secrets.undelete(caller, params.namespace, params.name, body.version, ifMatch),
    }),
    handler(contract.rollbackSecret, {
      resource: about,
      run: (caller, { params, body, ifMatch }) =>
        secrets.rollback(caller, params.namespace, params.name, body.version, {
          expectedVersion: body.expectedVersion,
          ifMatch,
        }),
    }),
    handler(contract.listSecretVersions, {
      resource: about,
      run: (_caller, { params, query }) => secrets.versions(params.namespace, params.name, query),
    }),
    handler(contract.readSecretVersion, {
      resource: about,
      run: (_caller, { params }) => secrets.version(params.namespace, params.name, params.version),
    }),
    handler(contract.deleteSecretVersion, {
      resource: about,
      run: (caller, { params, ifMatch }) =>
        secrets.deleteVersion(caller, params.namespace, params.name, params.version, ifMatch),
    }),
    handler(contract.destroySecretVersion, {
      resource: about,
      run: (caller, { params, ifMatch }) =>
        secrets.destroyVersion(caller, params.namespace, params.name, params.version, ifMatch),
    }),
  ];
}

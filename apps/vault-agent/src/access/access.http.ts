import * as access from '@keystead/contracts/agent-api/access';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { AccessBook } from './access-book.ts';
import type { ApiKeys } from './api-keys.ts';
import type { Caller } from './caller.ts';
import type { Roles } from './roles.ts';

const about = (kind: string, name: string) => ({ other: `${kind}:${name}` });

export function accessHandlers(parts: {
  book: AccessBook;
  apiKeys: ApiKeys;
  roles: Roles;
}): AgentHandler[] {
  const { book, apiKeys, roles } = parts;
  return [
    handler(access.createApiKey, {
      resource: ({ body }) => about('api-key', body.name),
      run: (caller, input) => apiKeys.create(caller, input),
    }),
    handler(access.listApiKeys, { run: (_caller, input) => apiKeys.list(input) }),
    handler(access.readApiKey, {
      resource: ({ params }) => about('api-key', params.id),
      run: (_caller, input) => apiKeys.read(input),
    }),
    handler(access.revokeApiKey, {
      resource: ({ params }) => about('api-key', params.id),
      run: (caller, input) => apiKeys.revoke(caller, input),
    }),
    handler(access.listRoles, { run: () => roles.list() }),
    handler(access.readRole, {
      resource: ({ params }) => about('role', params.name),
      run: (_caller, { params }) => roles.read(params.name),
    }),
    handler(access.putRole, {
      resource: ({ params }) => about('role', params.name),
      run: (caller, input) => roles.put(caller, input),
    }),
    handler(access.deleteRole, {
      resource: ({ params }) => about('role', params.name),
      run: (caller, input) => roles.delete(caller, input),
    }),
    handler(access.readCaller, { run: async (caller) => shownCaller(caller, book) }),
  ];
}

function shownCaller({ identity }: Caller, book: AccessBook) {
  const within = identity.namespaces;
  return {
    kind: identity.kind,
    id: identity.id,
    name: identity.name,
    roles: [...identity.roles],
    ...(within === undefined ? {} : { namespaces: [...within] }),
    permissions: identity.roles.flatMap((name) => book.role(name)?.permissions ?? []),
  };
}

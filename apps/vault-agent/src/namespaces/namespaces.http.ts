import * as contract from '@keystead/contracts/agent-api/namespaces';
import type { AlsoNeeded } from '../access/door.ts';
import { type AgentHandler, handler } from '../http/handler.ts';
import { identityOf, recipientOf } from './archive-keys.ts';
import type { Namespaces } from './namespaces.ts';
import type { Transfer } from './transfer.ts';

interface NamespaceParams {
  params: { namespace: string };
}

const about = ({ params }: NamespaceParams) => ({ namespace: params.namespace });
/** Values leave for where others may read them: whoever may not read them here may not send them there. */
const givesAway = ({ params }: NamespaceParams) =>
  ({
    action: 'secret.read-value',
    resource: { namespace: params.namespace },
    byRoles: true,
  }) as const;
/** A new name is made there: whoever may not make it may not copy or move to it. */
const makes = (input: NamespaceParams & { body: { to: string } }): AlsoNeeded[] => [
  { action: 'namespace.create', resource: { namespace: input.body.to } },
  givesAway(input),
];

export function namespaceHandlers(namespaces: Namespaces, transfer: Transfer): AgentHandler[] {
  return [
    handler(contract.createNamespace, {
      resource: ({ body }) => ({ namespace: body.name }),
      run: (caller, { body }) => namespaces.create(caller, body),
    }),
    handler(contract.listNamespaces, {
      run: (caller, { query }) => namespaces.list(query, caller.sees),
    }),
    handler(contract.readNamespace, {
      resource: about,
      run: (_caller, { params }) => namespaces.get(params.namespace),
    }),
    handler(contract.updateNamespace, {
      resource: about,
      run: (_caller, { params, body, ifMatch }) =>
        namespaces.update(params.namespace, body, ifMatch),
    }),
    handler(contract.deleteNamespace, {
      resource: about,
      run: (_caller, { params, query, ifMatch }) =>
        namespaces.delete(params.namespace, { onlyEmpty: query.onlyEmpty === 'true', ifMatch }),
    }),
    handler(contract.copyNamespace, {
      resource: about,
      also: makes,
      run: (caller, { params, body }) => namespaces.copy(caller, params.namespace, body),
    }),
    handler(contract.moveNamespace, {
      resource: about,
      also: (input) => [
        ...makes(input),
        { action: 'namespace.delete', resource: { namespace: input.params.namespace } },
      ],
      run: (_caller, { params, body, ifMatch }) =>
        namespaces.move(params.namespace, body.to, ifMatch),
    }),
    handler(contract.readNamespaceStatistics, {
      resource: about,
      run: (_caller, { params, query }) => namespaces.statistics(params.namespace, query.top),
    }),
    handler(contract.readAccessLog, {
      resource: about,
      run: (_caller, { params, query }) => namespaces.accessLog(params.namespace, query),
    }),
    handler(contract.exportNamespace, {
      resource: about,
      also: alsoOfExport,
      run: async (_caller, { params, body }) => ({
        contentType: 'application/octet-stream',
        fileName: `${params.namespace}.keystead`,
        content: await transfer.export(params.namespace, recipientOf(body)),
      }),
    }),
    handler(contract.importNamespace, {
      resource: about,
      also: ({ params, query }) => alsoOfImport(params.namespace, query.createNamespace === 'true'),
      run: (caller, { params, query }, { body, headers, progress }) =>
        transfer.import(caller, params.namespace, body, identityOf(headers), {
          existing: query.existing,
          createNamespaces: query.createNamespace === 'true',
          dryRun: query.dryRun === 'true',
          ...(progress === undefined
            ? {}
            : {
                onProgress: (phase, { namespaces: _namespaces, ...counts }) =>
                  progress({ phase, ...counts } satisfies contract.ImportProgress),
              }),
        }),
    }),
  ];
}

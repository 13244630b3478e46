import type { NamespaceFacts } from '@keystead/contracts/agent-api/namespaces';
import * as contract from '@keystead/contracts/agent-api/namespaces';
import type { Caller } from '../access/caller.ts';
import type { AlsoNeeded, Errand } from '../access/door.ts';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { Page } from '../store/visible-page.ts';
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
    by: 'roles',
  }) as const;
/** A new name is made there: whoever may not make it may not copy or move to it. */
const makes = (input: NamespaceParams & { body: { to: string } }): AlsoNeeded[] => [
  { action: 'namespace.create', resource: { namespace: input.body.to } },
  givesAway(input),
];

const alsoOfExport = (input: NamespaceParams): AlsoNeeded[] => [givesAway(input)];
const alsoOfImport = (namespace: string, creates: boolean): AlsoNeeded[] =>
  creates ? [{ action: 'namespace.create', resource: { namespace } }] : [];

/** What the commands ask the door, as the routes do. */
export function exportErrand(namespace: string): Errand {
  const { id } = contract.exportNamespace;
  return {
    action: 'namespace.export',
    operation: id,
    resource: { namespace },
    effect: 'write',
    also: alsoOfExport({ params: { namespace } }),
  };
}

export function importErrand(namespace: string, creates: boolean): Errand {
  const { id } = contract.importNamespace;
  return {
    action: 'namespace.import',
    operation: id,
    resource: { namespace },
    effect: 'write',
    also: alsoOfImport(namespace, creates),
  };
}

/** Without what is counted, where policies hide some of the secrets from the caller. */
async function counted(caller: Caller, facts: NamespaceFacts): Promise<NamespaceFacts> {
  const { name: namespace } = facts;
  if ((await caller.seesAllOf?.({ namespace, facts: () => facts })) ?? true) return facts;
  return { ...facts, secretCount: null, deletedCount: null, versionCount: null, totalBytes: null };
}

async function countedAll(caller: Caller, page: Page<NamespaceFacts>) {
  if (caller.seesAllOf === undefined) return page;
  const items: NamespaceFacts[] = [];
  for (const facts of page.items) items.push(await counted(caller, facts));
  return { ...page, items };
}

export function namespaceHandlers(namespaces: Namespaces, transfer: Transfer): AgentHandler[] {
  return [
    handler(contract.createNamespace, {
      resource: ({ body }) => ({ namespace: body.name }),
      run: async (caller, { body }) => counted(caller, await namespaces.create(caller, body)),
    }),
    handler(contract.listNamespaces, {
      run: async (caller, { query }) =>
        countedAll(caller, await namespaces.list(query, caller.sees)),
    }),
    handler(contract.readNamespace, {
      resource: about,
      run: async (caller, { params }) => counted(caller, await namespaces.get(params.namespace)),
    }),
    handler(contract.updateNamespace, {
      resource: about,
      run: async (caller, { params, body, ifMatch }) =>
        counted(caller, await namespaces.update(params.namespace, body, ifMatch)),
    }),
    handler(contract.deleteNamespace, {
      resource: about,
      run: (_caller, { params, query, ifMatch }) =>
        namespaces.delete(params.namespace, { onlyEmpty: query.onlyEmpty === 'true', ifMatch }),
    }),
    handler(contract.copyNamespace, {
      resource: about,
      also: makes,
      run: async (caller, { params, body }) => {
        const { namespace, copiedSecrets } = await namespaces.copy(caller, params.namespace, body);
        return { namespace: await counted(caller, namespace), copiedSecrets };
      },
    }),
    handler(contract.moveNamespace, {
      resource: about,
      also: (input) => [
        ...makes(input),
        { action: 'namespace.delete', resource: { namespace: input.params.namespace } },
      ],
      run: async (caller, { params, body, ifMatch }) =>
        counted(caller, await namespaces.move(params.namespace, body.to, ifMatch)),
    }),
    handler(contract.readNamespaceStatistics, {
      resource: about,
      run: (caller, { params, query }) =>
        namespaces.statistics(params.namespace, query.top, caller),
    }),
    handler(contract.readAccessLog, {
      resource: about,
      run: (caller, { params, query }) =>
        namespaces.accessLog(params.namespace, query, caller.sees),
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

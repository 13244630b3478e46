/**
 * Tags, owner and metadata of what is asked for, for policies that read them: as fresh as every other
 * cache of the store. A set that reads none of it costs nothing here.
 */

import type { CompiledSet } from '@keystead/policy-engine/compile';
import type { AccessRequest } from '@keystead/policy-engine/facts';
import { LRUCache } from 'lru-cache';
import type { ListedResource, ResourceReference } from '../access/caller.ts';
import type { AgentStore } from '../store/agent-store.ts';
import { policyLimits } from './policy-limits.ts';

export interface ResourceFacts {
  namespace?: AccessRequest['resource']['namespace'];
  secret?: AccessRequest['resource']['secret'];
  useCount: number;
}

/** What only the store knows: tags, owner and metadata of a namespace or a secret, and the use count. */
const known = /^(?:resource|namespace)(?:#|\.tags$|\.owner$)|^context\.useCount$/;
const knownText = /^(?:resource|namespace)\.metadata\.|^namespace\.owner$/;
const readsFacts = new WeakMap<CompiledSet, boolean>();

/** Whether any policy of the set may read what only the store knows. */
export function needsFacts(set: CompiledSet): boolean {
  let needs = readsFacts.get(set);
  if (needs === undefined) {
    needs = set.policies.some(
      ({ study }) =>
        [...study.reads, ...study.compares.keys()].some((name) => known.test(name)) ||
        study.matches.some(({ path }) => knownText.test(path)),
    );
    readsFacts.set(set, needs);
  }
  return needs;
}

/** What the names alone say. */
export function namesOnly({ namespace, secret }: ResourceReference): ResourceFacts {
  return {
    ...(namespace === undefined ? {} : { namespace: { name: namespace } }),
    ...(namespace === undefined || secret === undefined ? {} : { secret: { name: secret } }),
    useCount: 0,
  };
}

/** The namespace that it lies in, or is. */
export function aroundOf({ namespace, secret, facts }: ListedResource): ListedResource {
  if (namespace === undefined) return {};
  return secret === undefined && facts !== undefined ? { namespace, facts } : { namespace };
}

/** From what a list has read already; the rest is read. */
export function listedFacts(
  resource: ListedResource,
  reader: Pick<ResourceFactsReader, 'read'>,
): ResourceFacts | Promise<ResourceFacts> {
  const { namespace, secret, facts } = resource;
  if (facts === undefined || namespace === undefined) return reader.read(resource);
  const { tags, owner = '', metadata = {}, useCount = 0 } = facts();
  if (secret === undefined) return { namespace: { name: namespace, tags, owner }, useCount };
  const within = reader.read({ namespace });
  const whole = (around: ResourceFacts) => ({
    ...around,
    secret: { name: secret, tags, metadata },
    useCount,
  });
  return within instanceof Promise ? within.then(whole) : whole(within);
}

export class ResourceFactsReader {
  readonly #store: AgentStore;
  readonly #known: LRUCache<string, ResourceFacts>;

  constructor(store: AgentStore) {
    this.#store = store;
    this.#known = new LRUCache({ max: policyLimits.factsKept, ttl: policyLimits.factsTtlMs });
  }

  /** @throws ServiceError `unavailable`: who cannot know denies */
  read(resource: ResourceReference): ResourceFacts | Promise<ResourceFacts> {
    const { namespace, secret } = resource;
    if (namespace === undefined) return namesOnly(resource);
    const key = `${namespace} ${secret ?? ''}`;
    return this.#known.get(key) ?? this.#load(key, resource, namespace, secret);
  }

  async #load(
    key: string,
    resource: ResourceReference,
    namespace: string,
    secret: string | undefined,
  ): Promise<ResourceFacts> {
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('namespace')
        .leftJoin('secret', (join) =>
          join
            .onRef('secret.namespace_id', '=', 'namespace.id')
            .on('secret.name', '=', secret ?? ''),
        )
        .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
        .select([
          'namespace.tags as namespace_tags',
          'namespace.owner',
          'secret.tags',
          'secret.metadata',
          'secret_access.access_count',
        ])
        .where('namespace.name', '=', namespace)
        .executeTakeFirst(),
    );
    const facts = namesOnly(resource);
    if (row !== undefined) {
      facts.namespace = {
        name: namespace,
        tags: JSON.parse(row.namespace_tags),
        owner: row.owner,
      };
      if (secret !== undefined && row.tags !== null) {
        facts.secret = {
          name: secret,
          tags: JSON.parse(row.tags),
          metadata: JSON.parse(row.metadata ?? '{}'),
        };
      }
      facts.useCount = row.access_count ?? 0;
    }
    this.#known.set(key, facts);
    return facts;
  }
}

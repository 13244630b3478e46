/** Counts everything anew and says where a counter differs. */
import type { Vault } from './vault.ts';

export async function recount({ store }: Vault): Promise<string[]> {
  return store.snapshot(async (queries) => {
    const differences: string[] = [];
    const namespaces = await queries.selectFrom('namespace').selectAll().execute();
    const state = await queries.selectFrom('vault_state').selectAll().executeTakeFirstOrThrow();
    const compare = (what: string, kept: number, counted: number) => {
      if (kept !== counted) differences.push(`${what}: kept ${kept}, counted ${counted}`);
    };
    compare('namespaces', state.namespace_count, namespaces.length);
    const allSecrets = await queries.selectFrom('secret').selectAll().execute();
    const allVersions = await queries.selectFrom('secret_version').selectAll().execute();
    const allTags = await queries.selectFrom('secret_tag').selectAll().execute();
    const allAccesses = await queries.selectFrom('secret_access').selectAll().execute();
    const keys = await queries.selectFrom('wrapped_key').select('id').execute();
    compare('keys', keys.length, namespaces.length + 1);
    for (const namespace of namespaces) {
      const secrets = allSecrets.filter(({ namespace_id }) => namespace_id === namespace.id);
      const ids = new Set(secrets.map(({ id }) => id));
      const versions = allVersions.filter(({ secret_id }) => ids.has(secret_id));
      const { name } = namespace;
      const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);
      compare(`${name} secrets`, namespace.secret_count, secrets.length);
      compare(`${name} deleted`, namespace.deleted_count, sum(secrets.map((s) => s.is_deleted)));
      compare(`${name} versions`, namespace.version_count, versions.length);
      compare(`${name} bytes`, namespace.total_bytes, sum(versions.map((v) => v.byte_length)));
      compare(`${name} name bytes`, namespace.name_bytes, sum(secrets.map((s) => s.name.length)));
      const tags = secrets.flatMap((secret) => JSON.parse(secret.tags) as string[]);
      compare(
        `${name} tags`,
        allTags.filter(({ namespace_id }) => namespace_id === namespace.id).length,
        tags.length,
      );
      for (const secret of secrets) {
        if (secret.revision > namespace.revision) {
          differences.push(`${name}/${secret.name}: changed at a revision to come`);
        }
        if (
          !versions.some((v) => v.secret_id === secret.id && v.version === secret.current_version)
        ) {
          differences.push(`${name}/${secret.name}: has no current version`);
        }
      }
    }
    const secretIds = new Set(allSecrets.map(({ id }) => id));
    const orphans = [...allVersions, ...allTags, ...allAccesses].filter(
      ({ secret_id }) => !secretIds.has(secret_id),
    );
    compare('rows of no secret', orphans.length, 0);
    const namespaceIds = new Set(namespaces.map(({ id }) => id));
    compare(
      'secrets of no namespace',
      allSecrets.filter(({ namespace_id }) => !namespaceIds.has(namespace_id)).length,
      0,
    );
    compare('accesses', allAccesses.length, allSecrets.length);
    return differences;
  });
}

/** What the vault holds, in numbers, from the counters that each namespace keeps. */
import type { AgentStore } from '../store/agent-store.ts';
import type { StoreSizes } from './usage-counts.ts';

/** @throws ServiceError `unavailable` */
export async function storeSizes(store: AgentStore): Promise<StoreSizes> {
  const row = await store.read((queries) =>
    queries
      .selectFrom('namespace')
      .select(({ fn }) => [
        fn.countAll<number | string>().as('namespaces'),
        fn.sum<number | string | null>('secret_count').as('secrets'),
        fn.sum<number | string | null>('total_bytes').as('storedBytes'),
      ])
      .executeTakeFirstOrThrow(),
  );
  return {
    namespaces: Number(row.namespaces),
    secrets: Number(row.secrets ?? 0),
    storedBytes: Number(row.storedBytes ?? 0),
  };
}

/** Row locks, which SQLite neither has nor needs: there the transaction is the only writer. */
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import type { AgentSchema, NamespaceTable, VaultStateTable } from './agent-tables.ts';

/** Whoever makes or drops namespaces or master keys comes through here, one after the other. */
export async function lockVault(
  kind: SqlKind,
  queries: Queries<AgentSchema>,
): Promise<Selectable<VaultStateTable>> {
  let query = queries.selectFrom('vault_state').selectAll().where('only', '=', 1);
  if (kind !== 'sqlite') query = query.forUpdate();
  return query.executeTakeFirstOrThrow();
}

/** First in every transaction that changes something in the namespace. */
export async function lockNamespace(
  kind: SqlKind,
  queries: Queries<AgentSchema>,
  id: string,
): Promise<Selectable<NamespaceTable> | undefined> {
  let query = queries.selectFrom('namespace').selectAll().where('id', '=', id);
  if (kind !== 'sqlite') query = query.forUpdate();
  return query.executeTakeFirst();
}

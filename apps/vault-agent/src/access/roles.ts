/** The vault's own roles beside the built-in ones. */
import type { deleteRole, Permission, putRole, Role } from '@keystead/contracts/agent-api/access';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import type { SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import { type AccessBook, nextRevision } from './access-book.ts';
import type { AccessTables } from './access-tables.ts';
import type { Caller } from './caller.ts';
import { builtInRole, builtInRoles, type NamedRole } from './role.ts';

type Row = Selectable<AccessTables['access_role']>;

export class Roles {
  readonly #store: SqlStore<AccessTables>;
  readonly #book: AccessBook;
  readonly #now: () => number;

  constructor(store: SqlStore<AccessTables>, book: AccessBook, now: () => number) {
    this.#store = store;
    this.#book = book;
    this.#now = now;
  }

  async list(): Promise<{ items: Role[] }> {
    const rows = await this.#store.db
      .selectFrom('access_role')
      .selectAll()
      .orderBy('name')
      .execute();
    return { items: [...builtInRoles.map(shownBuiltIn), ...rows.map(shown)] };
  }

  /** @throws ServiceError `not_found` */
  async read(name: string): Promise<Role> {
    const builtIn = builtInRoles.find((role) => role.name === name);
    if (builtIn !== undefined) return shownBuiltIn(builtIn);
    const row = await this.#store.db
      .selectFrom('access_role')
      .selectAll()
      .where('name', '=', name)
      .executeTakeFirst();
    if (row === undefined) throw notFound();
    return shown(row);
  }

  /** @throws ServiceError `permission_denied`, `conflict`, `precondition_failed`, `limit_reached` */
  async put(
    caller: Caller,
    { params: { name }, body, ifMatch }: AgentInput<typeof putRole>,
  ): Promise<Role> {
    this.#mayChange(caller, name);
    const nowMs = this.#now();
    await this.#store.write(async (queries) => {
      // Its row is the lock: of two changes of roles one waits for the other.
      await nextRevision(queries);
      const rows = await queries.selectFrom('access_role').select(['name', 'revision']).execute();
      const row = rows.find((each) => each.name === name);
      checkMatch(ifMatch, row?.revision);
      const content = {
        description: body.description,
        permissions: JSON.stringify(body.permissions),
        updated_at_ms: nowMs,
      };
      if (row !== undefined) {
        await queries
          .updateTable('access_role')
          .set({ ...content, revision: Number(row.revision) + 1 })
          .where('name', '=', name)
          .execute();
        return;
      }
      if (rows.length >= apiLimits.rolesMax) {
        throw new ServiceError('limit_reached', {
          detail: `the vault has ${rows.length} roles, its maximum`,
        });
      }
      await queries
        .insertInto('access_role')
        .values({ name, ...content, revision: 1, created_at_ms: nowMs })
        .execute();
    });
    await this.#book.refresh();
    return this.read(name);
  }

  /** @throws ServiceError `permission_denied`, `conflict`, `not_found`, `precondition_failed` */
  async delete(
    caller: Caller,
    { params: { name }, ifMatch }: AgentInput<typeof deleteRole>,
  ): Promise<Record<never, never>> {
    this.#mayChange(caller, name);
    await this.#store.write(async (queries) => {
      await nextRevision(queries);
      const row = await queries
        .selectFrom('access_role')
        .select('revision')
        .where('name', '=', name)
        .executeTakeFirst();
      if (row === undefined) throw notFound();
      checkMatch(ifMatch, row.revision);
      await queries.deleteFrom('access_role').where('name', '=', name).execute();
    });
    await this.#book.refresh();
    return {};
  }

  #mayChange(caller: Caller, name: string): void {
    if (!this.#book.permissionsOf(caller.identity).isEverything) {
      throw new ServiceError('permission_denied', {
        detail: 'only who may do everything may say what roles permit',
      });
    }
    if (builtInRole(name) !== undefined) {
      throw new ServiceError('conflict', { detail: 'a built-in role cannot be changed' });
    }
  }
}

/** @throws ServiceError `precondition_failed` */
function checkMatch(ifMatch: string | null, revision: number | undefined): void {
  if (ifMatch === null) return;
  if (revision !== undefined && (ifMatch === '*' || ifMatch === String(revision))) return;
  throw new ServiceError('precondition_failed');
}

const shownBuiltIn = ({ name, description, permissions }: NamedRole): Role => ({
  name,
  description,
  builtIn: true,
  permissions: permissions.map(copied),
  createdAt: null,
  updatedAt: null,
  etag: 'built-in',
});

const copied = (permission: Permission): Permission => ({
  actions: [...permission.actions],
  namespaces: [...permission.namespaces],
  secrets: [...permission.secrets],
});

function shown(row: Row): Role {
  return {
    name: row.name,
    description: row.description,
    builtIn: false,
    permissions: JSON.parse(row.permissions) as Permission[],
    createdAt: new Date(Number(row.created_at_ms)).toISOString(),
    updatedAt: new Date(Number(row.updated_at_ms)).toISOString(),
    etag: String(row.revision),
  };
}

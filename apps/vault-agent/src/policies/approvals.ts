/**
 * What a policy lets somebody do only when others agree. The request is not kept, because it may hold a
 * value: what waits is the permission for one such request, for its requester, within its time.
 *
 * Whoever asked cannot agree to it, and nobody counts twice.
 */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import type {
  Approval,
  ApprovalState,
  listApprovals,
} from '@keystead/contracts/agent-api/policies';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Queries, SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import type { Caller, ResourceReference } from '../access/caller.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import { type Page, visiblePage } from '../store/visible-page.ts';
import { policyLimits } from './policy-limits.ts';
import type {
  ApprovalDecisionTable,
  ApprovalTable,
  PolicyTables,
  StoredApprovalState,
} from './policy-tables.ts';

export interface Requirement {
  policyId: string;
  /** Roles whose members may agree. */
  approvers: readonly string[];
  /** How many of them. */
  count: number;
  expiresAfterSeconds: number;
}

export type Permission =
  | { outcome: 'granted'; id: string }
  | { outcome: 'pending' | 'denied'; id: string; expiresAtMs: number };

type ApprovalRow = Selectable<ApprovalTable>;
type DecisionRow = Selectable<ApprovalDecisionTable>;

export interface ApprovalsOptions {
  store: SqlStore<PolicyTables>;
  now?: () => number;
}

export class Approvals {
  readonly #store: SqlStore<PolicyTables>;
  readonly #now: () => number;

  constructor(options: ApprovalsOptions) {
    this.#store = options.store;
    this.#now = options.now ?? Date.now;
  }

  /**
   * Uses an approval that was given for this, or asks for one.
   * @throws ServiceError `limit_reached` where too many wait already
   */
  async require(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    requirements: readonly Requirement[],
  ): Promise<Permission> {
    const nowMs = this.#now();
    const requester = identityText(caller.identity);
    return this.#store.write(async (queries) => {
      const { namespace = '', secret = '', other = '' } = resource;
      let query = queries
        .selectFrom('approval')
        .selectAll()
        .where('requester', '=', requester)
        .where('action', '=', action)
        .where('namespace', '=', namespace)
        .where('secret', '=', secret)
        .where('other', '=', other)
        .where('expires_at_ms', '>', nowMs)
        .where('state', '!=', 'used')
        .orderBy('id', 'desc')
        .limit(policyLimits.approvalsPendingPerIdentity);
      if (this.#store.kind !== 'sqlite') query = query.forUpdate();
      const rows = await query.execute();
      // What the policies ask for now counts, not what they asked for then.
      const same = rows.filter((row) => row.requirements === JSON.stringify(requirements));
      // One that was given back may be older than one that was asked for meanwhile.
      const given = same[0]?.state === 'pending' && same.find(({ state }) => state === 'approved');
      const known = given || same[0];
      if (known !== undefined) {
        const { id, expires_at_ms: expiresAtMs } = known;
        if (known.state !== 'approved') {
          return { outcome: known.state === 'denied' ? 'denied' : 'pending', id, expiresAtMs };
        }
        await queries
          .updateTable('approval')
          .set({ state: 'used' })
          .where('id', '=', id)
          .where('state', '=', 'approved')
          .execute();
        return { outcome: 'granted', id };
      }
      await this.#requireRoom(queries, requester, nowMs);
      const within = Math.min(...requirements.map((each) => each.expiresAfterSeconds));
      const row: ApprovalRow = {
        id: toId('approval', newUuid(nowMs)),
        requester,
        requester_name: caller.identity.name,
        action,
        namespace,
        secret,
        other,
        state: 'pending',
        requirements: JSON.stringify(requirements),
        requested_at_ms: nowMs,
        expires_at_ms: nowMs + within * 1_000,
        decided_at_ms: null,
      };
      await queries.insertInto('approval').values(row).execute();
      return { outcome: 'pending', id: row.id, expiresAtMs: row.expires_at_ms };
    });
  }

  /** What it permitted did not happen: it may still be used, within its time. */
  async giveBack(id: string): Promise<void> {
    await this.#store.write((queries) =>
      queries
        .updateTable('approval')
        .set({ state: 'approved' })
        .where('id', '=', id)
        .where('state', '=', 'used')
        .execute(),
    );
  }

  /** @throws ServiceError `not_found`, `conflict`, `permission_denied` */
  async decide(
    caller: Caller,
    id: string,
    decision: 'approve' | 'deny',
    comment: string,
  ): Promise<Approval> {
    const nowMs = this.#now();
    const approver = identityText(caller.identity);
    return this.#store.write(async (queries) => {
      let query = queries.selectFrom('approval').selectAll().where('id', '=', id);
      if (this.#store.kind !== 'sqlite') query = query.forUpdate();
      const row = await query.executeTakeFirst();
      if (row === undefined) throw noSuchApproval();
      const state = stateOf(row, nowMs);
      if (state !== 'pending') {
        throw new ServiceError('conflict', { detail: `The approval is ${state}` });
      }
      if (row.requester === approver) {
        throw new ServiceError('permission_denied', {
          detail: 'Whoever asked for something cannot decide about it',
        });
      }
      const requirements = requirementsOf(row);
      const roles = caller.identity.roles.filter((role) =>
        requirements.some(({ approvers }) => approvers.includes(role)),
      );
      if (roles.length === 0) {
        throw new ServiceError('permission_denied', {
          detail: 'The policy that asks for this approval names other roles',
        });
      }
      const before = await decisionsOf(queries, id);
      if (before.some((each) => each.approver === approver)) {
        throw new ServiceError('conflict', { detail: 'You have decided about this already' });
      }
      const made: DecisionRow = {
        approval_id: id,
        approver,
        approver_name: caller.identity.name,
        roles: JSON.stringify(roles),
        decision,
        comment,
        at_ms: nowMs,
      };
      await queries.insertInto('approval_decision').values(made).execute();
      const decisions = [...before, made];
      const next: StoredApprovalState =
        decision === 'deny' ? 'denied' : stateAfter(requirements, decisions);
      const changed = { state: next, decided_at_ms: next === 'pending' ? null : nowMs };
      await queries.updateTable('approval').set(changed).where('id', '=', id).execute();
      return shown({ ...row, ...changed }, decisions, nowMs);
    });
  }

  /** @throws ServiceError `not_found` */
  async get(id: string): Promise<Approval> {
    const row = await this.#store.db
      .selectFrom('approval')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    if (row === undefined) throw noSuchApproval();
    return shown(row, await decisionsOf(this.#store.db, id), this.#now());
  }

  /** The newest first. The cursor is the last id of the page before. */
  async list(query: AgentInput<typeof listApprovals>['query']): Promise<Page<Approval>> {
    const nowMs = this.#now();
    const { items, nextCursor } = await visiblePage(
      query,
      (after, count) => {
        let select = this.#store.db.selectFrom('approval').selectAll();
        if (after !== undefined) select = select.where('id', '<', after);
        if (query.state === 'expired') {
          select = select
            .where('state', 'in', ['pending', 'approved'])
            .where('expires_at_ms', '<=', nowMs);
        } else if (query.state !== undefined) {
          select = select.where('state', '=', query.state);
          if (query.state === 'pending' || query.state === 'approved') {
            select = select.where('expires_at_ms', '>', nowMs);
          }
        }
        return select.orderBy('id', 'desc').limit(count).execute();
      },
      ({ id }) => id,
    );
    return {
      items: await Promise.all(
        items.map(async (row) => shown(row, await decisionsOf(this.#store.db, row.id), nowMs)),
      ),
      nextCursor,
    };
  }

  /** Forgets what ended long ago. */
  async sweep(): Promise<void> {
    const before = this.#now() - policyLimits.approvalsKeepDays * 86_400_000;
    await this.#store.write(async (queries) => {
      const old = queries.selectFrom('approval').select('id').where('expires_at_ms', '<', before);
      await queries.deleteFrom('approval_decision').where('approval_id', 'in', old).execute();
      await queries.deleteFrom('approval').where('expires_at_ms', '<', before).execute();
    });
  }

  async #requireRoom(
    queries: Queries<PolicyTables>,
    requester: string,
    nowMs: number,
  ): Promise<void> {
    const pending = queries
      .selectFrom('approval')
      .select((row) => row.fn.countAll<number>().as('count'))
      .where('state', '=', 'pending')
      .where('expires_at_ms', '>', nowMs);
    const own = await pending.where('requester', '=', requester).executeTakeFirstOrThrow();
    const all = await pending.executeTakeFirstOrThrow();
    if (
      Number(own.count) >= policyLimits.approvalsPendingPerIdentity ||
      Number(all.count) >= policyLimits.approvalsPendingMax
    ) {
      throw new ServiceError('limit_reached', {
        detail: 'Too many approvals wait for a decision already',
      });
    }
  }
}

function noSuchApproval(): ServiceError {
  return new ServiceError('not_found', { detail: 'There is no such approval' });
}

function requirementsOf(row: ApprovalRow): Requirement[] {
  return JSON.parse(row.requirements);
}

function decisionsOf(queries: Queries<PolicyTables>, id: string): Promise<DecisionRow[]> {
  return queries
    .selectFrom('approval_decision')
    .selectAll()
    .where('approval_id', '=', id)
    .orderBy('at_ms')
    .execute();
}

/** Approved when every policy has as many as it asks for; one person may count for several policies. */
function stateAfter(
  requirements: readonly Requirement[],
  decisions: readonly DecisionRow[],
): 'approved' | 'pending' {
  const agreed = decisions
    .filter(({ decision }) => decision === 'approve')
    .map(({ roles }) => JSON.parse(roles) as string[]);
  const isMet = ({ approvers, count }: Requirement) =>
    agreed.filter((roles) => roles.some((role) => approvers.includes(role))).length >= count;
  return requirements.every(isMet) ? 'approved' : 'pending';
}

function stateOf(row: ApprovalRow, nowMs: number): ApprovalState {
  const canExpire = row.state === 'pending' || row.state === 'approved';
  return canExpire && row.expires_at_ms <= nowMs ? 'expired' : row.state;
}

function shown(row: ApprovalRow, decisions: readonly DecisionRow[], nowMs: number): Approval {
  return {
    id: row.id,
    requestedBy: row.requester,
    requesterName: row.requester_name,
    action: row.action,
    namespace: row.namespace === '' ? null : row.namespace,
    secret: row.secret === '' ? null : row.secret,
    other: row.other === '' ? null : row.other,
    state: stateOf(row, nowMs),
    requirements: requirementsOf(row).map(({ policyId, approvers, count }) => ({
      policy: policyId,
      approvers: [...approvers],
      count,
    })),
    decisions: decisions.map((each) => ({
      by: each.approver,
      name: each.approver_name,
      decision: each.decision,
      comment: each.comment,
      at: new Date(each.at_ms).toISOString(),
    })),
    requestedAt: new Date(row.requested_at_ms).toISOString(),
    expiresAt: new Date(row.expires_at_ms).toISOString(),
  };
}

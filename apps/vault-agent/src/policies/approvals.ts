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

/** What somebody decided in the control plane. */
export interface RemoteDecision {
  id: string;
  /** uuid. */
  decisionId: string;
  verdict: 'approve' | 'deny';
  /** Roles of the organization that count as roles here. */
  approver: { id: string; name: string; email: string; roles: readonly string[] };
  reason: string;
}

export type RemoteOutcome =
  | 'accepted'
  | 'already_decided'
  | 'expired'
  | 'not_an_approver'
  | 'own_request'
  | 'unknown_approval'
  | 'not_acceptable';

/** An approval as it is after a change. */
export interface ApprovalChange {
  id: string;
  revision: number;
  state: StoredApprovalState;
  action: string;
  requester: string;
  resource: { namespace: string; secret: string; other: string };
  requirements: readonly Requirement[];
  decisions: readonly {
    approver: string;
    verdict: 'approve' | 'deny';
    atMs: number;
    /** Of the control plane, where it was made there. */
    decisionId: string | undefined;
  }[];
  requestedAtMs: number;
  expiresAtMs: number;
}

export interface ApprovalsOptions {
  store: SqlStore<PolicyTables>;
  now?: () => number;
}

export class Approvals {
  readonly #store: SqlStore<PolicyTables>;
  readonly #now: () => number;
  /** Something changed that others may want to know. */
  onChange: () => void = () => undefined;

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
    return this.#change(async (queries) => {
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
        await countChange(queries, id);
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
      await countChange(queries, row.id);
      return { outcome: 'pending', id: row.id, expiresAtMs: row.expires_at_ms };
    });
  }

  /** What it permitted did not happen: it may still be used, within its time. */
  async giveBack(id: string): Promise<void> {
    await this.#change(async (queries) => {
      const given = await queries
        .updateTable('approval')
        .set({ state: 'approved' })
        .where('id', '=', id)
        .where('state', '=', 'used')
        .executeTakeFirst();
      if (given.numUpdatedRows > 0n) await countChange(queries, id);
    });
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
    return this.#change(async (queries) => {
      const row = await this.#locked(queries, id);
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
      const decisions = [...before, made];
      return shown(await addDecision(queries, row, made, decisions), decisions, nowMs);
    });
  }

  /** As {@link decide}, by somebody in the control plane. The same decision again is accepted again. */
  async decideRemotely(decision: RemoteDecision): Promise<RemoteOutcome> {
    const { id, decisionId, verdict, approver } = decision;
    const nowMs = this.#now();
    const name = `person:${approver.id}`;
    return this.#change(async (queries) => {
      const row = await this.#locked(queries, id);
      if (row === undefined) return 'unknown_approval';
      const known = await queries
        .selectFrom('approval_remote_decision')
        .select('decision_id')
        .where('decision_id', '=', decisionId)
        .executeTakeFirst();
      if (known !== undefined) return 'accepted';
      const state = stateOf(row, nowMs);
      if (state !== 'pending') return state === 'expired' ? 'expired' : 'already_decided';
      if (isSamePerson(row, approver)) return 'own_request';
      const roles = approver.roles.filter((role) =>
        requirementsOf(row).some(({ approvers }) => approvers.includes(role)),
      );
      if (roles.length === 0) return 'not_an_approver';
      const before = await decisionsOf(queries, id);
      if (before.some((each) => each.approver === name)) return 'already_decided';
      const made: DecisionRow = {
        approval_id: id,
        approver: name,
        approver_name: approver.name,
        roles: JSON.stringify(roles),
        decision: verdict,
        comment: decision.reason,
        at_ms: nowMs,
      };
      await queries
        .insertInto('approval_remote_decision')
        .values({ decision_id: decisionId, approval_id: id, approver: name })
        .execute();
      await addDecision(queries, row, made, [...before, made]);
      return 'accepted';
    });
  }

  /** What the control plane was not told of yet, as it is now. */
  async untold(limit: number): Promise<ApprovalChange[]> {
    const { db } = this.#store;
    const rows = await db
      .selectFrom('approval_revision')
      .innerJoin('approval', 'approval.id', 'approval_revision.approval_id')
      .selectAll('approval')
      .select('approval_revision.revision')
      .whereRef('approval_revision.told', '<', 'approval_revision.revision')
      .orderBy('approval.id')
      .limit(limit)
      .execute();
    const changes: ApprovalChange[] = [];
    for (const row of rows) {
      const remote = await db
        .selectFrom('approval_remote_decision')
        .select(['approver', 'decision_id'])
        .where('approval_id', '=', row.id)
        .execute();
      changes.push({
        id: row.id,
        revision: row.revision,
        state: row.state,
        action: row.action,
        requester: row.requester,
        resource: { namespace: row.namespace, secret: row.secret, other: row.other },
        requirements: requirementsOf(row),
        decisions: (await decisionsOf(db, row.id)).map((each) => ({
          approver: each.approver,
          verdict: each.decision,
          atMs: each.at_ms,
          decisionId: remote.find(({ approver }) => approver === each.approver)?.decision_id,
        })),
        requestedAtMs: row.requested_at_ms,
        expiresAtMs: row.expires_at_ms,
      });
    }
    return changes;
  }

  /** The control plane will hear of it as it was at that revision. */
  async told(id: string, revision: number): Promise<void> {
    await this.#store.write((queries) =>
      queries
        .updateTable('approval_revision')
        .set({ told: revision })
        .where('approval_id', '=', id)
        .where('told', '<', revision)
        .execute(),
    );
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
      for (const table of [
        'approval_decision',
        'approval_revision',
        'approval_remote_decision',
      ] as const) {
        await queries.deleteFrom(table).where('approval_id', 'in', old).execute();
      }
      await queries.deleteFrom('approval').where('expires_at_ms', '<', before).execute();
    });
  }

  async #change<T>(work: (queries: Queries<PolicyTables>) => Promise<T>): Promise<T> {
    const result = await this.#store.write(work);
    this.onChange();
    return result;
  }

  #locked(queries: Queries<PolicyTables>, id: string): Promise<ApprovalRow | undefined> {
    let query = queries.selectFrom('approval').selectAll().where('id', '=', id);
    if (this.#store.kind !== 'sqlite') query = query.forUpdate();
    return query.executeTakeFirst();
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

async function addDecision(
  queries: Queries<PolicyTables>,
  row: ApprovalRow,
  made: DecisionRow,
  decisions: readonly DecisionRow[],
): Promise<ApprovalRow> {
  await queries.insertInto('approval_decision').values(made).execute();
  const next: StoredApprovalState =
    made.decision === 'deny' ? 'denied' : stateAfter(requirementsOf(row), decisions);
  const changed = { state: next, decided_at_ms: next === 'pending' ? null : made.at_ms };
  await queries.updateTable('approval').set(changed).where('id', '=', row.id).execute();
  await countChange(queries, row.id);
  return { ...row, ...changed };
}

/** The approval's row is locked. */
async function countChange(queries: Queries<PolicyTables>, id: string): Promise<void> {
  const counted = await queries
    .updateTable('approval_revision')
    .set((row) => ({ revision: row('revision', '+', 1) }))
    .where('approval_id', '=', id)
    .executeTakeFirst();
  if (counted.numUpdatedRows > 0n) return;
  await queries
    .insertInto('approval_revision')
    .values({ approval_id: id, revision: 1, told: 0 })
    .execute();
}

/**
 * Identities of a vault and people of the control plane are not the same list. Who asked is taken for who
 * decided where it has that person's mail address, or id, as its subject or its name.
 */
function isSamePerson(
  { requester, requester_name: name }: ApprovalRow,
  { id, email }: RemoteDecision['approver'],
): boolean {
  const subject = requester.slice(requester.indexOf(':') + 1);
  const own = [name, subject, subject.slice(subject.lastIndexOf('|') + 1)];
  const theirs = [id, email].filter((text) => text !== '').map((text) => text.toLowerCase());
  return own.some((text) => theirs.includes(text.toLowerCase()));
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

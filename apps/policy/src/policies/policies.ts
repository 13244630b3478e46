/**
 * Policies and their versions. A version's text never changes: a change is the next version. Drafts
 * are reviewed and published; what is published is what new policy sets take.
 */

import { thoseThatFit } from '@keystead/access/answer-size';
import { differences } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch } from '@keystead/access/precondition';
import { type Note, TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  createPolicy,
  createPolicyComment,
  createPolicyVersion,
  deletePolicy,
  type diffPolicyVersion,
  type getPolicy,
  type getPolicyVersion,
  listPolicies,
  type listPolicyComments,
  type listPolicyVersions,
  type PolicySource,
  publishPolicyVersion,
  reviewPolicyVersion,
  updatePolicy,
  type validatePolicy,
} from '@keystead/contracts/policy';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { asksForFourEyes } from '../four-eyes.ts';
import { newestReplayOfDraft } from '../replays/replay-rows.ts';
import { requireBelow } from '../replays/replay-verdict.ts';
import { lineDiff } from './line-diff.ts';
import { checkSource, isValid } from './policy-check.ts';
import {
  findPolicy,
  findVersion,
  lockPolicy,
  type PolicyRow,
  showPolicy,
  showVersion,
  sourceDigest,
  sourceOf,
  type VersionRow,
} from './policy-rows.ts';
import {
  mayAskForFewerEyes,
  mayPublish,
  mayReview,
  type Step,
  type VersionState,
} from './version-state.ts';

type Shown = Output<typeof getPolicyVersion>;

@Injectable()
export class Policies {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listPolicies>,
  ): Promise<Output<typeof listPolicies>> {
    const { level, published } = input.query;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listPolicies.id, input.query, {
        fields: { name: {}, createdAt: { read: asDate }, updatedAt: { read: asDate } },
        where: {
          organizationId: ctx.organizationId,
          deletedAt: null,
          ...(level ? { level } : {}),
          ...(published ? { publishedVersion: published === 'true' ? { not: null } : null } : {}),
        },
        fetch: (page) => transaction.policy.findMany(page),
        valueOf: (row, sort) => row[sort as 'name'],
        idOf: (row) => row.id,
        toItem: showPolicy,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getPolicy>) {
    return this.work.read(ctx, async (transaction) =>
      showPolicy(await findPolicy(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createPolicy>) {
    checkPlace(input.body);
    return named(() =>
      this.work.write(ctx, createPolicy, input, async (transaction, note) => {
        const row = await addPolicy(transaction, ctx, input.body);
        note({ target: { kind: 'policy', id: toId('policy', row.id), name: row.name } });
        return showPolicy(row);
      }),
    );
  }

  async update(ctx: TenantCtx, input: Input<typeof updatePolicy>) {
    return named(() =>
      this.work.write(ctx, updatePolicy, input, async (transaction, note) => {
        const row = await lockPolicy(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        checkEyes(ctx, row, input.body.fourEyes);
        const updated = await transaction.policy.update({
          where: { organizationId_id: { organizationId: ctx.organizationId, id: row.id } },
          data: { ...input.body, updatedAt: new Date(), revision: { increment: 1 } },
        });
        note({
          target: { kind: 'policy', id: input.params.id, name: updated.name },
          changes: differences(row, input.body),
        });
        return showPolicy(updated);
      }),
    );
  }

  async remove(ctx: TenantCtx, input: Input<typeof deletePolicy>) {
    return this.work.write(ctx, deletePolicy, input, async (transaction, note) => {
      const row = await lockPolicy(transaction, ctx, input.params.id);
      checkMatch(input.ifMatch, row.revision, false);
      await removePolicy(transaction, ctx, row);
      note({ target: { kind: 'policy', id: input.params.id, name: row.name } });
      return null;
    });
  }

  // Versions

  async addVersion(ctx: TenantCtx, input: Input<typeof createPolicyVersion>): Promise<Shown> {
    const { source, note: why } = input.body;
    const problems = await checkSource(source);
    return this.work.write(ctx, createPolicyVersion, input, async (transaction, note) => {
      const policy = await lockPolicy(transaction, ctx, input.params.id);
      const row = await nextVersion(transaction, ctx, policy, source, why);
      tell(note, policy, row.version);
      return { ...showVersion(row), problems, replay: null };
    });
  }

  async listVersions(
    ctx: TenantCtx,
    input: Input<typeof listPolicyVersions>,
  ): Promise<Output<typeof listPolicyVersions>> {
    const { limit, before } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const { id: policyId } = await findPolicy(transaction, ctx, input.params.id);
      const rows = await transaction.policyVersion.findMany({
        where: {
          organizationId: ctx.organizationId,
          policyId,
          ...(before === undefined ? {} : { version: { lt: before } }),
        },
        orderBy: { version: 'desc' },
        take: limit + 1,
      });
      const shown = thoseThatFit(rows.slice(0, limit));
      return {
        items: shown.map(showVersion),
        nextBefore: rows.length > shown.length ? (shown.at(-1)?.version ?? null) : null,
      };
    });
  }

  async getVersion(ctx: TenantCtx, input: Input<typeof getPolicyVersion>): Promise<Shown> {
    const row = await this.#version(ctx, input.params);
    const replay = await this.work.read(ctx, (transaction) =>
      newestReplayOfDraft(transaction, ctx, row.policyId, row.version),
    );
    return { ...showVersion(row), problems: await checkSource(sourceOf(row)), replay };
  }

  async diff(
    ctx: TenantCtx,
    input: Input<typeof diffPolicyVersion>,
  ): Promise<Output<typeof diffPolicyVersion>> {
    const { version } = input.params;
    return this.work.read(ctx, async (transaction) => {
      const policy = await findPolicy(transaction, ctx, input.params.id);
      const row = await findVersion(transaction, ctx, policy.id, version);
      const { publishedVersion } = policy;
      const otherwise =
        publishedVersion !== null && publishedVersion !== version ? publishedVersion : version - 1;
      const from = input.query.against ?? (otherwise > 0 ? otherwise : null);
      const before =
        from === null ? '' : (await findVersion(transaction, ctx, policy.id, from)).content;
      const lines = lineDiff(before, row.content);
      const shown = thoseThatFit(lines);
      return { from, to: version, lines: shown, truncated: shown.length < lines.length };
    });
  }

  async review(ctx: TenantCtx, input: Input<typeof reviewPolicyVersion>): Promise<Shown> {
    const { verdict, comment } = input.body;
    const { version } = input.params;
    const problems = await checkSource(sourceOf(await this.#version(ctx, input.params)));
    if (verdict === 'approve' && !isValid(problems)) throw notValid();
    return this.work.write(ctx, reviewPolicyVersion, input, async (transaction, note) => {
      const policy = await lockPolicy(transaction, ctx, input.params.id);
      const row = await findVersion(transaction, ctx, policy.id, version);
      check(mayReview(factsOf(row), ctx.actor.id, await needsFourEyes(transaction, policy)));
      if (comment !== '') await addComment(transaction, ctx, row, comment);
      const updated = await moveOn(transaction, row, {
        state: verdict === 'approve' ? 'reviewed' : 'draft',
        reviewerId: verdict === 'approve' ? ctx.actor.id : null,
        reviewerName: verdict === 'approve' ? ctx.actor.name : null,
        reviewedAt: verdict === 'approve' ? new Date() : null,
      });
      tell(note, policy, version, { verdict });
      const replay = await newestReplayOfDraft(transaction, ctx, policy.id, version);
      return { ...showVersion(updated), problems, replay };
    });
  }

  async publish(ctx: TenantCtx, input: Input<typeof publishPolicyVersion>): Promise<Shown> {
    const { version } = input.params;
    const problems = await checkSource(sourceOf(await this.#version(ctx, input.params)));
    if (!isValid(problems)) throw notValid();
    return this.work.write(ctx, publishPolicyVersion, input, async (transaction, note) => {
      const policy = await lockPolicy(transaction, ctx, input.params.id);
      const row = await findVersion(transaction, ctx, policy.id, version);
      check(mayPublish(factsOf(row), ctx.actor.id, await needsFourEyes(transaction, policy)));
      const replay = await newestReplayOfDraft(transaction, ctx, policy.id, version);
      const { stopAboveNewDenials } = input.body;
      if (stopAboveNewDenials !== undefined) requireBelow(stopAboveNewDenials, replay);
      await transaction.policyVersion.updateMany({
        where: {
          organizationId: ctx.organizationId,
          policyId: policy.id,
          state: 'published',
        },
        data: { state: 'superseded' },
      });
      const updated = await moveOn(transaction, row, {
        state: 'published',
        publisherId: ctx.actor.id,
        publisherName: ctx.actor.name,
        publishedAt: new Date(),
      });
      await transaction.policy.update({
        where: { organizationId_id: { organizationId: ctx.organizationId, id: policy.id } },
        data: {
          publishedVersion: version,
          updatedAt: new Date(),
          revision: { increment: 1 },
        },
      });
      tell(note, policy, version, {
        publishedVersion: { from: policy.publishedVersion, to: version },
      });
      return { ...showVersion(updated), problems, replay };
    });
  }

  async validate(input: Input<typeof validatePolicy>): Promise<Output<typeof validatePolicy>> {
    const problems = await checkSource(input.body.source);
    return { valid: isValid(problems), problems };
  }

  // Comments

  async listComments(
    ctx: TenantCtx,
    input: Input<typeof listPolicyComments>,
  ): Promise<Output<typeof listPolicyComments>> {
    const row = await this.#version(ctx, input.params);
    const { limit, after } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const rows = await transaction.policyComment.findMany({
        where: {
          organizationId: ctx.organizationId,
          policyId: row.policyId,
          version: row.version,
          ...(after === undefined ? {} : { id: { gt: toUuid('policyComment', after) } }),
        },
        orderBy: { id: 'asc' },
        take: limit + 1,
      });
      const items = thoseThatFit(rows.slice(0, limit).map(showComment));
      return { items, nextAfter: rows.length > items.length ? (items.at(-1)?.id ?? null) : null };
    });
  }

  async comment(ctx: TenantCtx, input: Input<typeof createPolicyComment>) {
    return this.work.write(ctx, createPolicyComment, input, async (transaction, note) => {
      const policy = await findPolicy(transaction, ctx, input.params.id);
      const row = await findVersion(transaction, ctx, policy.id, input.params.version);
      tell(note, policy, row.version);
      return showComment(await addComment(transaction, ctx, row, input.body.text));
    });
  }

  async #version(
    ctx: TenantCtx,
    { id, version }: { id: string; version: number },
  ): Promise<VersionRow> {
    return this.work.read(ctx, async (transaction) => {
      const policy = await findPolicy(transaction, ctx, id);
      return findVersion(transaction, ctx, policy.id, version);
    });
  }
}

export interface NewPolicy {
  name: string;
  description: string;
  level: string;
  namespace: string | null;
  fourEyes: boolean;
  source: PolicySource;
  note?: string;
}

/** @throws ServiceError where the level and the namespace do not go together */
export function checkPlace({ level, namespace }: Pick<NewPolicy, 'level' | 'namespace'>): void {
  if ((level === 'namespace') === (namespace !== null)) return;
  throw invalidRequest('body', [
    {
      path: ['namespace'],
      message:
        level === 'namespace'
          ? 'must name the namespace that a policy of this level is about'
          : 'belongs to policies of the level namespace alone',
    },
  ]);
}

/** @throws ServiceError `permission_denied` */
export function checkEyes(ctx: TenantCtx, row: PolicyRow, fourEyes: boolean | undefined): void {
  if (!row.fourEyes || fourEyes !== false) return;
  const step = mayAskForFewerEyes(ctx.role);
  if (!step.may) {
    throw new ServiceError('permission_denied', { detail: `${row.name}: ${step.because}` });
  }
}

export async function addPolicy(
  transaction: Transaction,
  ctx: TenantCtx,
  { source, note = '', ...facts }: NewPolicy,
): Promise<PolicyRow> {
  const { organizationId } = ctx;
  const count = await transaction.policy.count({ where: { organizationId, deletedAt: null } });
  if (count >= limits.policiesPerOrganization) {
    throw new ServiceError('limit_reached', { detail: `at most ${count} policies` });
  }
  const row = await transaction.policy.create({
    data: { organizationId, id: newUuid(), ...facts, latestVersion: 0 },
  });
  await nextVersion(transaction, ctx, row, source, note);
  return { ...row, latestVersion: 1 };
}

export async function nextVersion(
  transaction: Transaction,
  ctx: TenantCtx,
  policy: PolicyRow,
  source: PolicySource,
  note: string,
): Promise<VersionRow> {
  const { organizationId, actor } = ctx;
  const version = policy.latestVersion + 1;
  if (version > limits.policyVersionsPerPolicy) {
    throw new ServiceError('limit_reached', {
      detail: `a policy has at most ${limits.policyVersionsPerPolicy} versions`,
    });
  }
  await transaction.policy.update({
    where: { organizationId_id: { organizationId, id: policy.id } },
    data: {
      latestVersion: version,
      ...(version > 1 ? { updatedAt: new Date(), revision: { increment: 1 } } : {}),
    },
  });
  return transaction.policyVersion.create({
    data: {
      organizationId,
      policyId: policy.id,
      version,
      format: source.format,
      content: source.text,
      digest: sourceDigest(source),
      note,
      authorId: actor.id,
      authorName: actor.name,
    },
  });
}

/** @throws ServiceError `conflict` where a living set holds it */
export async function removePolicy(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  policy: PolicyRow,
): Promise<void> {
  const holder = await transaction.policySet.findFirst({
    where: { organizationId, deletedAt: null, policyIds: { has: policy.id } },
    select: { name: true },
  });
  if (holder) {
    throw new ServiceError('conflict', { detail: `the policy set ${holder.name} holds it` });
  }
  await transaction.policy.update({
    where: { organizationId_id: { organizationId, id: policy.id } },
    data: { deletedAt: new Date(), revision: { increment: 1 } },
  });
}

/** A name that is taken is the caller's to change. */
export async function named<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isUniqueViolation(error)) {
      throw new ServiceError('conflict', { detail: 'the name is taken' });
    }
    throw error;
  }
}

async function addComment(
  transaction: Transaction,
  { organizationId, actor }: TenantCtx,
  { policyId, version }: VersionRow,
  text: string,
) {
  const count = await transaction.policyComment.count({
    where: { organizationId, policyId, version },
  });
  if (count >= limits.policyCommentsPerVersion) {
    throw new ServiceError('limit_reached', { detail: `at most ${count} comments on a version` });
  }
  return transaction.policyComment.create({
    data: {
      organizationId,
      id: newUuid(),
      policyId,
      version,
      authorId: actor.id,
      authorName: actor.name,
      text,
    },
  });
}

function showComment(row: Awaited<ReturnType<typeof addComment>>) {
  return {
    id: toId('policyComment', row.id),
    version: row.version,
    author: { id: row.authorId, name: row.authorName },
    text: row.text,
    createdAt: row.createdAt.toISOString(),
  };
}

function moveOn(
  transaction: Transaction,
  { organizationId, policyId, version }: VersionRow,
  data: Partial<
    Pick<
      VersionRow,
      | 'state'
      | 'reviewerId'
      | 'reviewerName'
      | 'reviewedAt'
      | 'publisherId'
      | 'publisherName'
      | 'publishedAt'
    >
  >,
) {
  return transaction.policyVersion.update({
    where: { organizationId_policyId_version: { organizationId, policyId, version } },
    data,
  });
}

/** The policy's own, or those of the whole organization. */
const needsFourEyes = async (transaction: Transaction, policy: PolicyRow) =>
  policy.fourEyes || (await asksForFourEyes(transaction, policy));

const factsOf = (row: VersionRow) => ({
  state: row.state as VersionState,
  authorId: row.authorId,
  reviewerId: row.reviewerId,
});

function check(step: Step): void {
  if (!step.may) throw new ServiceError('unprocessable', { detail: step.because });
}

const notValid = () =>
  new ServiceError('unprocessable', { detail: 'the version is not valid: see its problems' });

function tell(
  note: Note,
  policy: PolicyRow,
  version: number,
  changes: Record<string, unknown> = {},
): void {
  note({
    target: { kind: 'policy', id: toId('policy', policy.id), name: policy.name },
    changes: { version, ...changes },
  });
}

/**
 * Policies as files, for those who keep them in a repository: `apply` makes the policies like the
 * files, by name, and the same files again change nothing. A change is a draft: publishing it stays
 * a decision of its own.
 */

import { thoseThatFit } from '@keystead/access/answer-size';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { toId } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  applyPolicies,
  type exportPolicies,
  type PolicyLevel,
  type PolicyProblem,
} from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { type Answer, answerOf, type Step } from './plan-answer.ts';
import { addPolicy, checkEyes, checkPlace, named, nextVersion, removePolicy } from './policies.ts';
import { checkSource, whyNotApplied } from './policy-check.ts';
import { findVersion, lockPolicy, type PolicyRow, sourceDigest, sourceOf } from './policy-rows.ts';

type File = Input<typeof applyPolicies>['body']['files'][number];

@Injectable()
export class PolicyFiles {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async export(
    ctx: TenantCtx,
    input: Input<typeof exportPolicies>,
  ): Promise<Output<typeof exportPolicies>> {
    const { organizationId } = ctx;
    const { limit, after } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const rows = await transaction.policy.findMany({
        where: {
          organizationId,
          deletedAt: null,
          ...(after === undefined ? {} : { name: { gt: after } }),
        },
        orderBy: { name: 'asc' },
        take: limit + 1,
      });
      const shown = rows.slice(0, limit);
      const files = [];
      for (const row of shown) {
        const version = await transaction.policyVersion.findUniqueOrThrow({
          where: {
            organizationId_policyId_version: {
              organizationId,
              policyId: row.id,
              version: row.publishedVersion ?? row.latestVersion,
            },
          },
        });
        files.push({
          name: row.name,
          description: row.description,
          level: row.level as PolicyLevel,
          namespace: row.namespace,
          fourEyes: row.fourEyes,
          source: sourceOf(version),
        });
      }
      const fitting = thoseThatFit(files);
      return {
        files: fitting,
        nextAfter: rows.length > fitting.length ? (fitting.at(-1)?.name ?? null) : null,
      };
    });
  }

  async apply(ctx: TenantCtx, input: Input<typeof applyPolicies>): Promise<Answer> {
    const { files, mode } = input.body;
    const names = new Set(files.map(({ name }) => name.toLowerCase()));
    if (names.size !== files.length) {
      throw new ServiceError('unprocessable', { detail: 'two files have the same name' });
    }
    for (const file of files) checkPlace(file);
    const problems = new Map<File, PolicyProblem[]>();
    for (const file of files) problems.set(file, await checkSource(file.source));
    if (mode === 'plan') {
      return this.work.read(ctx, async (transaction) =>
        answerOf(false, await plan(transaction, ctx, input.body, problems)),
      );
    }
    return named(() =>
      this.work.write(ctx, applyPolicies, input, async (transaction, note) => {
        // One after the other: two that change the same policies in another order would wait for each other.
        await transaction.$executeRaw`
          select pg_advisory_xact_lock(hashtextextended(${`policy-files/${ctx.organizationId}`}, 0))`;
        const steps = await plan(transaction, ctx, input.body, problems);
        // A draft that is not valid yet may stay as it is: what was exported can be applied.
        const refusal = whyNotApplied(files, (file) =>
          steps.some(({ name, action }) => name === file.name && action === 'unchanged')
            ? []
            : (problems.get(file as File) ?? []),
        );
        if (refusal) throw refusal;
        const done = [];
        for (const step of steps) done.push(await carryOut(transaction, ctx, files, step));
        const changed = done.filter(({ action }) => action !== 'unchanged' && action !== 'keep');
        note({
          target: { kind: 'policyFiles', id: String(files.length) },
          changes: { steps: changed.map(({ action, name }) => `${action} ${name}`) },
        });
        return answerOf(true, done);
      }),
    );
  }
}

async function plan(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  { files, prune, keep }: Input<typeof applyPolicies>['body'],
  problems: ReadonlyMap<File, PolicyProblem[]>,
): Promise<Step[]> {
  const rows = await transaction.policy.findMany({
    where: { organizationId, deletedAt: null },
    orderBy: { name: 'asc' },
  });
  const byName = new Map(rows.map((row) => [row.name.toLowerCase(), row]));
  const steps: Step[] = [];
  for (const file of files) {
    const row = byName.get(file.name.toLowerCase());
    byName.delete(file.name.toLowerCase());
    const base = { name: file.name, problems: problems.get(file) ?? [] };
    if (!row) {
      steps.push({ ...base, action: 'create', policyId: null, version: 1, detail: 'a new draft' });
      continue;
    }
    const latest = await transaction.policyVersion.findUniqueOrThrow({
      where: {
        organizationId_policyId_version: {
          organizationId,
          policyId: row.id,
          version: row.latestVersion,
        },
      },
      select: { digest: true },
    });
    const differs = differencesOf(row, file, latest.digest);
    const isText = differs.includes('text');
    steps.push({
      ...base,
      action: differs.length === 0 ? 'unchanged' : 'update',
      policyId: toId('policy', row.id),
      version: isText ? row.latestVersion + 1 : row.latestVersion,
      detail: differs.join(', '),
    });
  }
  for (const name of keep) byName.delete(name.toLowerCase());
  if (prune) steps.push(...(await pruned(transaction, organizationId, [...byName.values()])));
  return steps;
}

/** @throws ServiceError where a file wants to move a policy to another level */
function differencesOf(row: PolicyRow, file: File, digest: string): string[] {
  if (row.level !== file.level || row.namespace !== file.namespace) {
    throw new ServiceError('unprocessable', {
      detail: `${file.name} is of another level: delete it and give the new one another name`,
    });
  }
  return [
    ...(row.description === file.description ? [] : ['description']),
    ...(row.fourEyes === file.fourEyes ? [] : ['fourEyes']),
    ...(sourceDigest(file.source) === digest ? [] : ['text']),
  ];
}

async function pruned(
  transaction: Transaction,
  organizationId: string,
  rows: readonly PolicyRow[],
): Promise<Step[]> {
  const sets = await transaction.policySet.findMany({
    where: { organizationId, deletedAt: null },
    select: { name: true, policyIds: true },
  });
  return rows.map((row) => {
    const holder = sets.find(({ policyIds }) => policyIds.includes(row.id));
    return {
      action: holder ? 'keep' : 'delete',
      name: row.name,
      policyId: toId('policy', row.id),
      version: null,
      detail: holder ? `the policy set ${holder.name} holds it` : 'no file names it',
      problems: [],
    };
  });
}

async function carryOut(
  transaction: Transaction,
  ctx: TenantCtx,
  files: readonly File[],
  step: Step,
): Promise<Step> {
  const file = files.find(({ name }) => name === step.name);
  if (step.action === 'create' && file) {
    const row = await addPolicy(transaction, ctx, { ...file, note: 'applied' });
    return { ...step, policyId: toId('policy', row.id) };
  }
  if (step.action === 'update' && file && step.policyId) {
    const row = await lockPolicy(transaction, ctx, step.policyId);
    const { description, fourEyes, source } = file;
    checkEyes(ctx, row, fourEyes);
    const isNext = step.version === row.latestVersion + 1;
    if (!isNext && step.version !== row.latestVersion) throw changedMeanwhile(row.name);
    const latest = await findVersion(transaction, ctx, row.id, row.latestVersion);
    // Somebody wrote a version between the plan and now.
    if (isNext !== (latest.digest !== sourceDigest(source))) throw changedMeanwhile(row.name);
    await transaction.policy.update({
      where: { organizationId_id: { organizationId: ctx.organizationId, id: row.id } },
      data: { description, fourEyes, updatedAt: new Date(), revision: { increment: 1 } },
    });
    if (isNext) {
      await nextVersion(transaction, ctx, row, source, 'applied');
    }
  }
  if (step.action === 'delete' && step.policyId) {
    await removePolicy(transaction, ctx, await lockPolicy(transaction, ctx, step.policyId));
  }
  return step;
}

const changedMeanwhile = (name: string) =>
  new ServiceError('conflict', { detail: `${name} was changed at the same moment: apply again` });

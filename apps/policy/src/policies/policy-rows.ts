/** Reads and shows policies and their versions. */
import { createHash } from 'node:crypto';
import { etagOf } from '@keystead/access/precondition';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Output } from '@keystead/contracts/operation';
import type {
  getPolicy,
  getPolicyVersion,
  PolicyLevel,
  PolicySource,
} from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';

export type PolicyRow = Awaited<ReturnType<typeof findPolicy>>;
export type VersionRow = Awaited<ReturnType<typeof findVersion>>;

/** @throws ServiceError `not_found` */
export async function findPolicy(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  id: string,
) {
  const row = await transaction.policy.findFirst({
    where: { organizationId, id: toUuid('policy', id), deletedAt: null },
  });
  if (!row) throw notFound();
  return row;
}

/** As {@link findPolicy}, and nobody else changes it until the end of the transaction. */
export async function lockPolicy(transaction: Transaction, ctx: TenantCtx, id: string) {
  await transaction.$queryRaw`
    select id from policy.policy
    where organization_id = ${ctx.organizationId}::uuid and id = ${toUuid('policy', id)}::uuid
    for no key update`;
  return findPolicy(transaction, ctx, id);
}

/** @throws ServiceError `not_found` */
export async function findVersion(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  policyId: string,
  version: number,
) {
  const row = await transaction.policyVersion.findUnique({
    where: { organizationId_policyId_version: { organizationId, policyId, version } },
  });
  if (!row) throw notFound();
  return row;
}

export function sourceDigest({ format, text }: PolicySource): string {
  return createHash('sha256').update(`${format}\n${text}`).digest('hex');
}

export function showPolicy(row: PolicyRow): Output<typeof getPolicy> {
  return {
    id: toId('policy', row.id),
    name: row.name,
    description: row.description,
    level: row.level as PolicyLevel,
    namespace: row.namespace,
    fourEyes: row.fourEyes,
    latestVersion: row.latestVersion,
    publishedVersion: row.publishedVersion,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

export function showVersion(
  row: VersionRow,
): Omit<Output<typeof getPolicyVersion>, 'problems' | 'replay'> {
  const person = (id: string | null, name: string | null) =>
    id === null ? null : { id, name: name ?? '' };
  return {
    policyId: toId('policy', row.policyId),
    version: row.version,
    state: row.state as 'draft',
    source: sourceOf(row),
    digest: row.digest,
    note: row.note,
    author: { id: row.authorId, name: row.authorName },
    createdAt: row.createdAt.toISOString(),
    reviewer: person(row.reviewerId, row.reviewerName),
    reviewedAt: row.reviewedAt?.toISOString() ?? null,
    publisher: person(row.publisherId, row.publisherName),
    publishedAt: row.publishedAt?.toISOString() ?? null,
  };
}

export function sourceOf(row: { format: string; content: string }): PolicySource {
  return { format: row.format as 'cedar', text: row.content };
}

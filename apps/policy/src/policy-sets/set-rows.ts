/** Reads and shows policy sets, their signed versions, and the policies they choose. */
import { etagOf } from '@keystead/access/precondition';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Output } from '@keystead/contracts/operation';
import {
  type createPolicySetVersion,
  type PolicyLevel,
  type PolicySetSettings,
  policySetSettings,
  type showPolicySet,
} from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';
import type { ChosenPolicy } from './set-content.ts';

export type SetRow = Awaited<ReturnType<typeof findSet>>;

/** @throws ServiceError `not_found` */
export async function findSet(transaction: Transaction, { organizationId }: TenantCtx, id: string) {
  const row = await transaction.policySet.findFirst({
    where: { organizationId, id: toUuid('policySet', id), deletedAt: null },
  });
  if (!row) throw notFound();
  return row;
}

/** As {@link findSet}, and nobody else changes it until the end of the transaction. */
export async function lockSet(transaction: Transaction, ctx: TenantCtx, id: string) {
  await transaction.$queryRaw`
    select id from policy.policy_set
    where organization_id = ${ctx.organizationId}::uuid and id = ${toUuid('policySet', id)}::uuid
    for no key update`;
  return findSet(transaction, ctx, id);
}

export const settingsOf = (row: { settings: unknown }): PolicySetSettings =>
  policySetSettings.parse(row.settings);

export function showSet(row: SetRow): Omit<Output<typeof showPolicySet>, 'replay'> {
  return {
    id: toId('policySet', row.id),
    name: row.name,
    description: row.description,
    policyIds: row.policyIds.map((id) => toId('policy', id)),
    settings: settingsOf(row),
    latestNumber: row.latestNumber,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

export function showSetVersion(row: {
  setId: string;
  number: number;
  digest: string;
  predecessorDigest: string;
  bytes: number;
  note: string;
  createdBy: string;
  createdAt: Date;
}): Output<typeof createPolicySetVersion> {
  return {
    policySetId: toId('policySet', row.setId),
    number: row.number,
    digest: row.digest,
    predecessorDigest: row.predecessorDigest,
    bytes: row.bytes,
    note: row.note,
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
  };
}

/** Without the content: it may be megabytes. */
export function listSetVersions(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  setId: string,
  before: number | undefined,
  take: number,
) {
  return transaction.$queryRaw<Parameters<typeof showSetVersion>[0][]>`
    select set_id as "setId", number, digest, predecessor_digest as "predecessorDigest",
      octet_length(content) as bytes, note, created_by as "createdBy", created_at as "createdAt"
    from policy.policy_set_version
    where organization_id = ${organizationId}::uuid and set_id = ${setId}::uuid
      and number < ${before ?? 2_147_483_647}
    order by number desc limit ${take}`;
}

/**
 * The published versions of the policies, in their order, with drafts in place of some.
 * @throws ServiceError naming the policy that is not there or not published
 */
export async function choosePolicies(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  policyIds: readonly string[],
  drafts: ReadonlyMap<string, number> = new Map(),
): Promise<ChosenPolicy[]> {
  const rows = await transaction.policy.findMany({
    where: { organizationId, id: { in: [...policyIds] }, deletedAt: null },
  });
  const policies = new Map(rows.map((row) => [row.id, row]));
  const wanted = policyIds.map((id, index) => {
    const policy = policies.get(id);
    const version = drafts.get(id) ?? policy?.publishedVersion ?? null;
    if (!policy || version === null) {
      throw invalidRequest('body', [
        {
          path: ['policyIds', index],
          message: policy ? `${policy.name} has no published version` : 'there is no such policy',
        },
      ]);
    }
    return { policy, version };
  });
  const versions = await transaction.policyVersion.findMany({
    where: {
      organizationId,
      OR: wanted.map(({ policy, version }) => ({ policyId: policy.id, version })),
    },
    select: { policyId: true, version: true, format: true, content: true },
  });
  const texts = new Map(versions.map((row) => [`${row.policyId}/${row.version}`, row]));
  return wanted.map(({ policy, version }) => {
    const text = texts.get(`${policy.id}/${version}`);
    if (!text) throw notFound();
    return {
      id: toId('policy', policy.id),
      name: policy.name,
      version,
      level: policy.level as PolicyLevel,
      namespace: policy.namespace,
      source: { format: text.format as 'cedar', text: text.content },
    };
  });
}

/**
 * Policy sets, and the signed versions that agents hold. The versions of an organization are one
 * chain: each has the next number and names the digest of the one before, whatever set it is of.
 */
import { differences } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch } from '@keystead/access/precondition';
import { bytes, TenantWork } from '@keystead/access/tenant-work';
import { policySetDigest, policySetMaxBytes } from '@keystead/agent-protocol/policy-set-signature';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  createPolicySet,
  createPolicySetVersion,
  deletePolicySet,
  listPolicySets,
  type listPolicySetVersions,
  type PolicySetSettings,
  type showPolicySet,
  updatePolicySet,
} from '@keystead/contracts/policy';
import { type PolicySetContent, policySetForm } from '@keystead/contracts/policy-set-content';
import type { Transaction } from '@keystead/database/database';
import { compile } from '@keystead/policy-engine/compile';
import { Inject, Injectable } from '@nestjs/common';
import { named } from '../policies/policies.ts';
import { newestReplayOfSet } from '../replays/replay-rows.ts';
import { OrganizationSigners, type Signer, signWith } from '../signing/organization-signers.ts';
import { checkSettings, contentBytes, engineSet, hindrance } from './set-content.ts';
import {
  choosePolicies,
  findSet,
  listSetVersions,
  lockSet,
  settingsOf,
  showSet,
  showSetVersion,
} from './set-rows.ts';

export interface NewSetVersion {
  setId: string;
  set: Record<string, unknown>;
  settings: Pick<PolicySetSettings, 'staleness' | 'configuration'>;
  note: string;
  /** `false`: it does not say what the set says now, so that nobody rolls it out by leaving out a number. */
  isNewest?: boolean;
}

@Injectable()
export class PolicySets {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(OrganizationSigners) private readonly signers: OrganizationSigners,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listPolicySets>,
  ): Promise<Output<typeof listPolicySets>> {
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listPolicySets.id, input.query, {
        fields: { name: {}, createdAt: { read: asDate }, updatedAt: { read: asDate } },
        where: { organizationId: ctx.organizationId, deletedAt: null },
        fetch: (page) => transaction.policySet.findMany(page),
        valueOf: (row, sort) => row[sort as 'name'],
        idOf: (row) => row.id,
        toItem: showSet,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof showPolicySet>) {
    return this.work.read(ctx, async (transaction) => {
      const row = await findSet(transaction, ctx, input.params.id);
      return { ...showSet(row), replay: await newestReplayOfSet(transaction, ctx, row.id) };
    });
  }

  async create(ctx: TenantCtx, input: Input<typeof createPolicySet>) {
    const { organizationId } = ctx;
    const { policyIds: chosen, ...facts } = input.body;
    const policyIds = chosen.map((id) => toUuid('policy', id));
    await checkSettings(facts.settings);
    return named(() =>
      this.work.write(ctx, createPolicySet, input, async (transaction, note) => {
        const count = await transaction.policySet.count({
          where: { organizationId, deletedAt: null },
        });
        if (count >= limits.policySetsPerOrganization) {
          throw new ServiceError('limit_reached', { detail: `at most ${count} policy sets` });
        }
        await checkChoice(transaction, ctx, policyIds);
        const row = await transaction.policySet.create({
          data: { organizationId, id: newUuid(), ...facts, policyIds },
        });
        note({ target: { kind: 'policySet', id: toId('policySet', row.id), name: row.name } });
        return showSet(row);
      }),
    );
  }

  async update(ctx: TenantCtx, input: Input<typeof updatePolicySet>) {
    const { policyIds: chosen, ...facts } = input.body;
    const policyIds = chosen?.map((id) => toUuid('policy', id));
    if (facts.settings) await checkSettings(facts.settings);
    return named(() =>
      this.work.write(ctx, updatePolicySet, input, async (transaction, note) => {
        const row = await lockSet(transaction, ctx, input.params.id);
        checkMatch(input.ifMatch, row.revision, false);
        if (policyIds) await checkChoice(transaction, ctx, policyIds);
        const updated = await transaction.policySet.update({
          where: { organizationId_id: { organizationId: ctx.organizationId, id: row.id } },
          data: {
            ...facts,
            ...(policyIds ? { policyIds } : {}),
            updatedAt: new Date(),
            revision: { increment: 1 },
          },
        });
        note({
          target: { kind: 'policySet', id: input.params.id, name: updated.name },
          changes: differences(showSet(row), input.body),
        });
        return showSet(updated);
      }),
    );
  }

  async remove(ctx: TenantCtx, input: Input<typeof deletePolicySet>) {
    const { organizationId } = ctx;
    return this.work.write(ctx, deletePolicySet, input, async (transaction, note) => {
      const row = await lockSet(transaction, ctx, input.params.id);
      checkMatch(input.ifMatch, row.revision, false);
      const [held] = await transaction.$queryRaw<{ vaults: number }[]>`
        select count(*)::int as vaults from policy.policy_set_assignment a
        join policy.policy_set_version v
          on v.organization_id = a.organization_id and v.number = a.version
        join registry.vault r on r.organization_id = a.organization_id and r.id = a.vault_id
        where a.organization_id = ${organizationId}::uuid and v.set_id = ${row.id}::uuid
          and r.deleted_at is null`;
      if (held && held.vaults > 0) {
        throw new ServiceError('conflict', { detail: `${held.vaults} vaults are assigned it` });
      }
      await transaction.policySet.update({
        where: { organizationId_id: { organizationId, id: row.id } },
        data: { deletedAt: new Date(), revision: { increment: 1 } },
      });
      note({ target: { kind: 'policySet', id: input.params.id, name: row.name } });
      return null;
    });
  }

  // Versions

  /** Checks the whole, then numbers and signs it. */
  async addVersion(
    ctx: TenantCtx,
    input: Input<typeof createPolicySetVersion>,
  ): Promise<Output<typeof createPolicySetVersion>> {
    const { chosen, row } = await this.work.read(ctx, async (transaction) => {
      const row = await findSet(transaction, ctx, input.params.id);
      return { row, chosen: await choosePolicies(transaction, ctx, row.policyIds) };
    });
    const settings = settingsOf(row);
    const set = engineSet(chosen, settings);
    const compiled = await compile(set);
    if (!compiled.ok) {
      throw new ServiceError('unprocessable', { detail: hindrance(chosen, compiled.problems) });
    }
    const signer = await this.signers.current(ctx);
    return this.work.write(ctx, createPolicySetVersion, input, async (transaction, note) => {
      const current = await lockSet(transaction, ctx, input.params.id);
      if (current.revision !== row.revision) {
        throw new ServiceError('conflict', { detail: 'the set was changed at the same moment' });
      }
      const added = await addSetVersion(transaction, ctx, signer, {
        setId: row.id,
        set,
        settings,
        note: input.body.note,
      });
      note({
        target: { kind: 'policySet', id: input.params.id, name: row.name },
        changes: { number: added.number, digest: added.digest },
      });
      return added;
    });
  }

  async listVersions(
    ctx: TenantCtx,
    input: Input<typeof listPolicySetVersions>,
  ): Promise<Output<typeof listPolicySetVersions>> {
    const { limit, before } = input.query;
    return this.work.read(ctx, async (transaction) => {
      const { id } = await findSet(transaction, ctx, input.params.id);
      const rows = await listSetVersions(transaction, ctx, id, before, limit + 1);
      const shown = rows.slice(0, limit);
      return {
        items: shown.map(showSetVersion),
        nextBefore: rows.length > limit ? (shown.at(-1)?.number ?? null) : null,
      };
    });
  }
}

/** Numbers and signs a set inside a transaction: one after the other in an organization. */
export async function addSetVersion(
  transaction: Transaction,
  ctx: TenantCtx,
  signer: Signer,
  { setId, set, settings, note, isNewest = true }: NewSetVersion,
): Promise<Output<typeof createPolicySetVersion>> {
  const { organizationId } = ctx;
  await transaction.$executeRaw`
    select pg_advisory_xact_lock(hashtextextended(${`policy-set-number/${organizationId}`}, 0))`;
  const last = await transaction.policySetVersion.findFirst({
    where: { organizationId },
    orderBy: { number: 'desc' },
    select: { number: true, digest: true },
  });
  const number = (last?.number ?? 0) + 1;
  if (number > limits.policySetVersionsPerOrganization) {
    throw new ServiceError('limit_reached', { detail: `at most ${number - 1} signed sets` });
  }
  const content: PolicySetContent = {
    form: policySetForm,
    organizationId: toId('organization', organizationId),
    setId: toId('policySet', setId),
    number,
    predecessor: last?.digest ?? '',
    createdAt: new Date().toISOString(),
    staleness: settings.staleness,
    configuration: settings.configuration,
    set,
  };
  const encoded = contentBytes(content);
  if (encoded.length > policySetMaxBytes) {
    throw new ServiceError('limit_reached', {
      detail: `the set has ${encoded.length} bytes, at most ${policySetMaxBytes} are sent`,
    });
  }
  const digest = policySetDigest(encoded);
  const { signature, chain } = signWith(signer, digest);
  const row = {
    organizationId,
    number,
    setId,
    digest,
    predecessorDigest: content.predecessor,
    note,
    createdBy: ctx.actor.name,
    createdAt: new Date(content.createdAt),
  };
  await transaction.policySetVersion.create({
    data: {
      ...row,
      content: bytes(encoded),
      signature: bytes(signature),
      signerChain: chain.map(bytes),
    },
  });
  if (isNewest) {
    await transaction.policySet.update({
      where: { organizationId_id: { organizationId, id: setId } },
      data: { latestNumber: number },
    });
  }
  return showSetVersion({ ...row, bytes: encoded.length });
}

async function checkChoice(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  policyIds: readonly string[],
): Promise<void> {
  // Nobody deletes them meanwhile.
  const found = await transaction.$queryRaw<{ id: string }[]>`
    select id from policy.policy
    where organization_id = ${organizationId}::uuid and id = any(${[...policyIds]}::uuid[])
      and deleted_at is null
    order by id for share`;
  if (found.length !== policyIds.length) {
    throw new ServiceError('unprocessable', { detail: 'one of the policies does not exist' });
  }
}

import { randomBytes } from 'node:crypto';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import { permissionsOf } from '@keystead/contracts/permissions';
import { Database } from '@keystead/database/database';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PolicySets } from './policy-sets.ts';

let urls: TestDatabase;
let database: Database;
let policySets: PolicySets;

beforeAll(async () => {
  urls = await createTestDatabase();
  database = new Database({ serviceUrl: urls.serviceUrl, acrossUrl: urls.acrossUrl });
  policySets = new PolicySets(new TenantWork(database, new InstallationKey(randomBytes(32))));
});
afterAll(async () => {
  await database.close();
  await urls.drop();
});

async function newVault(reported: readonly (number | null)[] = []) {
  const organizationId = newUuid();
  const vaultId = newUuid();
  await database.withTenant({ organizationId }, async (transaction) => {
    await transaction.organization.create({ data: { organizationId, name: 'Example' } });
    await transaction.vault.create({ data: { organizationId, id: vaultId, name: 'v' } });
    for (const policySetVersion of reported) {
      const agentId = newUuid();
      await transaction.agent.create({
        data: {
          organizationId,
          id: agentId,
          vaultId,
          name: 'a',
          serialNumber: agentId,
          notBefore: new Date(),
          expiresAt: new Date(),
        },
      });
      await transaction.agentLiveness.create({
        data: {
          organizationId,
          agentId,
          vaultId,
          policySetVersion,
          offlineAfterMs: 270_000,
          intervalMs: 30_000,
        },
      });
    }
  });
  const ctx: TenantCtx = {
    organizationId,
    actor: { kind: 'person', id: 'usr', name: 'Admin' },
    role: 'admin',
    permissions: [...permissionsOf.admin],
    personId: newUuid(),
    credentialId: newUuid(),
    requestId: newUuid(),
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
  return { ctx, vaultId };
}
type Vault = Awaited<ReturnType<typeof newVault>>;

const show = ({ ctx, vaultId }: Vault) =>
  policySets.get(ctx, {
    params: { id: toId('vault', vaultId) },
    query: {},
    body: {},
    ifMatch: null,
  });
const assign = ({ ctx, vaultId }: Vault, version: number, ifMatch: string | null = null) =>
  policySets.assign(ctx, {
    params: { id: toId('vault', vaultId) },
    query: {},
    body: { version },
    ifMatch,
  });

describe('the policy set of a vault', () => {
  it('is shown beside what its agents report', async () => {
    const vault = await newVault([3, 3, 2, null, 4]);
    expect(await show(vault)).toMatchObject({
      version: null,
      assignedAt: null,
      agents: { total: 5, current: 0, behind: 4, unreported: 1 },
    });
    expect(await assign(vault, 3)).toMatchObject({
      version: 3,
      agents: { total: 5, current: 2, behind: 2, unreported: 1 },
    });
  });

  it('never goes back, also when two assign at once', async () => {
    const vault = await newVault();
    await assign(vault, 5);
    await expect(assign(vault, 4)).rejects.toMatchObject({ code: 'unprocessable' });
    for (let round = 1; round <= 10; round += 1) {
      const high = 5 + round * 10;
      await Promise.allSettled([assign(vault, high), assign(vault, high - 1)]);
      expect((await show(vault)).version).toBe(high);
    }
  });

  it('changes only for those who saw the latest, where they say what they saw', async () => {
    const vault = await newVault();
    const { etag } = await show(vault);
    const first = await assign(vault, 1, etag);
    expect(first.etag).not.toBe(etag);
    await expect(assign(vault, 2, etag)).rejects.toMatchObject({ code: 'precondition_failed' });
    const settled = await Promise.allSettled([
      assign(vault, 2, first.etag),
      assign(vault, 2, first.etag),
    ]);
    expect(settled.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect((await assign(vault, 3, '*')).version).toBe(3);
  });

  it('is the same nothing for a foreign, a deleted and an absent vault', async () => {
    const [own, foreign, deleted] = await Promise.all([newVault(), newVault(), newVault()]);
    await assign(foreign, 1);
    await database.withTenant(deleted.ctx, (transaction) =>
      transaction.vault.updateMany({ data: { deletedAt: new Date() } }),
    );
    const asks = [
      { ctx: own.ctx, vaultId: foreign.vaultId },
      { ctx: own.ctx, vaultId: newUuid() },
      deleted,
    ];
    for (const act of [show, (vault: Vault) => assign(vault, 9)]) {
      const errors = await Promise.all(asks.map((vault) => act(vault).catch((error) => error)));
      expect(errors[0]).toMatchObject({ code: 'not_found' });
      for (const error of errors) expect(error).toEqual(errors[0]);
    }
    expect((await show(foreign)).version).toBe(1);
  });

  it('is assigned with an audit row in the same transaction', async () => {
    const vault = await newVault();
    await assign(vault, 1);
    await assign(vault, 2);
    await expect(assign(vault, 1)).rejects.toThrow();
    const rows = await database.withTenant(vault.ctx, (transaction) =>
      transaction.auditEvent.findMany({ orderBy: { id: 'asc' } }),
    );
    expect(rows.map(({ action, changes }) => [action, changes])).toEqual([
      ['policy-sets.assign', { version: { from: null, to: 1 } }],
      ['policy-sets.assign', { version: { from: 1, to: 2 } }],
    ]);
  });
});

import { newUuid, toId } from '@keystead/contracts/ids';
import { effectivePolicies } from '@keystead/contracts/policy';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { given, PolicyWorld, type TestVault } from '../policy.fixture.ts';

let world: PolicyWorld;

beforeAll(async () => {
  world = await PolicyWorld.open();
});
afterAll(() => world.close());

const show = ({ ctx, vaultId }: TestVault) =>
  world.assignments.get(ctx, given({ params: { id: toId('vault', vaultId) } }));

/** A vault in an organization that has this many signed sets. */
async function vaultWithSets(sets: number, reported: readonly (number | null)[] = []) {
  const organization = await world.organization();
  const vault = await world.vault(organization, reported);
  if (sets > 0) {
    const { set } = await world.signedSet(organization);
    for (let number = 2; number <= sets; number += 1) await world.sign(organization, set.id);
  }
  return vault;
}

describe('the policy set of a vault', () => {
  it('is shown beside what its agents report', async () => {
    const vault = await vaultWithSets(3, [3, 3, 2, null, 4]);
    expect(await show(vault)).toMatchObject({
      version: null,
      digest: null,
      assignedAt: null,
      agents: { total: 5, current: 0, behind: 4, unreported: 1 },
    });
    expect(await world.assign(vault, 3)).toMatchObject({
      version: 3,
      digest: expect.stringMatching(/^[0-9a-f]{64}$/),
      agents: { total: 5, current: 2, behind: 2, unreported: 1 },
    });
    expect(world.nudges).toContain('policySets');
  });

  it('never goes back, and is a signed set of this organization', async () => {
    const vault = await vaultWithSets(9);
    await vaultWithSets(12);
    await world.assign(vault, 5);
    await expect(world.assign(vault, 4)).rejects.toMatchObject({ code: 'unprocessable' });
    await expect(world.assign(vault, 10)).rejects.toMatchObject({ code: 'unprocessable' });
    for (const [low, high] of [
      [6, 7],
      [8, 9],
    ] as const) {
      await Promise.allSettled([world.assign(vault, high), world.assign(vault, low)]);
      expect((await show(vault)).version).toBe(high);
    }
  });

  it('changes only for those who saw the latest, where they say what they saw', async () => {
    const vault = await vaultWithSets(3);
    const { etag } = await show(vault);
    const first = await world.assign(vault, 1, etag);
    expect(first.etag).not.toBe(etag);
    await expect(world.assign(vault, 2, etag)).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    const settled = await Promise.allSettled([
      world.assign(vault, 2, first.etag),
      world.assign(vault, 2, first.etag),
    ]);
    expect(settled.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect((await world.assign(vault, 3, '*')).version).toBe(3);
  });

  it('is the same nothing for a foreign, a deleted and an absent vault', async () => {
    const [own, foreign, deleted] = await Promise.all([
      vaultWithSets(1),
      vaultWithSets(1),
      vaultWithSets(1),
    ]);
    await world.assign(foreign, 1);
    await world.database.withTenant(deleted.ctx, (transaction) =>
      transaction.vault.updateMany({ data: { deletedAt: new Date() } }),
    );
    const asks = [{ ...own, vaultId: foreign.vaultId }, { ...own, vaultId: newUuid() }, deleted];
    for (const act of [show, (vault: TestVault) => world.assign(vault, 1)]) {
      const errors = await Promise.all(
        asks.map((vault) => act(vault).catch((error: unknown) => error)),
      );
      expect(errors[0]).toMatchObject({ code: 'not_found' });
      for (const error of errors) expect(error).toEqual(errors[0]);
    }
    expect((await show(foreign)).version).toBe(1);
  });

  it('is assigned with an audit row in the same transaction', async () => {
    const vault = await vaultWithSets(2);
    await world.assign(vault, 1);
    await world.assign(vault, 2);
    await expect(world.assign(vault, 1)).rejects.toThrow();
    const rows = await world.database.withTenant(vault.ctx, (transaction) =>
      transaction.auditEvent.findMany({
        where: { action: 'policy-sets.assign' },
        orderBy: { id: 'asc' },
      }),
    );
    expect(rows.map(({ changes }) => changes)).toEqual([
      { version: { from: null, to: 1 } },
      { version: { from: 1, to: 2 } },
    ]);
  });

  it('shows the policies that hold by level, with the version of each', async () => {
    const organization = await world.organization();
    const vault = await world.vault(organization);
    const ids = [
      await world.published(organization, 'forbid(principal, action, resource);', {
        level: 'organization',
      }),
      await world.published(organization),
      await world.published(organization, 'permit(principal, action, resource);', {
        level: 'namespace',
        namespace: 'payments',
      }),
    ];
    const { signed } = await world.signedSet(organization, ids);
    await world.assign(vault, signed.number);
    const effective = (namespace?: string, query: Record<string, unknown> = {}) =>
      world.assignments.effective(
        vault.ctx,
        given<typeof effectivePolicies>({
          params: { id: toId('vault', vault.vaultId) },
          query: effectivePolicies.query.parse({ namespace, ...query }),
        }),
      );
    expect(await effective('other')).toMatchObject({
      number: signed.number,
      levels: [
        { level: 'organization', policies: [{ policyId: ids[0], version: 1 }] },
        { level: 'vault', policies: [{ policyId: ids[1], version: 1 }] },
      ],
    });
    expect((await effective('payments')).levels.map(({ level }) => level)).toEqual([
      'organization',
      'vault',
      'namespace',
    ]);
    const first = await effective('payments', { limit: 2 });
    expect([first.total, first.nextAfter]).toEqual([3, 2]);
    const last = await effective('payments', { limit: 2, after: first.nextAfter });
    expect(last.levels.map(({ policies }) => policies.map(({ policyId }) => policyId))).toEqual([
      [],
      [],
      [ids[2]],
    ]);
    expect(last.nextAfter).toBeNull();
    expect(first.levels[0]?.policies[0]?.name).toMatch(/^policy /);
  });

  it('shows of a secret what can apply to it at all', async () => {
    const organization = await world.organization();
    const vault = await world.vault(organization);
    const texts = [
      'permit(principal, action, resource);',
      'permit(principal, action, resource in Namespace::"payments");',
      'permit(principal, action, resource in Namespace::"other");',
      'permit(principal, action, resource) when { resource.name like "db/*" };',
      'permit(principal is User, action, resource) when { resource.name like "web/*" };',
      'forbid(principal, action == Action::"key.rotate", resource);',
      'forbid(principal, action, resource == Secret::"payments:db/a") unless { principal in Role::"x" };',
    ];
    const ids: string[] = [];
    for (const text of texts) ids.push(await world.published(organization, text));
    const { signed } = await world.signedSet(organization, ids);
    await world.assign(vault, signed.number);
    const of = async (secret: string) => {
      const { levels } = await world.assignments.effective(
        vault.ctx,
        given<typeof effectivePolicies>({
          params: { id: toId('vault', vault.vaultId) },
          query: effectivePolicies.query.parse({ namespace: 'payments', secret }),
        }),
      );
      return levels.flatMap(({ policies }) =>
        policies.map(({ policyId }) => ids.indexOf(policyId ?? '')),
      );
    };
    expect(await of('db/a')).toEqual([0, 1, 3, 6]);
    expect(await of('web/b')).toEqual([0, 1, 4]);
  });
});

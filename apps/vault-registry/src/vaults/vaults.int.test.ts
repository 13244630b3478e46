import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import {
  createVault,
  deleteVault,
  getVault,
  listAgents,
  listVaults,
  updateVault,
  vaultStatuses,
} from '@keystead/contracts/registry';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { given, openRegistry, type Registry, setLiveness } from '../registry.fixture.ts';
import { type AgentCounts, vaultStatusOf } from './vault-status.ts';

let registry: Registry;
beforeAll(async () => {
  registry = await openRegistry();
});
afterAll(() => registry.close());

const create = (ctx: TenantCtx, body: Record<string, unknown>) =>
  registry.vaults.create(ctx, given(createVault, { body }));
const list = (ctx: TenantCtx, query: Record<string, string> = {}) =>
  registry.vaults.list(ctx, given(listVaults, { query }));
const update = (ctx: TenantCtx, id: string, body: Record<string, unknown>, ifMatch = '*') =>
  registry.vaults.update(ctx, given(updateVault, { params: { id }, body, ifMatch }));
const remove = (ctx: TenantCtx, id: string) =>
  registry.vaults.delete(ctx, given(deleteVault, { params: { id } }));
const get = (ctx: TenantCtx, id: string) =>
  registry.vaults.get(ctx, given(getVault, { params: { id } }));

/** All pages, one after the other. */
async function walk(ctx: TenantCtx, query: Record<string, string>) {
  const items: Awaited<ReturnType<typeof list>>['items'] = [];
  let cursor: string | null = null;
  do {
    const page = await list(ctx, { ...query, ...(cursor === null ? {} : { cursor }) });
    items.push(...page.items);
    cursor = page.nextCursor;
  } while (cursor !== null);
  return items;
}

/** A vault with agents in these states; `unmet` has no row of monitoring, `revoked` is revoked. */
async function vaultWith(ctx: TenantCtx, name: string, agents: readonly string[]) {
  const vaultId = newUuid();
  const { organizationId } = ctx;
  await registry.database.withTenant(ctx, async (transaction) => {
    await transaction.vault.create({ data: { organizationId, id: vaultId, name } });
    for (const status of agents) {
      const agentId = newUuid();
      await transaction.agent.create({
        data: {
          organizationId,
          id: agentId,
          vaultId,
          name: status,
          serialNumber: agentId,
          notBefore: new Date(),
          expiresAt: new Date(),
          revokedAt: status === 'revoked' ? new Date() : null,
          deletedAt: status === 'deleted' ? new Date() : null,
        },
      });
      if (status === 'unmet') continue;
      const known = status === 'revoked' || status === 'deleted' ? 'online' : status;
      await setLiveness(transaction, { organizationId, agentId, vaultId }, { status: known });
    }
  });
  return toId('vault', vaultId);
}

describe('the list of vaults', () => {
  it('shows and filters every combination of agents as the decision about one vault says', async () => {
    const ctx = await registry.organization();
    const states = ['online', 'late', 'offline', 'stopped', 'pending', 'unmet'] as const;
    const expected = new Map<string, string>();
    for (let mask = 0; mask < 2 ** states.length; mask += 1) {
      const present = states.filter((_, bit) => mask & (1 << bit));
      const count = (state: string) => (present as string[]).filter((one) => one === state).length;
      const counts: AgentCounts = {
        total: present.length,
        online: count('online'),
        late: count('late'),
        offline: count('offline'),
        stopped: count('stopped'),
        pending: count('pending') + count('unmet'),
      };
      const name = `vault ${String(mask).padStart(2, '0')}`;
      await vaultWith(ctx, name, [...present, 'revoked', 'deleted']);
      expected.set(name, vaultStatusOf(counts));
    }
    const all = await walk(ctx, { limit: '7' });
    expect(new Map(all.map(({ name, status }) => [name, status]))).toEqual(expected);
    for (const status of vaultStatuses) {
      const some = await walk(ctx, { limit: '5', status, sort: '-name' });
      const wanted = [...expected].filter(([, is]) => is === status).map(([name]) => name);
      expect(some.map(({ name }) => name)).toEqual(wanted.reverse());
    }
    const gone = await walk(ctx, { limit: '5', status: 'offline,stopped' });
    expect(gone.map(({ name }) => name)).toEqual(
      [...expected].filter(([, is]) => is === 'offline' || is === 'stopped').map(([name]) => name),
    );
  });

  it.each(['name', '-name', 'createdAt', '-createdAt', 'updatedAt', '-updatedAt'])(
    'has every vault once in the order of %s, while others come and go',
    async (sort) => {
      const ctx = await registry.organization();
      for (let index = 0; index < 12; index += 1)
        await create(ctx, { name: `v${index % 4}-${index}` });
      // Equal sort values: only the id tells them apart.
      await registry.database.withTenant(
        ctx,
        (transaction) => transaction.$executeRaw`
          update registry.vault set created_at = date_trunc('day', created_at),
            updated_at = date_trunc('day', updated_at)`,
      );
      const whole = (await list(ctx, { sort })).items.map(({ id }) => id);
      const first = await list(ctx, { sort, limit: '5' });
      await create(ctx, { name: 'v0' });
      const seen = first.items.map(({ id }) => id);
      let cursor = first.nextCursor;
      while (cursor !== null) {
        const page = await list(ctx, { sort, limit: '5', cursor });
        seen.push(...page.items.map(({ id }) => id));
        cursor = page.nextCursor;
      }
      expect(new Set(seen).size).toBe(seen.length);
      expect(seen.filter((id) => whole.includes(id))).toEqual(whole);
    },
  );

  it('filters by part of the name in any capitals, and by any of the tags', async () => {
    const ctx = await registry.organization();
    await create(ctx, { name: 'Payments 100%', tags: ['a', 'b'] });
    await create(ctx, { name: 'orders_x', tags: ['b'] });
    await create(ctx, { name: 'Ledger', tags: ['c'] });
    const names = async (query: Record<string, string>) =>
      (await list(ctx, query)).items.map(({ name }) => name);
    expect(await names({ name: 'PAY' })).toEqual(['Payments 100%']);
    expect(await names({ name: '0%' })).toEqual(['Payments 100%']);
    expect(await names({ name: '_' })).toEqual(['orders_x']);
    expect(await names({ tag: 'b' })).toEqual(
      expect.arrayContaining(['Payments 100%', 'orders_x']),
    );
    expect(await names({ tag: 'a,c' })).toHaveLength(2);
    expect(await names({ tag: 'none' })).toEqual([]);
  });

  it('refuses a cursor of another caller, another filter or another organization', async () => {
    const [ctx, other] = [await registry.organization(), await registry.organization()];
    for (const name of ['a', 'b', 'c']) await create(ctx, { name });
    const { nextCursor } = await list(ctx, { limit: '1' });
    const cursor = nextCursor ?? '';
    expect((await list(ctx, { limit: '2', cursor })).items).toHaveLength(2);
    const colleague = { ...ctx, actor: { ...ctx.actor, id: 'somebody else' } };
    await Promise.all(
      [
        list(other, { limit: '1', cursor }),
        list(colleague, { limit: '1', cursor }),
        list(ctx, { limit: '1', cursor, name: 'b' }),
        list(ctx, { limit: '1', cursor, sort: '-name' }),
        list(ctx, { limit: '1', cursor: `${cursor}x` }),
        list(ctx, { limit: '1', cursor: 'x' }),
      ].map((attempt) => expect(attempt).rejects.toMatchObject({ code: 'invalid_cursor' })),
    );
  });
});

describe('a vault', () => {
  it('shows the threshold in force and where it comes from, nearest first', async () => {
    const ctx = await registry.organization();
    const { organizationId } = ctx;
    const { id } = await create(ctx, { name: 'v', tags: ['a', 'b', 'c'] });
    const inForce = async () => {
      const shown = await get(ctx, id);
      return [shown.effectiveOfflineAfterSeconds, shown.offlineAfterSource];
    };
    expect(await inForce()).toEqual([270, 'installation']);
    await registry.database.withTenant(ctx, (transaction) =>
      transaction.organization.update({
        where: { organizationId },
        data: { offlineAfterSeconds: 120 },
      }),
    );
    expect(await inForce()).toEqual([120, 'organization']);
    await registry.database.withTenant(ctx, (transaction) =>
      transaction.thresholdRule.createMany({
        data: [
          { organizationId, id: newUuid(), tag: 'a', offlineAfterSeconds: 600 },
          { organizationId, id: newUuid(), tag: 'b', offlineAfterSeconds: 500 },
          { organizationId, id: newUuid(), tag: 'z', offlineAfterSeconds: 20 },
        ],
      }),
    );
    expect(await inForce()).toEqual([500, 'tag']);
    await update(ctx, id, { offlineAfterSeconds: 900 });
    expect(await inForce()).toEqual([900, 'vault']);
    await update(ctx, id, { offlineAfterSeconds: null, tags: [] });
    expect(await inForce()).toEqual([120, 'organization']);
  });

  it('changes only for those who saw the latest', async () => {
    const ctx = await registry.organization();
    const { id, etag } = await create(ctx, { name: 'v' });
    const second = await update(ctx, id, { name: 'w' }, etag);
    expect(second).toMatchObject({ name: 'w', tags: [] });
    expect(second.etag).not.toBe(etag);
    await expect(update(ctx, id, { name: 'x' }, etag)).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    await expect(
      registry.vaults.update(ctx, given(updateVault, { params: { id }, body: { name: 'x' } })),
    ).rejects.toMatchObject({ code: 'precondition_required' });
    const both = await Promise.allSettled([
      update(ctx, id, { name: 'y' }, second.etag),
      update(ctx, id, { name: 'z' }, second.etag),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  });

  it('has its name alone among the living, whatever the capitals', async () => {
    const ctx = await registry.organization();
    const { id } = await create(ctx, { name: 'Payments' });
    const other = await create(ctx, { name: 'Other' });
    await expect(create(ctx, { name: 'PAYMENTS' })).rejects.toMatchObject({ code: 'conflict' });
    await expect(update(ctx, other.id, { name: 'payments' })).rejects.toMatchObject({
      code: 'conflict',
    });
    await expect(create(await registry.organization(), { name: 'Payments' })).resolves.toBeTruthy();
    await remove(ctx, id);
    await expect(update(ctx, other.id, { name: 'payments' })).resolves.toBeTruthy();
  });

  it('goes with its agents, whose certificates are revoked, and is then as if never there', async () => {
    const ctx = await registry.organization();
    const id = await vaultWith(ctx, 'gone', ['online', 'offline', 'revoked']);
    const kept = await vaultWith(ctx, 'kept', ['online']);
    const before = registry.nudged.length;
    await remove(ctx, id);
    expect(registry.nudged.slice(before)).toEqual(['revocations', 'thresholds']);
    const agents = await registry.agents.list(ctx, given(listAgents));
    expect(agents.items.map(({ vault }) => vault.id)).toEqual([kept]);
    const rows = await registry.database.withTenant(ctx, (transaction) =>
      transaction.agent.findMany({ where: { vault: { name: 'gone' } } }),
    );
    expect(rows).toHaveLength(3);
    for (const { revokedAt, deletedAt } of rows) {
      expect(revokedAt).not.toBeNull();
      expect(deletedAt).not.toBeNull();
    }
    await Promise.all(
      [get(ctx, id), remove(ctx, id), update(ctx, id, { name: 'x' })].map((attempt) =>
        expect(attempt).rejects.toMatchObject({ code: 'not_found' }),
      ),
    );
  });

  it('of another organization answers like one that is not there', async () => {
    const [ctx, other] = [await registry.organization(), await registry.organization()];
    const { id } = await create(other, { name: 'theirs' });
    for (const act of [
      (one: string) => get(ctx, one),
      (one: string) => update(ctx, one, { name: 'mine' }),
      (one: string) => remove(ctx, one),
    ]) {
      const [foreign, absent] = await Promise.all(
        [id, toId('vault', newUuid())].map((one) => act(one).catch((error: unknown) => error)),
      );
      expect(foreign).toMatchObject({ code: 'not_found' });
      expect(foreign).toEqual(absent);
    }
    expect((await get(other, id)).name).toBe('theirs');
    expect((await list(ctx)).items).toEqual([]);
  });

  it('is changed once for a repeated idempotency key', async () => {
    const ctx = { ...(await registry.organization()), idempotencyKey: 'once' };
    const answers = await Promise.all([create(ctx, { name: 'v' }), create(ctx, { name: 'v' })]);
    expect(answers[0]).toEqual(answers[1]);
    await expect(create(ctx, { name: 'w' })).rejects.toMatchObject({
      code: 'idempotency_conflict',
    });
  });

  it.each(['0001-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z'])(
    'may be under maintenance until %s, as far as the contract reaches',
    async (maintenanceUntil) => {
      const ctx = await registry.organization();
      const { id } = await create(ctx, { name: 'v' });
      expect((await update(ctx, id, { maintenanceUntil })).maintenanceUntil).toBe(maintenanceUntil);
    },
  );

  it('tells monitoring of every change that could move a deadline, after the commit', async () => {
    const ctx = await registry.organization();
    const { id } = await create(ctx, { name: 'v' });
    for (const body of [
      { offlineAfterSeconds: 30 },
      { tags: ['a'] },
      { maintenanceUntil: '2099-01-01T00:00:00Z' },
    ]) {
      const before = registry.nudged.length;
      await update(ctx, id, body);
      expect(registry.nudged.slice(before)).toEqual(['thresholds']);
    }
    expect((await get(ctx, id)).maintenanceUntil).toBe('2099-01-01T00:00:00.000Z');
    const before = registry.nudged.length;
    await expect(update(ctx, id, { name: 'x' }, '"0"')).rejects.toThrow();
    expect(registry.nudged.length).toBe(before);
  });
});

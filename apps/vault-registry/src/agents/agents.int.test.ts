import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import {
  agentStatuses,
  deleteAgent,
  getAgent,
  listAgents,
  revokeAgent,
} from '@keystead/contracts/registry';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { enroll, given, openRegistry, type Registry, setLiveness } from '../registry.fixture.ts';

let registry: Registry;
beforeAll(async () => {
  registry = await openRegistry();
});
afterAll(() => registry.close());

const list = (ctx: TenantCtx, query: Record<string, string> = {}) =>
  registry.agents.list(ctx, given(listAgents, { query }));
const get = (ctx: TenantCtx, id: string) =>
  registry.agents.get(ctx, given(getAgent, { params: { id } }));
const revoke = (ctx: TenantCtx, id: string, reason?: string) =>
  registry.agents.revoke(
    ctx,
    given(revokeAgent, { params: { id }, body: reason === undefined ? {} : { reason } }),
  );
const remove = (ctx: TenantCtx, id: string) =>
  registry.agents.delete(ctx, given(deleteAgent, { params: { id } }));

interface Described {
  name: string;
  status: string;
  seen: number | null;
  version: string | null;
}

/** Agents in every state, with equal and absent values to sort by. */
async function fleet(ctx: TenantCtx): Promise<Described[]> {
  const { organizationId } = ctx;
  const base = Date.parse('2026-01-01T00:00:00.123Z');
  const vaultId = newUuid();
  const described: Described[] = [];
  const statuses = ['pending', 'online', 'late', 'offline', 'stopped', 'revoked', 'unmet'];
  await registry.database.withTenant(ctx, async (transaction) => {
    await transaction.vault.create({
      data: { organizationId, id: vaultId, name: 'v', tags: ['t'] },
    });
    for (let index = 0; index < 28; index += 1) {
      const status = statuses[index % statuses.length] ?? '';
      const agentId = newUuid();
      const seen = index % 3 === 0 || status === 'unmet' ? null : base + (index % 5) * 1_000;
      const version = index % 4 === 0 ? null : `1.${index % 3}`;
      const name = `agent ${index % 6}`;
      await transaction.agent.create({
        data: {
          organizationId,
          id: agentId,
          vaultId,
          name,
          serialNumber: agentId,
          notBefore: new Date(),
          expiresAt: new Date(),
          enrolledAt: new Date(base + (index % 7) * 1_000),
          revokedAt: status === 'revoked' ? new Date() : null,
        },
      });
      if (status !== 'unmet') {
        await setLiveness(
          transaction,
          { organizationId, agentId, vaultId },
          { status, lastSeenAt: seen === null ? null : new Date(seen) },
        );
      }
      if (version !== null) {
        await transaction.agentReport.create({
          data: {
            organizationId,
            agentId,
            version,
            hostname: 'h',
            platform: 'linux',
            architecture: 'x64',
            runtime: 'node',
          },
        });
      }
      described.push({ name, status: status === 'unmet' ? 'pending' : status, seen, version });
    }
  });
  return described;
}

describe('the list of agents', () => {
  it.each(['name', 'enrolledAt', 'status', 'lastHeartbeatAt', 'version'] as const)(
    'has every agent once in the order of %s in both directions, those without a value last',
    async (field) => {
      const ctx = await registry.organization();
      await fleet(ctx);
      for (const sort of [field, `-${field}`]) {
        const seen: Awaited<ReturnType<typeof list>>['items'] = [];
        let cursor: string | null = null;
        do {
          const page = await list(ctx, {
            sort,
            limit: '5',
            ...(cursor === null ? {} : { cursor }),
          });
          seen.push(...page.items);
          cursor = page.nextCursor;
        } while (cursor !== null);
        expect(new Set(seen.map(({ id }) => id)).size).toBe(28);
        const values = seen.map((agent) => agent[field]);
        const present = values.filter((value) => value !== null);
        expect(values.slice(0, present.length)).toEqual(present);
        const sorted = [...present].sort();
        expect(present).toEqual(sort === field ? sorted : sorted.reverse());
      }
    },
  );

  it('filters by each state and by several, and a revoked agent is only revoked', async () => {
    const ctx = await registry.organization();
    const agents = await fleet(ctx);
    for (const status of [...agentStatuses, 'offline,revoked', 'pending,late,revoked']) {
      const shown = await list(ctx, { status, limit: '200' });
      const wanted = agents.filter((agent) => status.split(',').includes(agent.status));
      expect(shown.items).toHaveLength(wanted.length);
      for (const agent of shown.items) expect(status.split(',')).toContain(agent.status);
    }
  });

  it('filters by vault, version, name and the tags of the vault', async () => {
    const ctx = await registry.organization();
    const agents = await fleet(ctx);
    const other = await enroll(registry, ctx, { vault: 'Other', agent: 'lonely', tags: ['u'] });
    const count = async (query: Record<string, string>) =>
      (await list(ctx, { ...query, limit: '200' })).items.length;
    expect(await count({ vaultId: toId('vault', other.vaultId) })).toBe(1);
    expect(await count({ tag: 'u' })).toBe(1);
    expect(await count({ tag: 't,u' })).toBe(29);
    expect(await count({ version: '1.1' })).toBe(
      agents.filter(({ version }) => version === '1.1').length,
    );
    expect(await count({ name: 'LONE' })).toBe(1);
    expect(await count({ vaultId: toId('vault', newUuid()) })).toBe(0);
  });

  it('shows the policy set of the vault beside what the agent reports', async () => {
    const ctx = await registry.organization();
    const { organizationId } = ctx;
    const agent = await enroll(registry, ctx, { vault: 'P' });
    const id = toId('agent', agent.agentId);
    const state = async () => (await get(ctx, id)).policySet;
    expect((await state()).state).toBe('unassigned');
    await registry.database.withTenant(ctx, (transaction) =>
      transaction.policySetAssignment.create({
        data: { organizationId, vaultId: agent.vaultId, version: 2 },
      }),
    );
    expect((await state()).state).toBe('unreported');
    const report = (policySetVersion: number) =>
      registry.database.withTenant(ctx, (transaction) =>
        setLiveness(
          transaction,
          { organizationId, agentId: agent.agentId, vaultId: agent.vaultId },
          { status: 'online', policySetVersion },
        ),
      );
    await report(1);
    expect(await state()).toEqual({ assignedVersion: 2, reportedVersion: 1, state: 'behind' });
    await report(2);
    expect((await state()).state).toBe('current');
  });
});

describe('an agent', () => {
  it('that is revoked has no certificate that lives, and says since when and why', async () => {
    const ctx = await registry.organization();
    const agent = await enroll(registry, ctx, { vault: 'V', agent: 'a' });
    const id = toId('agent', agent.agentId);
    const before = registry.nudged.length;
    const revoked = await revoke(ctx, id, 'laptop lost');
    expect(registry.nudged.slice(before)).toEqual(['revocations', 'thresholds']);
    expect(revoked.status).toBe('revoked');
    expect(revoked.statusSince).toBe(revoked.revokedAt);
    const again = await revoke(ctx, id, 'once more');
    expect(again.revokedAt).toBe(revoked.revokedAt);
    const rows = await registry.database.withTenant(ctx, async (transaction) => ({
      living: await transaction.certificate.count({ where: { revokedAt: null } }),
      agent: await transaction.agent.findFirstOrThrow(),
      audit: await transaction.auditEvent.findMany({ where: { action: 'agents.revoke' } }),
    }));
    expect(rows.living).toBe(0);
    expect(rows.agent.revocationReason).toBe('laptop lost');
    expect(rows.audit[0]).toMatchObject({ targetId: id, targetName: 'a' });
  });

  it('that is deleted is as if never there, and its name is free', async () => {
    const ctx = await registry.organization();
    const agent = await enroll(registry, ctx, { vault: 'V', agent: 'a' });
    const id = toId('agent', agent.agentId);
    await remove(ctx, id);
    await Promise.all(
      [get(ctx, id), revoke(ctx, id), remove(ctx, id)].map((attempt) =>
        expect(attempt).rejects.toMatchObject({ code: 'not_found' }),
      ),
    );
    expect((await list(ctx)).items).toEqual([]);
    const next = await enroll(registry, ctx, { vault: 'V', agent: 'a' });
    expect(next.agentId).not.toBe(agent.agentId);
  });

  it('of another organization answers like one that is not there', async () => {
    const [ctx, other] = [await registry.organization(), await registry.organization()];
    const agent = await enroll(registry, other, { vault: 'theirs' });
    for (const act of [get, revoke, remove]) {
      const [foreign, absent] = await Promise.all(
        [agent.agentId, newUuid()].map((one) =>
          act(ctx, toId('agent', one)).catch((error: unknown) => error),
        ),
      );
      expect(foreign).toMatchObject({ code: 'not_found' });
      expect(foreign).toEqual(absent);
    }
    expect((await get(other, toId('agent', agent.agentId))).status).toBe('pending');
    expect((await list(ctx, { vaultId: toId('vault', agent.vaultId) })).items).toEqual([]);
  });
});

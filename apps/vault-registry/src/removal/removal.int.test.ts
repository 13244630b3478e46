import { listEnrollmentTokens } from '@keystead/contracts/registry';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { enroll, given, newToken, openRegistry, type Registry } from '../registry.fixture.ts';

let registry: Registry;
beforeAll(async () => {
  registry = await openRegistry();
});
afterAll(() => registry.close());

describe('the removal duty', () => {
  it('removes expired certificates and long dead tokens, and nothing that still opens', async () => {
    const ctx = await registry.organization();
    await enroll(registry, ctx, { vault: 'Kept', agent: 'kept' });
    await enroll(registry, ctx, { vault: 'Kept', agent: 'gone' });
    await newToken(registry, ctx, { name: 'kept', vault: 'Kept' });
    const gone = await newToken(registry, ctx, { name: 'gone', vault: 'Kept' });
    await registry.database.withTenant(ctx, async (transaction) => {
      await transaction.$executeRaw`
        update registry.certificate c set expires_at = clock_timestamp() - interval '2 days'
        from registry.agent a where a.id = c.agent_id and a.name = 'gone'`;
      await transaction.$executeRaw`
        update registry.enrollment_token set expires_at = clock_timestamp() - interval '91 days'
        where prefix = ${gone.prefix}`;
    });
    expect(await registry.removal.removeExpired()).toEqual({ certificates: 1, tokens: 1 });
    expect(await registry.removal.removeExpired()).toEqual({ certificates: 0, tokens: 0 });
    const left = await registry.database.withTenant(ctx, (transaction) =>
      transaction.certificate.findMany({ select: { agent: { select: { name: true } } } }),
    );
    expect(left).toEqual([{ agent: { name: 'kept' } }]);
    const tokens = await registry.tokens.list(ctx, given(listEnrollmentTokens));
    expect(tokens.items.map(({ name }) => name)).toEqual(['token', 'token', 'kept']);
  });

  it('removes more than one batch in a run', async () => {
    const ctx = await registry.organization();
    const { agentId } = await enroll(registry, ctx, { vault: 'Many' });
    await registry.database.withTenant(
      ctx,
      (transaction) => transaction.$executeRaw`
        insert into registry.certificate
          (organization_id, agent_id, serial_number, not_before, expires_at)
        select ${ctx.organizationId}::uuid, ${agentId}::uuid, i::text, now(),
          now() - interval '2 days' from generate_series(1, 2500) i`,
    );
    expect(await registry.removal.removeExpired()).toMatchObject({ certificates: 2_500 });
  });
});

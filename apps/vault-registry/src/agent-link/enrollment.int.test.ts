import { X509Certificate } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import { toId } from '@keystead/contracts/ids';
import {
  deleteVault,
  getAgent,
  listAgents,
  listEnrollmentTokens,
  listVaults,
  revokeAgent,
  revokeEnrollmentToken,
  updateVault,
} from '@keystead/contracts/registry';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  anonymous,
  askToEnroll,
  enroll,
  given,
  newRequest,
  newToken,
  openRegistry,
  type Registry,
} from '../registry.fixture.ts';

let registry: Registry;
beforeAll(async () => {
  registry = await openRegistry();
});
afterAll(() => registry.close());

const identityIn = (pem: string) => {
  const certificate = new X509Certificate(pem);
  return { certificate, serialNumber: certificate.serialNumber.toLowerCase() };
};

describe('enrolment', () => {
  it('gives an agent of the vault that the token names, with a certificate for its own key', async () => {
    const ctx = await registry.organization();
    const token = await newToken(registry, ctx, { vault: 'Payments', tags: ['env=production'] });
    expect(token.command).toBe(
      `keystead-agent enroll --endpoint agents.keystead.example:8443 --token ${token.token} --ca-fingerprint ${token.caFingerprint} --data ./vault`,
    );
    const answer = await askToEnroll(registry, token.token, { vaultName: 'Something else' });
    expect(answer).toMatchObject({
      outcome: 'enrolled',
      organizationId: ctx.organizationId,
      vaultName: 'Payments',
    });
    if (answer.outcome !== 'enrolled') return;
    expect(answer.agentName).toMatch(/^Payments-[0-9a-z]{5}$/);
    const { certificate, serialNumber } = identityIn(answer.certificateChain[0] ?? '');
    expect(certificate.subjectAltName).toBe(
      `URI:spiffe://keystead.test/org/${toId('organization', ctx.organizationId)}/agent/${toId('agent', answer.agentId)}`,
    );
    const shown = await registry.agents.list(ctx, given(listAgents));
    expect(shown.items).toMatchObject([
      {
        status: 'pending',
        lastHeartbeatAt: null,
        version: null,
        heartbeatIntervalMs: 30_000,
        certificate: { serialNumber, expiresAt: new Date(certificate.validTo).toISOString() },
        policySet: { state: 'unassigned' },
      },
    ]);
    const vaults = await registry.vaults.list(ctx, given(listVaults));
    expect(vaults.items).toMatchObject([
      { name: 'Payments', tags: ['env=production'], status: 'pending', agents: { total: 1 } },
    ]);
    expect(registry.nudged).toContain('thresholds');
  });

  it('gives one certificate for a one-use token, however many ask at once', async () => {
    const ctx = await registry.organization();
    const token = await newToken(registry, ctx, { vault: 'One' });
    const csr = await newRequest();
    // Who is turned away in the rush tries again, as an agent does.
    const persist = async (): ReturnType<typeof askToEnroll> =>
      askToEnroll(registry, token.token, { csr }).catch((error: unknown) => {
        if (error instanceof ServiceError && error.code === 'unavailable') return persist();
        throw error;
      });
    const answers = await Promise.all(Array.from({ length: 1_000 }, persist));
    expect(answers.filter(({ outcome }) => outcome === 'enrolled')).toHaveLength(1);
    const refusals = new Set(
      answers
        .filter(({ outcome }) => outcome === 'refused')
        .map((answer) => JSON.stringify(answer)),
    );
    expect(refusals.size).toBe(1);
    const shown = await registry.agents.list(ctx, given(listAgents));
    expect(shown.items).toHaveLength(1);
    const certificates = await registry.database.withTenant(ctx, (transaction) =>
      transaction.certificate.count(),
    );
    expect(certificates).toBe(1);
  });

  it('says the same of a token that is mistyped, unknown, used up, expired or revoked', async () => {
    const ctx = await registry.organization();
    const used = await newToken(registry, ctx, { vault: 'A' });
    await askToEnroll(registry, used.token);
    const revoked = await newToken(registry, ctx, { vault: 'A' });
    await registry.tokens.revoke(ctx, given(revokeEnrollmentToken, { params: { id: revoked.id } }));
    const expired = await newToken(registry, ctx, { vault: 'A' });
    const unknown = await newToken(registry, ctx, { vault: 'A' });
    await registry.database.withTenant(ctx, async (transaction) => {
      await transaction.$executeRaw`update registry.enrollment_token
        set expires_at = clock_timestamp() where prefix = ${expired.prefix}`;
      await transaction.$executeRaw`delete from registry.enrollment_token
        where prefix = ${unknown.prefix}`;
    });
    const answers = await Promise.all(
      ['', 'ket_', `${used.token}x`, used, revoked, expired, unknown].map((token) =>
        askToEnroll(registry, typeof token === 'string' ? token : token.token, {
          csr: 'not a request',
        }),
      ),
    );
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    expect(answers[0]).toMatchObject({ outcome: 'refused', reason: 'token_invalid' });
    const statuses = await registry.tokens.list(ctx, given(listEnrollmentTokens));
    expect(statuses.items.map(({ status }) => status)).toEqual(['used_up', 'revoked', 'expired']);
  });

  it('does not spend a use on a bad request or a bad name', async () => {
    const ctx = await registry.organization();
    const token = await newToken(registry, ctx);
    expect(await askToEnroll(registry, token.token, { vaultName: 'V', csr: 'AAAA' })).toMatchObject(
      { outcome: 'refused', reason: 'csr_invalid' },
    );
    for (const vaultName of [null, '', '  ', 'x'.repeat(121), 'a\u0000b', 'a\u202eb']) {
      expect(await askToEnroll(registry, token.token, { vaultName })).toMatchObject({
        outcome: 'refused',
        reason: 'name_invalid',
      });
    }
    expect(
      await askToEnroll(registry, token.token, { vaultName: 'V', agentName: 'a\nb' }),
    ).toMatchObject({ outcome: 'refused', reason: 'name_invalid' });
    expect(
      await askToEnroll(registry, token.token, { vaultName: 'V', agentName: 'first' }),
    ).toMatchObject({ outcome: 'enrolled', vaultName: 'V', agentName: 'first' });
  });

  it('answers whatever is asked, and never fails', async () => {
    const ctx = await registry.organization();
    const { token } = await newToken(registry, ctx, { maxUses: 100_000 });
    const csr = await newRequest();
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 200 }),
      fc.constantFrom('a', 'A', 'ａ', 'İ', 'ß', '\u0000', '\ud800', ' ', "'; --", '%', '\\'),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          token: fc.oneof(fc.constant(token), text),
          csr: fc.oneof(fc.constant(csr), text, fc.base64String({ maxLength: 400 })),
          vaultName: fc.option(text),
          agentName: fc.option(text),
        }),
        async ({ token: given, ...asked }) => {
          const answer = await askToEnroll(registry, given, asked);
          expect(['enrolled', 'refused']).toContain(answer.outcome);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('joins the living vault of that name whatever its capitals, also when many come at once', async () => {
    const ctx = await registry.organization();
    const token = await newToken(registry, ctx, { maxUses: 20 });
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        askToEnroll(registry, token.token, { vaultName: index % 2 ? 'ORDERS' : 'orders' }),
      ),
    );
    const vaults = new Set(
      answers.map((answer) => (answer.outcome === 'enrolled' ? answer.vaultId : answer.reason)),
    );
    expect(vaults.size).toBe(1);
    const shown = await registry.vaults.list(ctx, given(listVaults));
    expect(shown.items).toMatchObject([{ agents: { total: 20, pending: 20 } }]);
  });

  it('is in the audit as the deed of the agent, without the token', async () => {
    const ctx = await registry.organization();
    const token = await newToken(registry, ctx, { vault: 'Audited' });
    const answer = await askToEnroll(registry, token.token, { agentName: 'a1' });
    const rows = await registry.database.withTenant(ctx, (transaction) =>
      transaction.auditEvent.findMany({ where: { action: 'agents.enroll' } }),
    );
    expect(rows).toMatchObject([
      { actorKind: 'agent', actorName: 'a1', requestId: 'request-1', address: '192.0.2.7' },
    ]);
    expect(answer.outcome).toBe('enrolled');
    expect(JSON.stringify(rows)).not.toContain(token.token);
  });
});

describe('renewal and admission', () => {
  async function enrolled() {
    const ctx = await registry.organization();
    const agent = await enroll(registry, ctx, { vault: 'Renewed' });
    const { serialNumber } = identityIn(agent.certificateChain[0] ?? '');
    const identity = { organizationId: ctx.organizationId, agentId: agent.agentId, serialNumber };
    return { ctx, agent, identity };
  }
  const admit = async (...identities: Parameters<typeof registry.admission.admit>[0][number][]) =>
    (await registry.admission.admit(identities)).results.map(({ outcome }) => outcome);

  it('gives a further certificate, and admits both until the older one expires', async () => {
    const { ctx, agent, identity } = await enrolled();
    const renewed = await registry.renewal.renew(anonymous, { identity, csr: await newRequest() });
    if (renewed.outcome !== 'renewed') throw new Error(renewed.detail);
    const next = { ...identity, ...identityIn(renewed.certificateChain[0] ?? '') };
    expect(await admit(identity, next)).toEqual(['admitted', 'admitted']);
    const shown = await registry.agents.get(
      ctx,
      given(getAgent, { params: { id: toId('agent', agent.agentId) } }),
    );
    expect(shown.certificate.serialNumber).toBe(next.serialNumber);
    await registry.database.withTenant(
      ctx,
      (transaction) =>
        transaction.$executeRaw`update registry.certificate set expires_at = clock_timestamp()
        where serial_number = ${identity.serialNumber}`,
    );
    expect(await admit(identity, next)).toEqual(['refused', 'admitted']);
    expect(
      await registry.renewal.renew(anonymous, { identity, csr: await newRequest() }),
    ).toMatchObject({ outcome: 'refused' });
  });

  it('refuses what is revoked, deleted, unknown or of another organization, position by position', async () => {
    const one = await enrolled();
    const revoked = await enrolled();
    const deleted = await enrolled();
    await registry.agents.revoke(
      revoked.ctx,
      given(revokeAgent, { params: { id: toId('agent', revoked.agent.agentId) } }),
    );
    await registry.vaults.delete(
      deleted.ctx,
      given(deleteVault, { params: { id: toId('vault', deleted.agent.vaultId) } }),
    );
    const foreign = { ...one.identity, organizationId: deleted.ctx.organizationId };
    expect(
      await admit(
        revoked.identity,
        one.identity,
        deleted.identity,
        foreign,
        { ...one.identity, serialNumber: '00' },
        { ...one.identity, agentId: revoked.agent.agentId },
      ),
    ).toEqual(['refused', 'admitted', 'refused', 'refused', 'refused', 'refused']);
    for (const { identity } of [revoked, deleted]) {
      expect(
        await registry.renewal.renew(anonymous, { identity, csr: await newRequest() }),
      ).toMatchObject({ outcome: 'refused' });
    }
  });

  it('tells the pace of the threshold in force and the assigned policy set', async () => {
    const { ctx, agent, identity } = await enrolled();
    const id = toId('vault', agent.vaultId);
    await registry.vaults.update(
      ctx,
      given(updateVault, { params: { id }, body: { offlineAfterSeconds: 45 }, ifMatch: '*' }),
    );
    await registry.database.withTenant(ctx, (transaction) =>
      transaction.policySetAssignment.create({
        data: { organizationId: ctx.organizationId, vaultId: agent.vaultId, version: 7 },
      }),
    );
    expect((await registry.admission.admit([identity])).results).toEqual([
      {
        outcome: 'admitted',
        vaultId: agent.vaultId,
        intervalMs: 5_000,
        assignedPolicySetVersion: 7,
      },
    ]);
  });

  it('never leaves a living certificate behind a revocation that raced with a renewal', async () => {
    for (let round = 0; round < 10; round += 1) {
      const { ctx, agent, identity } = await enrolled();
      const csr = await newRequest();
      await Promise.all([
        registry.renewal.renew(anonymous, { identity, csr }),
        registry.agents.revoke(
          ctx,
          given(revokeAgent, { params: { id: toId('agent', agent.agentId) } }),
        ),
      ]);
      const living = await registry.database.withTenant(ctx, (transaction) =>
        transaction.certificate.count({ where: { revokedAt: null } }),
      );
      expect(living).toBe(0);
    }
  });

  it('bounds how many certificates one agent can hold', async () => {
    const { identity } = await enrolled();
    const outcomes: string[] = [];
    for (let count = 0; count < 33; count += 1) {
      const csr = await newRequest();
      outcomes.push((await registry.renewal.renew(anonymous, { identity, csr })).outcome);
    }
    expect(outcomes.indexOf('refused')).toBe(31);
  });
});

describe('the certificate of a gateway', () => {
  it('is for the hosts asked for, under the root that agents pin', async () => {
    const answer = await registry.gatewayCertificates.issue({
      csr: await newRequest(),
      hosts: ['agents.keystead.example', '127.0.0.1', '::1'],
    });
    const leaf = new X509Certificate(answer.certificateChain[0] ?? '');
    expect(leaf.checkHost('agents.keystead.example')).toBe('agents.keystead.example');
    expect(leaf.checkIP('127.0.0.1')).toBe('127.0.0.1');
    expect(leaf.checkIssued(new X509Certificate(answer.certificateChain[1] ?? ''))).toBe(true);
    expect(answer.caFingerprint).toBe(registry.authority.current().fingerprint);
  });

  it.each(['*.example', 'a b', '', 'a'.repeat(64), 'spiffe://x'])(
    'is refused for %j',
    async (host) => {
      await expect(
        registry.gatewayCertificates.issue({ csr: await newRequest(), hosts: [host] }),
      ).rejects.toMatchObject({ code: 'invalid_request' });
    },
  );
});

import { isApprovalDecisionSignedBy } from '@keystead/agent-protocol/approval-signature';
import { ControlMessage } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import {
  organizationSignerUri,
  verifiedSigner,
} from '@keystead/agent-protocol/policy-set-signature';
import { testTrustDomain } from '@keystead/agent-protocol/test-authority.fixture';
import type { ApprovalReport } from '@keystead/contracts/agent-link';
import { approvalDecision } from '@keystead/contracts/approval-decision';
import { type approveApproval, listApprovals } from '@keystead/contracts/approvals';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Role } from '@keystead/contracts/permissions';
import { enqueue } from '@keystead/database/outbox';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ctxOf, given, PolicyWorld, type TestVault } from '../policy.fixture.ts';

let world: PolicyWorld;

beforeAll(async () => {
  world = await PolicyWorld.open();
});
afterAll(() => world.close());

const hashOf = (letter: string) => letter.repeat(64);

function waiting(changes: Partial<ApprovalReport> = {}): ApprovalReport {
  return {
    id: newUuid(),
    revision: 1,
    state: 'pending',
    action: 'namespace.export',
    namespaceRef: hashOf('a'),
    secretRef: null,
    otherRef: null,
    requesterRef: hashOf('b'),
    requestedAtMs: Date.now(),
    expiresAtMs: Date.now() + 600_000,
    requirements: [{ policy: 'four-eyes', approvers: ['admin', 'security'], count: 2 }],
    decisions: [],
    ...changes,
  };
}

async function reported(
  vault: TestVault,
  told: { approval?: ApprovalReport; approvalAnswer?: Record<string, string> },
  agent = 0,
): Promise<void> {
  await world.database.withTenant(vault, (transaction) =>
    enqueue(transaction, vault.organizationId, 'policy.reported', {
      vaultId: vault.vaultId,
      agentId: vault.agents[agent] ?? '',
      ...told,
    } as never),
  );
  await world.reports.take();
}

async function asked(changes: Partial<ApprovalReport> = {}, agents = 1) {
  const vault = await world.vault(await world.organization(), Array(agents).fill(null));
  const report = waiting(changes);
  await reported(vault, { approval: report });
  return { vault, report, id: toId('approval', report.id) };
}

const person = (vault: TestVault, name = 'Ann', role: Role = 'admin'): TenantCtx => ({
  ...ctxOf(vault.organizationId, name),
  role,
});
const decided = (ctx: TenantCtx, id: string, verdict: 'approve' | 'deny' = 'approve') =>
  world.approvals[verdict](
    ctx,
    given<typeof approveApproval>({ params: { id }, body: { reason: 'it is needed' } }),
  );
const shown = (vault: TestVault, id: string) =>
  world.approvals.get(vault.ctx, given({ params: { id } }));

async function commandsTo(vault: TestVault, agent = 0) {
  const { results } = await world.deliveries.deliver([
    { organizationId: vault.organizationId, agentId: vault.agents[agent] ?? '', held: null },
  ]);
  return (results[0]?.commands ?? []).map((command) => {
    const content = ControlMessage.decode(Buffer.from(command, 'base64')).payload?.content;
    if (content?.$case !== 'command' || content.value.action?.$case !== 'decideApproval') {
      throw new Error('no decision');
    }
    return content.value.action.value;
  });
}

async function told(vault: TestVault) {
  const rows = await world.database.withTenant(vault, (transaction) =>
    transaction.outbox.findMany({ where: { topic: 'vault.reported' }, orderBy: { id: 'asc' } }),
  );
  return rows.map(({ payload }) => {
    const { kind, reason, state } = payload as Record<string, string>;
    return `${kind} ${reason} ${state}`;
  });
}

const ids = (vault: TestVault, query: Record<string, unknown>) =>
  world.approvals
    .list(vault.ctx, given({ query: listApprovals.query.parse(query) }))
    .then(({ items }) => items.map(({ id }) => id));

test('what waits is listed and told; a decision goes to the agents, signed by the organization', async () => {
  const { vault, id } = await asked({}, 2);
  expect(await told(vault)).toEqual([`approval.requested approval:${id} raised`]);
  expect(
    await ids(vault, { status: 'pending,denied', vaultId: toId('vault', vault.vaultId) }),
  ).toEqual([id]);
  expect(await ids(vault, { status: 'used' })).toEqual([]);
  const ann = person(vault, 'Ann', 'owner');
  expect(await decided(ann, id)).toMatchObject({
    status: 'pending',
    decisions: [{ verdict: 'approve', state: 'sent', by: { name: 'Ann' }, reason: 'it is needed' }],
  });
  const [told0, told1] = [await commandsTo(vault, 0), await commandsTo(vault, 1)];
  expect([told0.length, told1.length]).toEqual([1, 1]);
  const [command] = told0;
  if (!command) throw new Error('nothing was told');
  const signer = verifiedSigner(command.signerChain, {
    uri: organizationSignerUri(testTrustDomain, vault.organizationId),
    root: world.root,
    nowMs: Date.now(),
  });
  expect(signer && isApprovalDecisionSignedBy(command.decision, command.signature, signer)).toBe(
    true,
  );
  const decision = approvalDecision.parse(JSON.parse(command.decision.toString()));
  expect(decision).toMatchObject({
    organizationId: toId('organization', vault.organizationId),
    vaultId: toId('vault', vault.vaultId),
    approvalId: id,
    verdict: 'approve',
    approver: { name: 'Ann', roles: ['owner', 'admin', 'operator', 'viewer'] },
  });
});

test('nobody counts twice, keys do not count, and roles that the policy does not name are refused', async () => {
  const { vault, id } = await asked();
  const ann = person(vault);
  await decided(ann, id);
  await expect(decided(ann, id)).rejects.toMatchObject({ code: 'conflict' });
  await expect(decided(ann, id, 'deny')).rejects.toMatchObject({ code: 'conflict' });
  await expect(decided(person(vault, 'Olaf', 'operator'), id)).rejects.toMatchObject({
    code: 'permission_denied',
  });
  const key = { ...person(vault, 'key'), actor: { kind: 'apiKey', id: 'key_1', name: 'key' } };
  await expect(decided(key as TenantCtx, id)).rejects.toMatchObject({ code: 'permission_denied' });
  const other = await world.organization();
  await expect(decided({ ...ann, ...other.ctx }, id)).rejects.toMatchObject({ code: 'not_found' });
  await decided(person(vault, 'Bea'), id);
  expect((await shown(vault, id)).decisions).toHaveLength(2);
  const audited = await world.database.withTenant(vault, (transaction) =>
    transaction.auditEvent.findMany({ where: { action: 'approvals.approve' } }),
  );
  expect(audited).toHaveLength(2);
});

test('an answer of one agent is enough, and what the vault decided stands whatever comes late', async () => {
  const { vault, id, report } = await asked({}, 2);
  await decided(person(vault), id);
  const [command] = await commandsTo(vault, 0);
  const decisionId = command?.decisionId.toString('hex') ?? '';
  const uuid = decisionId.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  const answer = { approvalId: report.id, decisionId: uuid, outcome: 'accepted' };
  const decisions: ApprovalReport['decisions'] = [
    { approverRef: hashOf('c'), verdict: 'approve', atMs: Date.now(), decisionId: uuid },
    { approverRef: hashOf('d'), verdict: 'approve', atMs: Date.now(), decisionId: null },
  ];
  await reported(vault, { approvalAnswer: answer });
  expect(await commandsTo(vault, 1)).toEqual([]);
  const approved: ApprovalReport = {
    ...report,
    revision: 3,
    state: 'approved',
    decisions,
  };
  await reported(vault, { approval: approved });
  await reported(vault, { approval: report }, 1);
  expect(await shown(vault, id)).toMatchObject({
    status: 'approved',
    decisions: [
      { state: 'accepted', by: { name: 'Ann' }, reason: 'it is needed' },
      { state: 'accepted', by: null, approverRef: hashOf('d') },
    ],
  });
  expect((await told(vault)).at(-1)).toBe(`approval.requested approval:${id} cleared`);
  await expect(decided(person(vault, 'Bea'), id)).rejects.toMatchObject({ code: 'conflict' });
  // Another vault's agent has no say.
  const stranger = await world.vault(vault, [null]);
  await reported(stranger, { approval: { ...report, revision: 9, state: 'denied' } });
  expect(await shown(vault, id)).toMatchObject({ status: 'approved' });
});

test('a refusal of the vault is shown, and lets somebody decide anew', async () => {
  const { vault, id, report } = await asked();
  const ann = person(vault);
  await decided(ann, id);
  const [command] = await commandsTo(vault);
  const uuid = (command?.decisionId.toString('hex') ?? '').replace(
    /^(.{8})(.{4})(.{4})(.{4})/,
    '$1-$2-$3-$4-',
  );
  const answer = { approvalId: report.id, decisionId: uuid, outcome: 'own_request' };
  await reported(vault, { approvalAnswer: answer });
  expect((await shown(vault, id)).decisions).toMatchObject([
    { state: 'refused', refusal: 'own_request' },
  ]);
  await decided(ann, id);
  expect((await shown(vault, id)).decisions).toHaveLength(2);
});

test('what nobody decides in time is over: told, shown, and not to be decided any more', async () => {
  const { vault, id } = await asked();
  await decided(person(vault), id);
  await world.database.withTenant(vault, (transaction) =>
    transaction.approval.updateMany({ data: { expiresAt: new Date(Date.now() - 1) } }),
  );
  expect(await shown(vault, id)).toMatchObject({ status: 'expired' });
  await expect(decided(person(vault, 'Bea'), id)).rejects.toMatchObject({ code: 'conflict' });
  await world.approvalsEnd.look();
  expect(await told(vault)).toContain(`approval.requested approval:${id} cleared`);
  expect(await ids(vault, { status: 'expired' })).toEqual([id]);
});

test('a vault whose agent makes approvals up fills no more than its share; what is known goes on', async () => {
  const { vault, report: known } = await asked();
  await world.database.withTenant(
    vault,
    (transaction) => transaction.$executeRaw`
      insert into policy.approval (organization_id, id, vault_id, agent_id, revision, state, action,
        requester_ref, requirements, reported, requested_at, expires_at, updated_at)
      select organization_id, gen_random_uuid(), vault_id, agent_id, revision, state, action,
        requester_ref, requirements, reported, requested_at, expires_at, updated_at
      from policy.approval, generate_series(2, ${limits.approvalsKeptPerVault}::int)
      where id = ${known.id}::uuid`,
  );
  const oneMore = waiting();
  await reported(vault, { approval: oneMore });
  await reported(vault, { approval: { ...known, revision: 2, state: 'denied' } });
  const rows = await world.database.withTenant(vault, (transaction) =>
    transaction.approval.findMany({
      where: { organizationId: vault.organizationId, id: { in: [known.id, oneMore.id] } },
      select: { id: true, state: true },
    }),
  );
  expect(rows).toEqual([{ id: known.id, state: 'denied' }]);
});

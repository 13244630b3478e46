import { randomBytes, X509Certificate } from 'node:crypto';
import { signApprovalDecision } from '@keystead/agent-protocol/approval-signature';
import {
  ApprovalDecisionOutcome,
  type ApprovalReported,
  ApprovalState,
  CommandOutcome,
  type DecideApproval,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { organizationSignerUri } from '@keystead/agent-protocol/policy-set-signature';
import {
  ExtendedKeyUsage,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { type ApprovalDecision, approvalDecisionForm } from '@keystead/contracts/approval-decision';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Caller } from '../access/caller.ts';
import type { AuditFact } from '../audit/audit-entry.ts';
import { closeVaults, openTestVault, testCaller } from '../store/vault.fixture.ts';
import { NameReferences } from '../upward/name-references.ts';
import { ApprovalOrders } from './approval-orders.ts';
import { ApprovalReports } from './approval-reports.ts';
import { type ApprovalChange, Approvals } from './approvals.ts';
import { type PolicyTables, policyMigrations } from './policy-tables.ts';

const authority = await TestAuthority.create();
const organizationId = newUuid();
const vaultId = toId('vault', newUuid());
const signerOf = (organization: string) =>
  authority.issue({
    names: [{ type: 'url', value: organizationSignerUri(testTrustDomain, organization) }],
    usages: [ExtendedKeyUsage.codeSigning],
  });
const signer = await signerOf(organizationId);
const stranger = await signerOf(newUuid());

let approvals: Approvals;
let orders: ApprovalOrders;
let reports: ApprovalReports;
let facts: AuditFact[] = [];
let answers: string[] = [];
let told: ApprovalReported[] = [];
let isAuditBlocked = false;
let isQueueFull = false;

beforeAll(async () => {
  const vault = await openTestVault(undefined, { migrations: policyMigrations });
  approvals = new Approvals({ store: vault.store.as<PolicyTables>() });
  const log = { info: () => {}, warn: () => {}, debug: () => {} };
  orders = new ApprovalOrders({
    approvals,
    trust: () => ({ root: authority.root, trustDomain: testTrustDomain, organizationId }),
    vaultId,
    trail: {
      record: async (fact) => {
        if (isAuditBlocked) throw new Error('the audit is blocked');
        facts.push(fact);
      },
    },
    record: (kind) => {
      if (kind.$case !== 'approvalAnswered') return;
      answers.push(nameOf(ApprovalDecisionOutcome, kind.value.outcome));
    },
    now: Date.now,
    log,
  });
  reports = new ApprovalReports({
    approvals,
    names: new NameReferences(randomBytes(32)),
    record: (kind) => {
      if (!isQueueFull && kind.$case === 'approvalReported') told.push(kind.value);
      return !isQueueFull;
    },
    log,
  });
  approvals.onChange = () => undefined;
});
afterAll(() => closeVaults());
beforeEach(() => {
  facts = [];
  answers = [];
  told = [];
});

const nameOf = (names: Record<string, number>, value: number) =>
  Object.entries(names).find(([, number]) => number === value)?.[0] ?? '';
const person = (id: string, roles: string[] = []): Caller => ({
  ...testCaller(),
  identity: { kind: 'jwt', id: `https://issuer|${id}`, name: id, roles },
});
const requirement = {
  policyId: 'pol_1:v1',
  approvers: ['admin', 'security'],
  count: 2,
  expiresAfterSeconds: 600,
};
const resource = { namespace: 'payments', secret: 'db/password' };
const ask = (who = `ann-${newUuid()}`) =>
  approvals.require(person(who), 'secret.read-value', resource, [requirement]);

function command(
  approvalId: string,
  changes: Partial<ApprovalDecision> & { who?: string } = {},
  by = signer,
): DecideApproval {
  const { who = 'bob@example.com', ...rest } = changes;
  const decision: ApprovalDecision = {
    form: approvalDecisionForm,
    organizationId: toId('organization', organizationId),
    vaultId,
    approvalId: approvalId as ApprovalDecision['approvalId'],
    decisionId: newUuid(),
    verdict: 'approve',
    approver: {
      id: toId('person', newUuid()),
      name: who,
      email: who,
      roles: ['admin', 'operator'],
    },
    reason: 'the release needs it',
    decidedAt: new Date().toISOString(),
    expiresAt: new Date(Date.now() + 60_000).toISOString(),
    ...rest,
  };
  const encoded = Buffer.from(JSON.stringify(decision));
  const uuidBytes = (uuid: string) => Buffer.from(uuid.replaceAll('-', ''), 'hex');
  return {
    approvalId: uuidBytes(toUuid('approval', approvalId)),
    decisionId: uuidBytes(decision.decisionId),
    decision: encoded,
    signature: signApprovalDecision(encoded, by.key),
    signerChain: [by.certificate, authority.intermediate].map(
      (pem) => new X509Certificate(pem).raw,
    ),
  };
}

test('people here and there count together; a decision that comes again counts once', async () => {
  const { id } = await ask();
  const decision = command(id);
  for (let time = 0; time < 3; time += 1) {
    expect(await orders.carryOut(decision)).toBe(CommandOutcome.DONE);
  }
  expect(answers).toEqual(['ACCEPTED', 'ACCEPTED', 'ACCEPTED']);
  expect(facts[0]).toMatchObject({
    identity: { kind: 'system', id: 'control-plane' },
    operation: 'approvals.approve',
    phase: 'started',
    context: { email: 'bob@example.com', reason: 'the release needs it' },
  });
  expect((await approvals.get(id)).state).toBe('pending');
  await approvals.decide(person('cid', ['security']), id, 'approve', '');
  expect(await approvals.get(id)).toMatchObject({
    state: 'approved',
    decisions: [{ name: 'bob@example.com', comment: 'the release needs it' }, { name: 'cid' }],
  });
  // What was decided first stands.
  await orders.carryOut(command(id, { who: 'dan@example.com', verdict: 'deny' }));
  expect(answers.at(-1)).toBe('ALREADY_DECIDED');
  expect(facts.at(-1)).toMatchObject({
    result: 'refused',
    context: { outcome: 'already_decided' },
  });
});

test('a decision that is forged, for another vault, of another organization or malformed decides nothing', async () => {
  const { id } = await ask();
  const sound = command(id);
  for (const wrong of [
    command(id, {}, stranger),
    command(id, { organizationId: toId('organization', newUuid()) }),
    command(id, { vaultId: toId('vault', newUuid()) }),
    command(id, { verdict: 'maybe' as 'deny' }),
    { ...sound, approvalId: randomBytes(16) },
    { ...sound, decisionId: randomBytes(16) },
    { ...sound, decision: Buffer.from('{}') },
    { ...sound, signature: randomBytes(70) },
    { ...sound, signerChain: [] },
  ]) {
    expect(await orders.carryOut(wrong)).toBe(CommandOutcome.REFUSED);
    expect(answers.pop()).toBe('NOT_ACCEPTABLE');
  }
  expect(facts).toEqual([]);
  expect((await approvals.get(id)).decisions).toEqual([]);
});

test('nobody agrees to what they asked for themselves, and roles and time are kept', async () => {
  const { id } = await ask('Ann@Example.com');
  const outcomeOf = async (changes: Parameters<typeof command>[1], of = id) => {
    await orders.carryOut(command(of, changes));
    return answers.at(-1);
  };
  expect(await outcomeOf({ who: 'ann@example.com' })).toBe('OWN_REQUEST');
  const viewer = { id: toId('person', newUuid()), name: 'v', email: 'v', roles: ['viewer'] };
  expect(await outcomeOf({ approver: viewer as ApprovalDecision['approver'] })).toBe(
    'NOT_AN_APPROVER',
  );
  expect(await outcomeOf({ expiresAt: new Date(Date.now() - 1).toISOString() })).toBe('EXPIRED');
  expect(await outcomeOf({}, toId('approval', newUuid()))).toBe('UNKNOWN_APPROVAL');
});

test('what cannot be audited is not decided, and is not answered', async () => {
  const { id } = await ask();
  isAuditBlocked = true;
  await expect(orders.carryOut(command(id))).rejects.toThrow('blocked');
  isAuditBlocked = false;
  expect(answers).toEqual([]);
  expect((await approvals.get(id)).decisions).toEqual([]);
});

test('every change is told once, as keyed hashes, and what could not be kept is told later', async () => {
  await reports.look();
  told = [];
  const { id } = await ask('eve@example.com');
  isQueueFull = true;
  await reports.look();
  isQueueFull = false;
  await reports.look();
  await reports.look();
  const decision = command(id);
  await orders.carryOut(decision);
  await approvals.decide(person('cid', ['security']), id, 'approve', '');
  await reports.look();
  expect(told.map(({ revision, state }) => [revision, nameOf(ApprovalState, state)])).toEqual([
    [1, 'PENDING'],
    [3, 'APPROVED'],
  ]);
  expect(told[1]).toMatchObject({
    action: 'secret.read-value',
    requirements: [{ policy: 'pol_1:v1', approvers: ['admin', 'security'], count: 2 }],
    decisions: [{ decisionId: decision.decisionId }, { decisionId: Buffer.alloc(0) }],
  });
  const wire = JSON.stringify(told, (_key, value) =>
    value?.type === 'Buffer' ? Buffer.from(value.data).toString('latin1') : value,
  );
  for (const name of ['payments', 'db/password', 'eve@example.com', 'cid', 'bob@example.com']) {
    expect(wire).not.toContain(name);
  }
});

test('however often something changes, one look waits at most, and none begins after the end', async () => {
  const hanging = Promise.withResolvers<ApprovalChange[]>();
  let looks = 0;
  const changing: Pick<Approvals, 'untold' | 'told' | 'onChange'> = {
    untold: () => {
      looks += 1;
      return hanging.promise;
    },
    told: async () => undefined,
    onChange: () => undefined,
  };
  const reporting = new ApprovalReports({
    approvals: changing,
    names: new NameReferences(randomBytes(32)),
    record: () => true,
    log: { debug: () => undefined },
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  for (let change = 0; change < 50; change += 1) {
    changing.onChange();
    await turn();
  }
  expect(looks).toBe(1);
  hanging.resolve([]);
  await turn();
  expect(looks).toBe(2);
  await reporting.stop();
  changing.onChange();
  await turn();
  expect(looks).toBe(2);
});

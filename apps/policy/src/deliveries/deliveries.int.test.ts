import { X509Certificate } from 'node:crypto';
import { ControlMessage } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { hasValidSignature } from '@keystead/agent-protocol/message-signature';
import {
  commandSignerUri,
  isPolicySetSignedBy,
  organizationSignerUri,
  policySetDigest,
  signPolicySet,
  verifiedSigner,
} from '@keystead/agent-protocol/policy-set-signature';
import { ExtendedKeyUsage, testTrustDomain } from '@keystead/agent-protocol/test-authority.fixture';
import type { HeldPolicySet } from '@keystead/contracts/agent-link';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Transaction } from '@keystead/database/database';
import { enqueue } from '@keystead/database/outbox';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { given, PolicyWorld, type TestVault } from '../policy.fixture.ts';
import { readContent } from '../policy-sets/set-content.ts';
import { forgetCommands, orderCommands } from './agent-commands.ts';

let world: PolicyWorld;

beforeAll(async () => {
  world = await PolicyWorld.open();
});
afterAll(() => world.close());
beforeEach(() => {
  world.nudges.length = 0;
  world.nudged.length = 0;
});

async function assignedVault(agents = 1) {
  const organization = await world.organization();
  const vault = await world.vault(organization, Array(agents).fill(null));
  const { set, signed } = await world.signedSet(organization);
  await world.assign(vault, signed.number);
  return { organization, vault, set, signed };
}

async function tell(vault: TestVault, held: HeldPolicySet | null = null, agent = 0) {
  const { results } = await world.deliveries.deliver([
    { organizationId: vault.organizationId, agentId: vault.agents[agent] ?? '', held },
  ]);
  const [result] = results;
  if (!result) throw new Error('no result');
  return result;
}
const nothing = { assigned: null, command: null, commands: [] };
const heldOf = ({ number, digest }: { number: number; digest: string }) => ({ number, digest });
const shown = (vault: TestVault, agent = 0) =>
  world.agentPolicies.get(
    vault.ctx,
    given({ params: { id: toId('agent', vault.agents[agent] ?? '') } }),
  );
async function reported(
  vault: TestVault,
  { number, digest }: { number: number; digest: string },
  outcome: string,
  problem = 'unspecified',
) {
  await world.database.withTenant(vault, (transaction) =>
    enqueue(transaction, vault.organizationId, 'policy.reported', {
      vaultId: vault.vaultId,
      agentId: vault.agents[0] ?? '',
      policySet: { number, digest, outcome, problem },
    }),
  );
  await world.reports.take();
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

/** Many agents of a vault, all of them heard. */
async function crowd({ organizationId, vaultId }: TestVault, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => newUuid());
  await world.database.withTenant({ organizationId }, async (transaction) => {
    await transaction.agent.createMany({
      data: ids.map((id) => ({
        ...{ organizationId, id, vaultId, name: 'a', serialNumber: id },
        ...{ notBefore: new Date(), expiresAt: new Date(Date.now() + 86_400_000) },
      })),
    });
    await transaction.agentLiveness.createMany({
      data: ids.map((agentId) => ({
        ...{ organizationId, agentId, vaultId, status: 'online' },
        ...{ offlineAfterMs: 270_000, intervalMs: 30_000 },
      })),
    });
  });
  return ids;
}

const commandOf =
  ({ organizationId, vaultId }: TestVault) =>
  (agentId: string) =>
    ({
      ...{ organizationId, agentId, vaultId, subjectId: newUuid() },
      action: { $case: 'renewCertificate', value: {} },
      expiresAt: new Date(Date.now() + 60_000),
    }) as const;

/** As an agent takes it apart. */
function opened(command: string) {
  const bytes = Buffer.from(command, 'base64');
  const message = ControlMessage.decode(bytes);
  const content = message.payload?.content;
  if (content?.$case !== 'command' || content.value.action?.$case !== 'assignPolicySet') {
    throw new Error('no command');
  }
  return { bytes, message, command: content.value, action: content.value.action.value };
}

test('counts beyond all measure stop at the end of counting, and hold up no reports', async () => {
  const { vault, signed } = await assignedVault();
  await tell(vault);
  const most = Number.MAX_SAFE_INTEGER;
  const counts = { allowed: most, denied: most, newlyAllowed: 0, newlyDenied: most, errors: 1 };
  await world.database.withTenant(vault, async (transaction) => {
    await transaction.agentPolicy.updateMany({ data: { denied: most } });
    await enqueue(transaction, vault.organizationId, 'policy.reported', {
      vaultId: vault.vaultId,
      agentId: vault.agents[0] ?? '',
      policyDecisions: { ...heldOf(signed), ...counts },
    });
  });
  expect(await world.reports.take()).toBe(1);
  expect((await shown(vault)).decisions).toEqual({
    allowed: most,
    denied: most,
    newlyDenied: most,
    errors: 1,
  });
});

test('the command is signed for its agent, and the set by the organization', async () => {
  const { vault, signed } = await assignedVault();
  const { assigned, command } = await tell(vault);
  expect(assigned).toEqual(heldOf(signed));
  const { bytes, message, command: told, action } = opened(command ?? '');
  const expectation = { root: world.root, nowMs: Date.now() };
  const signer = verifiedSigner([told.signerCertificate, told.signerIssuer], {
    ...expectation,
    uri: commandSignerUri(testTrustDomain),
  });
  expect(signer && hasValidSignature(bytes, signer.publicKey)).toBe(true);
  expect(message.vaultId).toBe(toId('vault', vault.vaultId));
  const organizationSigner = verifiedSigner(action.signerChain, {
    ...expectation,
    uri: organizationSignerUri(testTrustDomain, vault.organizationId),
  });
  if (!organizationSigner) throw new Error('the signer of the organization does not verify');
  expect(isPolicySetSignedBy(signed.digest, action.signature, organizationSigner)).toBe(true);
  const parts: Buffer[] = [];
  for (let offset = 0; offset < action.totalBytes; ) {
    const { content } = await world.deliveries.part({
      organizationId: vault.organizationId,
      digest: signed.digest,
      offset,
    });
    parts.push(Buffer.from(content ?? '', 'base64'));
    offset += parts.at(-1)?.length ?? 0;
  }
  const content = Buffer.concat(parts);
  expect(policySetDigest(content)).toBe(signed.digest);
  expect(readContent(content)).toMatchObject({
    organizationId: toId('organization', vault.organizationId),
    number: 1,
    predecessor: '',
  });
});

test('a set is signed anew before the certificate of its signature ends', async () => {
  const { vault, signed } = await assignedVault();
  const short = await world.authority.issue({
    names: [{ type: 'url', value: organizationSignerUri(testTrustDomain, vault.organizationId) }],
    usages: [ExtendedKeyUsage.codeSigning],
    notAfter: new Date(Date.now() + 86_400_000),
  });
  await world.database.withTenant(vault, (transaction) =>
    transaction.policySetVersion.updateMany({
      data: {
        signature: new Uint8Array(signPolicySet(signed.digest, short.key)),
        signerChain: [short.certificate, world.authority.intermediate].map(
          (pem) => new Uint8Array(new X509Certificate(pem).raw),
        ),
      },
    }),
  );
  const { action } = opened((await tell(vault)).command ?? '');
  const signer = verifiedSigner(action.signerChain, {
    root: world.root,
    nowMs: Date.now() + 300 * 86_400_000,
    uri: organizationSignerUri(testTrustDomain, vault.organizationId),
  });
  if (!signer) throw new Error('the signature ends too soon');
  expect(isPolicySetSignedBy(signed.digest, action.signature, signer)).toBe(true);
  const [kept] = await world.database.withTenant(vault, (transaction) =>
    transaction.policySetVersion.findMany({ select: { signature: true } }),
  );
  expect(Buffer.from(kept?.signature ?? [])).toEqual(Buffer.from(action.signature));
});

test('sets are one chain over the whole organization, and no two have a number', async () => {
  const organization = await world.organization();
  const [one, other] = [await world.signedSet(organization), await world.signedSet(organization)];
  const more = await Promise.all(
    [one.set.id, other.set.id, one.set.id, other.set.id].map((id) => world.sign(organization, id)),
  );
  const all = [one.signed, other.signed, ...more].sort((a, b) => a.number - b.number);
  expect(all.map(({ number }) => number)).toEqual([1, 2, 3, 4, 5, 6]);
  all.forEach((signed, index) => {
    expect(signed.predecessorDigest).toBe(all[index - 1]?.digest ?? '');
  });
});

test('numbers of commands ascend for an agent, and an agent that holds its set is left alone', async () => {
  const { organization, vault, set, signed } = await assignedVault();
  const first = opened((await tell(vault)).command ?? '').command.number;
  expect((await tell(vault)).command).toBeNull();
  expect(await shown(vault)).toMatchObject({ state: 'delivered', held: null });
  expect((await tell(vault, heldOf(signed))).command).toBeNull();
  expect(await shown(vault)).toMatchObject({ state: 'active', held: heldOf(signed) });
  const next = await world.sign(organization, set.id);
  await world.assign(vault, next.number);
  expect(await shown(vault)).toMatchObject({ state: 'pending', assigned: heldOf(next) });
  const second = opened((await tell(vault, heldOf(signed))).command ?? '');
  expect(second.command.number).toBeGreaterThan(first);
  expect(second.action.policySet?.version).toBe(next.number);
});

test('a rejection is shown with its reason, told to people, and over when the set is active', async () => {
  const { vault, signed } = await assignedVault();
  await tell(vault);
  await reported(vault, signed, 'rejected', 'policy');
  expect(await shown(vault)).toMatchObject({ state: 'rejected', reason: 'policy' });
  expect(await told(vault)).toEqual(['policy.rejected rejected_policy raised']);
  expect(world.nudges).toContain('vaultReports');
  expect((await tell(vault)).command).toBeNull();
  await reported(vault, signed, 'active');
  expect(await shown(vault)).toMatchObject({ state: 'active', reason: null });
  expect(await told(vault)).toContain('policy.rejected rejected_policy cleared');
});

test('drift is found by what a heartbeat says, told, and mended', async () => {
  const { organization, vault, set, signed } = await assignedVault();
  await tell(vault, heldOf(signed));
  const later = await world.sign(organization, set.id);
  const { command } = await tell(vault, heldOf(later));
  expect(command).not.toBeNull();
  expect(await shown(vault)).toMatchObject({ state: 'drifted', held: heldOf(later) });
  expect(await told(vault)).toEqual(['policy.drifted drifted raised']);
  await tell(vault, heldOf(signed));
  expect(await shown(vault)).toMatchObject({ state: 'active' });
  expect((await told(vault)).at(-1)).toBe('policy.drifted drifted cleared');
});

test('staleness and decisions are shown as an agent reports them', async () => {
  const { vault, signed } = await assignedVault();
  await tell(vault, heldOf(signed));
  await reported(vault, signed, 'stale');
  expect((await shown(vault)).staleSince).not.toBeNull();
  await reported(vault, signed, 'fresh');
  expect((await shown(vault)).staleSince).toBeNull();
  for (let round = 0; round < 2; round += 1) {
    await world.database.withTenant(vault, (transaction) =>
      enqueue(transaction, vault.organizationId, 'policy.reported', {
        vaultId: vault.vaultId,
        agentId: vault.agents[0] ?? '',
        policyDecisions: {
          ...heldOf(signed),
          allowed: 10,
          denied: 3,
          newlyAllowed: 0,
          newlyDenied: 2,
          errors: 1,
        },
      }),
    );
  }
  await Promise.all([world.reports.take(), world.reports.take()]);
  expect((await shown(vault)).decisions).toEqual({
    allowed: 20,
    denied: 6,
    newlyDenied: 4,
    errors: 2,
  });
});

test('two gateways that tell the same agents at once send one command each', async () => {
  const { vault } = await assignedVault(20);
  const agents = vault.agents.map((agentId) => ({
    organizationId: vault.organizationId,
    agentId,
    held: null,
  }));
  const answers = await Promise.all([
    world.deliveries.deliver(agents),
    world.deliveries.deliver([...agents].reverse()),
  ]);
  const sent = answers.flatMap(({ results }) => results.filter(({ command }) => command !== null));
  expect(sent.length).toBeGreaterThanOrEqual(20);
  const numbers = await world.database.withTenant(vault, (transaction) =>
    transaction.agentPolicy.findMany({ select: { commandNumber: true } }),
  );
  expect(numbers.reduce((sum, row) => sum + Number(row.commandNumber), 0)).toBe(sent.length);
});

test('a set that goes to a whole fleet is told in as many answers as it takes, each of which the bus carries', async () => {
  const { vault } = await assignedVault(0);
  const fleet = await crowd(vault, 2 * limits.policySetCommandsPerCall + 1);
  const ask = async (agents: readonly string[]) => {
    const { organizationId } = vault;
    const { results } = await world.deliveries.deliver(
      agents.map((agentId) => ({ organizationId, agentId, held: null })),
    );
    // As many as there can be in a call, each of its largest.
    const largest = Math.max(...results.map((result) => JSON.stringify(result).length));
    const most = limits.policySetCommandsPerCall * largest + limits.policySetAgentsPerCall * 170;
    expect(most).toBeLessThan(limits.busPayloadMaxBytes);
    const again = agents.filter((_, at) => results[at]?.more);
    return { told: results.filter(({ command }) => command !== null).length, again };
  };
  const first = await ask(fleet);
  expect([first.told, first.again.length]).toEqual([100, 101]);
  const second = await ask(first.again);
  expect([second.told, second.again.length]).toEqual([100, 1]);
  expect(await ask(second.again)).toEqual({ told: 1, again: [] });
  expect((await ask(fleet)).told).toBe(0);
});

test('what an agent is told to do comes under ascending numbers until it is answered or too late', async () => {
  const organization = await world.organization();
  const vault = await world.vault(organization, [null]);
  const command = commandOf(vault)(vault.agents[0] ?? '');
  const change = (work: (transaction: Transaction) => Promise<unknown>) =>
    world.database.withTenant(vault, work);
  await change((transaction) => orderCommands(transaction, [command]));
  await world.commands.look();
  // Nobody is there to be told yet.
  expect(world.nudges).not.toContain('agentCommands');
  await change((transaction) =>
    transaction.agentLiveness.updateMany({ data: { status: 'online' } }),
  );
  await world.commands.look();
  expect(world.nudges).toContain('agentCommands');
  const numberOf = (commands: readonly string[]) =>
    commands.map((each) => {
      const content = ControlMessage.decode(Buffer.from(each, 'base64')).payload?.content;
      expect(content).toMatchObject({ value: { action: command.action } });
      return content?.$case === 'command' ? content.value.number : 0;
    });
  expect(numberOf((await tell(vault)).commands)).toEqual([1]);
  expect((await tell(vault)).commands).toEqual([]);
  const late = (ms: number) => new Date(Date.now() - ms);
  await change((transaction) =>
    transaction.agentCommand.updateMany({ data: { sentAt: late(31_000) } }),
  );
  expect(numberOf((await tell(vault)).commands)).toEqual([2]);
  await change((transaction) =>
    transaction.agentCommand.updateMany({ data: { sentAt: null, expiresAt: late(1) } }),
  );
  expect((await tell(vault)).commands).toEqual([]);
  await world.commands.look();
  expect(await change((transaction) => transaction.agentCommand.count())).toBe(0);
  await change((transaction) => orderCommands(transaction, [command]));
  await change((transaction) =>
    forgetCommands(transaction, vault.organizationId, command.subjectId, command.agentId),
  );
  expect((await tell(vault)).commands).toEqual([]);
  expect(await shown(vault)).toMatchObject({ state: null, assigned: null });
});

test('agents that nobody gets hold of, and commands that nobody answers, hold up no others', async () => {
  const organization = await world.organization();
  const vault = await world.vault(organization, [null]);
  const agents = await crowd(vault, limits.agentCommandsPerLook + 5);
  await world.database.withTenant(vault, (transaction) =>
    orderCommands(transaction, agents.map(commandOf(vault))),
  );
  await world.commands.look();
  expect(world.nudged).toHaveLength(limits.agentCommandsPerLook);
  await world.commands.look();
  expect(new Set(world.nudged)).toEqual(
    new Set(agents.map((agentId) => `${vault.organizationId}/${agentId}`)),
  );
  const [agentId = ''] = vault.agents;
  const order = (count: number) =>
    world.database.withTenant(vault, (transaction) =>
      orderCommands(transaction, Array(count).fill(agentId).map(commandOf(vault))),
    );
  await order(limits.agentCommandsPerCall);
  expect((await tell(vault)).commands).toHaveLength(limits.agentCommandsPerCall);
  await world.database.withTenant(vault, async (transaction) => {
    await transaction.agentCommand.updateMany({
      where: { agentId },
      data: { sentAt: new Date(Date.now() - 31_000) },
    });
  });
  await order(1);
  expect((await tell(vault)).commands).toHaveLength(limits.agentCommandsPerCall);
  const unsent = await world.database.withTenant(vault, (transaction) =>
    transaction.agentCommand.count({ where: { agentId, sentAt: null } }),
  );
  expect(unsent).toBe(0);
  await world.database.withTenant(vault, (transaction) => transaction.agentCommand.deleteMany());
});

test('an agent that is revoked, deleted, foreign or unknown is told nothing', async () => {
  const { vault } = await assignedVault();
  const other = await world.organization();
  await world.database.withTenant(vault, (transaction) =>
    transaction.agent.updateMany({ data: { revokedAt: new Date() } }),
  );
  expect(await tell(vault)).toEqual(nothing);
  const foreign = { ...vault, organizationId: other.organizationId };
  expect(await tell(foreign)).toEqual(nothing);
  expect(await tell({ ...vault, agents: [newUuid()] })).toEqual(nothing);
  expect(
    await world.deliveries.part({
      organizationId: other.organizationId,
      digest: 'a'.repeat(64),
      offset: 0,
    }),
  ).toEqual({ totalBytes: 0, content: null });
});

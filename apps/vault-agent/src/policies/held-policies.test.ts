import { X509Certificate } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  PolicySetOutcome,
  PolicySetProblem,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import {
  organizationSignerUri,
  policySetDigest,
  signPolicySet,
} from '@keystead/agent-protocol/policy-set-signature';
import {
  ExtendedKeyUsage,
  type Issued,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import { newUuid, toId } from '@keystead/contracts/ids';
import {
  type AgentConfiguration,
  type PolicySetContent,
  policySetForm,
} from '@keystead/contracts/policy-set-content';
import { refusingSet } from '@keystead/policy-engine/compile';
import { decide } from '@keystead/policy-engine/decide';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { EventKind } from '../durable-queue.ts';
import { isEmpty } from './empty-set.ts';
import { HeldPolicies } from './held-policies.ts';
import type { AnchoredSet } from './policy-anchor.ts';
import type { ArrivedSet } from './policy-set-check.ts';
import { PolicyView } from './policy-view.ts';

const authority = await TestAuthority.create();
const organizationId = newUuid();
const signerOf = (organization: string, by = authority) =>
  by.issue({
    names: [{ type: 'url', value: organizationSignerUri(testTrustDomain, organization) }],
    usages: [ExtendedKeyUsage.codeSigning],
  });
const signer = await signerOf(organizationId);

let configured: AgentConfiguration = {};
let audited: string[] = [];
let digests: string[] = [];
let unknownDestinations: number[] = [];
let anchored: AnchoredSet | undefined;
let isStoreAway: boolean;
let slowStore: Promise<void> | undefined;
let folder: string;
let nowMs: number;
let monotonicMs = 0;
let told: { outcome: PolicySetOutcome; problem: PolicySetProblem; version: number }[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-policies-'));
  nowMs = Date.now();
  told = [];
  configured = {};
  audited = [];
  digests = [];
  unknownDestinations = [];
  anchored = undefined;
  isStoreAway = false;
  slowStore = undefined;
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const log = { info: () => {}, warn: () => {}, error: () => {} };
const open = () =>
  HeldPolicies.open({
    folder,
    anchor: {
      read: async () => anchored,
      write: async (set) => {
        await slowStore;
        if (isStoreAway) throw new Error('the store is away');
        anchored = set;
      },
    },
    configure: (given) => {
      configured = given;
    },
    configured: () => ({
      digest: JSON.stringify(configured),
      unknownDestinations: configured.auditForwarding ?? [],
    }),
    trust: () => ({ root: authority.root, trustDomain: testTrustDomain, organizationId }),
    now: () => nowMs,
    monotonicMs: () => monotonicMs,
    record: (kind: EventKind) => {
      if (kind.$case !== 'policySetReported') return;
      const { outcome, problem, policySet, configurationDigest } = kind.value;
      digests.push(configurationDigest);
      unknownDestinations.push(kind.value.unknownDestinations);
      told.push({ outcome, problem, version: policySet?.version ?? 0 });
    },
    audit: (number, isTaken, { outcome, problem }) =>
      audited.push(`${number} ${isTaken} ${outcome} ${problem ?? ''}`),
    log,
  });

function arrived(
  number: number,
  changes: Partial<PolicySetContent> & { predecessor?: string } = {},
  by: Issued = signer,
  chainOf: TestAuthority = authority,
): ArrivedSet {
  const content = Buffer.from(
    JSON.stringify({
      form: policySetForm,
      organizationId: toId('organization', organizationId),
      setId: toId('policySet', newUuid()),
      number,
      predecessor: '',
      createdAt: new Date(nowMs).toISOString(),
      staleness: null,
      configuration: {},
      set: { vault: { policies: [{ id: 'all', cedar: 'permit(principal, action, resource);' }] } },
      ...changes,
    }),
  );
  const digest = policySetDigest(content);
  return {
    number,
    digest,
    content,
    signature: signPolicySet(digest, by.key),
    chain: [by.certificate, chainOf.intermediate].map((pem) => new X509Certificate(pem).raw),
  };
}

const decision = (held: HeldPolicies) =>
  held.active &&
  decide(held.active.compiled, {
    principal: { kind: 'api_key', id: 'key' },
    action: 'secret.read',
    resource: { vault: { id: 'v', name: 'v' }, namespace: { name: 'n' }, secret: { name: 's' } },
    context: { atMs: nowMs, authentication: { method: 'api_key', ageSeconds: 0 } },
  }).decision;

test('a sound set decides at once, and after a restart; the one before it is kept', async () => {
  const held = await open();
  expect(held.held).toBeUndefined();
  const one = arrived(3);
  expect(await held.receive(one)).toEqual({ outcome: 'active' });
  expect(decision(held)).toBe('allow');
  const two = arrived(4, {
    predecessor: one.digest,
    set: { vault: { policies: [{ id: 'no', cedar: 'forbid(principal, action, resource);' }] } },
  });
  expect(await held.receive(two)).toEqual({ outcome: 'active' });
  for (const each of [held, await open()]) {
    expect(each.held).toEqual({ version: 4, digest: two.digest });
    expect(decision(each)).toBe('deny');
    expect(each.previous?.number).toBe(3);
  }
  expect(await held.receive(arrived(9))).toEqual({ outcome: 'active' });
  expect(readdirSync(folder).filter((name) => name.length > 64)).toHaveLength(2);
  expect(told.map(({ outcome }) => outcome)).toEqual(Array(3).fill(PolicySetOutcome.ACTIVE));
});

test('a set that was put back, or taken away, is noticed, told, and decides nothing until the right one is there', async () => {
  const held = await open();
  const one = arrived(3);
  await held.receive(one);
  const older = readdirSync(folder).map(
    (name) => [name, readFileSync(join(folder, name))] as const,
  );
  const two = arrived(4, { predecessor: one.digest });
  await held.receive(two);
  expect(anchored).toEqual({ number: 4, digest: two.digest });
  const wipe = () => {
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
  };
  const putBack = () => {
    wipe();
    for (const [name, content] of older) writeFileSync(join(folder, name), content);
  };
  for (const rollBack of [putBack, wipe]) {
    rollBack();
    told = [];
    const after = await open();
    expect(decision(after)).toBe('deny');
    // Nothing is said to be held, so that it is brought again.
    expect(after.held).toBeUndefined();
    expect(told).toEqual([{ outcome: PolicySetOutcome.ROLLED_BACK, problem: 0, version: 4 }]);
    expect(await after.receive(one)).toEqual({
      outcome: 'rejected',
      problem: PolicySetProblem.NUMBER,
    });
    expect(await after.receive(two)).toEqual({ outcome: 'active' });
    expect(decision(after)).toBe('allow');
    expect(decision(await open())).toBe('allow');
  }
});

test('the configuration of a set is taken over with it, wholly or not at all, also after a restart', async () => {
  const held = await open();
  const configuration = {
    secretMaxVersions: 5,
    tokenTtlSeconds: 3_600,
    suspiciousActivity: { bulkReading: { secrets: 20, response: 'lock_agent' as const } },
    auditForwarding: ['siem', 'archive'],
  };
  expect(await held.receive(arrived(5, { configuration }))).toEqual({ outcome: 'active' });
  expect(configured).toEqual(configuration);
  expect(audited).toEqual(['5 true active ']);
  for (const wrong of [
    { secretMaxVersions: 500 },
    { secretMaxVersions: 5, tokenTtlSeconds: 1 },
    { secretMaxVersions: 5, openTheDoor: true },
    { suspiciousActivity: { manyDenials: { response: 'off' } } },
    { suspiciousActivity: { newNetwork: { response: 'notice', network: '10.0.0.0/8' } } },
    { suspiciousActivity: { lockSeconds: 1 } },
    { auditForwarding: ['https://attacker.example.com'] },
    { auditForwarding: ['siem', 'siem'] },
    { auditForwarding: [{ type: 'http', url: 'https://attacker.example.com' }] },
  ]) {
    expect(await held.receive(arrived(6, { configuration: wrong as never }))).toEqual({
      outcome: 'rejected',
      problem: PolicySetProblem.CONFIGURATION,
    });
  }
  expect(configured).toEqual(configuration);
  expect(audited.slice(1)).toEqual(Array(9).fill('6 false rejected configuration'));
  expect(digests).toEqual(Array(10).fill(JSON.stringify(configuration)));
  // How many receivers of the audit are not known here is told with it.
  expect(unknownDestinations).toEqual(Array(10).fill(2));
  // What is told is what holds then: vault.yaml was read again, and names one of them by now.
  configured = { ...configuration, auditForwarding: ['siem'] };
  await held.receive(arrived(6, { configuration: { secretMaxVersions: 500 } as never }));
  expect(digests.at(-1)).toBe(JSON.stringify(configured));
  expect(unknownDestinations.at(-1)).toBe(1);
  configured = {};
  await open();
  expect(configured).toEqual(configuration);
});

test('a set without policies is held like every other, and roles decide alone under it', async () => {
  const held = await open();
  expect(await held.receive(arrived(5, { set: { networks: {}, namespaces: {} } }))).toEqual({
    outcome: 'active',
  });
  expect(held.active && isEmpty(held.active.compiled)).toBe(true);
  const view = new PolicyView({
    held,
    overrides: { active: undefined },
    decider: { totals: { allowed: 0, denied: 0, errors: 0 } },
    clock: { read: () => ({ atMs: nowMs, trusted: true }) },
  });
  expect(view.read()).toMatchObject({ set: { number: 5, policies: 0 }, decides: 'roles' });
  expect(isEmpty(refusingSet('corrupt_set'))).toBe(false);
});

test('a store that could not be told is told later; one that is behind the files is brought up', async () => {
  const held = await open();
  isStoreAway = true;
  const one = arrived(3);
  expect(await held.receive(one)).toEqual({ outcome: 'active' });
  expect(anchored).toBeUndefined();
  isStoreAway = false;
  await expect
    .poll(() => {
      held.tick();
      return anchored;
    })
    .toEqual({ number: 3, digest: one.digest });
  anchored = { number: 2, digest: 'a'.repeat(64) };
  expect(decision(await open())).toBe('allow');
  expect(anchored).toEqual({ number: 3, digest: one.digest });
});

test('an older set is never told to the store after a newer one, however slow and broken it is', async () => {
  const held = await open();
  const one = arrived(1);
  isStoreAway = true;
  await held.receive(one);
  await new Promise((resolve) => setImmediate(resolve));
  // The second try for the old set hangs, and fails when the new one is active already.
  const hanging = Promise.withResolvers<void>();
  slowStore = hanging.promise;
  held.tick();
  slowStore = undefined;
  isStoreAway = false;
  const two = arrived(2, { predecessor: one.digest });
  const taken = held.receive(two);
  await expect.poll(() => readFileSync(join(folder, 'held.json'), 'utf8')).toContain(two.digest);
  await new Promise((resolve) => setImmediate(resolve));
  hanging.reject(new Error('the store is away'));
  expect(await taken).toEqual({ outcome: 'active' });
  await new Promise((resolve) => setImmediate(resolve));
  expect(anchored).toEqual({ number: 2, digest: two.digest });
  held.tick();
  await new Promise((resolve) => setImmediate(resolve));
  expect(anchored).toEqual({ number: 2, digest: two.digest });
});

test('a set that is on the disk decides, also where what it replaces cannot be removed', async () => {
  const held = await open();
  const stuck = join(folder, `${'a'.repeat(64)}.json`);
  mkdirSync(stuck, { recursive: true });
  expect(await held.receive(arrived(1))).toEqual({ outcome: 'active' });
  expect((await open()).held).toMatchObject({ version: 1 });
});

test('what is not signed by this organization below our root is refused, and the old set goes on', async () => {
  const held = await open();
  const kept = arrived(5);
  await held.receive(kept);
  const foreign = newUuid();
  const strange = await TestAuthority.create();
  const sound = arrived(6, { predecessor: kept.digest });
  const refused: [ArrivedSet, PolicySetProblem][] = [
    [arrived(6, {}, await signerOf(foreign)), PolicySetProblem.SIGNATURE],
    [arrived(6, {}, await signerOf(organizationId, strange), strange), PolicySetProblem.SIGNATURE],
    [arrived(6, {}, await authority.issueAgent({ organizationId })), PolicySetProblem.SIGNATURE],
    [{ ...sound, signature: arrived(7).signature }, PolicySetProblem.SIGNATURE],
    [{ ...sound, chain: [] }, PolicySetProblem.SIGNATURE],
    [
      arrived(6, { organizationId: toId('organization', foreign), predecessor: kept.digest }),
      PolicySetProblem.ORGANIZATION,
    ],
    [arrived(5), PolicySetProblem.NUMBER],
    [arrived(4), PolicySetProblem.NUMBER],
    [{ ...sound, number: 7 }, PolicySetProblem.NUMBER],
    [arrived(6, { predecessor: 'a'.repeat(64) }), PolicySetProblem.PREDECESSOR],
    [{ ...sound, content: sound.content.subarray(0, 100) }, PolicySetProblem.DIGEST],
    [
      {
        ...sound,
        content: Buffer.from(sound.content.toString().replace('permit', 'forbid')),
      },
      PolicySetProblem.DIGEST,
    ],
    [arrived(6, { form: 'keystead.policy-set.v9' as never }), PolicySetProblem.FORM],
    [
      arrived(6, {
        predecessor: kept.digest,
        set: { vault: { policies: [{ id: 'x', cedar: 'permit(principal' }] } },
      }),
      PolicySetProblem.POLICY,
    ],
  ];
  for (const [set, problem] of refused) {
    expect(await held.receive(set)).toEqual({ outcome: 'rejected', problem });
    expect(held.held).toEqual({ version: 5, digest: kept.digest });
    expect(decision(held)).toBe('allow');
  }
  expect(told).toHaveLength(1 + refused.length);
  expect((await open()).held).toEqual({ version: 5, digest: kept.digest });
  expect(await held.receive(sound)).toEqual({ outcome: 'active' });
});

test('an expired signer is refused, and what was accepted in its time goes on', async () => {
  const short = await authority.issue({
    names: [{ type: 'url', value: organizationSignerUri(testTrustDomain, organizationId) }],
    usages: [ExtendedKeyUsage.codeSigning],
    notAfter: new Date(nowMs + 60_000),
  });
  const held = await open();
  const set = arrived(1, {}, short);
  await held.receive(set);
  nowMs += 120_000;
  expect(await held.receive(arrived(2, { predecessor: set.digest }, short))).toMatchObject({
    problem: PolicySetProblem.SIGNATURE,
  });
  expect((await open()).held?.version).toBe(1);
});

test('a set that is changed on the disk is not obeyed: the one before it decides, or nothing is permitted', async () => {
  const held = await open();
  const one = arrived(1);
  const two = arrived(2, { predecessor: one.digest });
  await held.receive(one);
  await held.receive(two);
  const damage = (digest: string) => {
    const file = join(folder, `${digest}.json`);
    writeFileSync(file, readFileSync(file, 'utf8').replace('permit', 'permit '));
  };
  damage(two.digest);
  const older = await open();
  expect(older.held).toEqual({ version: 1, digest: one.digest });
  expect(told.at(-1)).toMatchObject({ outcome: PolicySetOutcome.DAMAGED, version: 2 });
  damage(one.digest);
  const none = await open();
  expect(none.held).toBeUndefined();
  expect(decision(none)).toBe('deny');
  // The control plane sends again what is missed.
  expect(await none.receive(two)).toEqual({ outcome: 'active' });
  expect(decision(none)).toBe('allow');
  writeFileSync(join(folder, 'held.json'), '{');
  expect(decision(await open())).toBe('deny');
});

test('a set that may be out of date says so once, also over a restart, and again when it is heard', async () => {
  const held = await open();
  await held.receive(arrived(1, { staleness: { afterSeconds: 600, afterwards: 'restrict' } }));
  held.heard();
  nowMs += 599_000;
  held.tick();
  expect(held.staleness).toBeUndefined();
  nowMs += 2_000;
  held.tick();
  held.tick();
  expect(held.staleness).toBe('restrict');
  const again = await open();
  again.tick();
  expect(again.staleness).toBe('restrict');
  again.heard();
  expect(again.staleness).toBeUndefined();
  expect(told.map(({ outcome }) => outcome)).toEqual([
    PolicySetOutcome.ACTIVE,
    PolicySetOutcome.STALE,
    PolicySetOutcome.STALE,
    PolicySetOutcome.FRESH,
  ]);
});

test('setting the clock back makes no silence shorter, in this run and over a restart', async () => {
  const held = await open();
  await held.receive(arrived(1, { staleness: { afterSeconds: 600, afterwards: 'deny' } }));
  held.heard();
  const hour = 3_600_000;
  nowMs -= hour;
  monotonicMs += 601_000;
  held.tick();
  expect(held.staleness).toBe('deny');
  const told: number[] = [];
  const again = await open();
  again.tick();
  expect(again.staleness).toBe('deny');
  again.onTimeTold = (unixMs) => told.push(unixMs);
  again.heard(5);
  expect([again.staleness, told]).toEqual([undefined, [5]]);
  expect(again.surelyPastMs).toBeGreaterThan(nowMs);
});

test('sets that arrive at once are taken in turn, and the highest number stays', async () => {
  const held = await open();
  const sets = [arrived(10), arrived(30), arrived(20)];
  const outcomes = await Promise.all(sets.map((set) => held.receive(set)));
  expect(outcomes.map(({ outcome }) => outcome)).toEqual(['active', 'active', 'rejected']);
  expect(held.held?.version).toBe(30);
});

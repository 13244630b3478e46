/** A long time without a control plane, and the way back. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isAuditHeadSignedBy } from '@keystead/agent-protocol/audit-head';
import { parseEndpoint } from '@keystead/agent-protocol/link-client';
import { newUuid } from '@keystead/contracts/ids';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { fact, freshLogFile, openTrail } from '../audit/audit-log.fixture.ts';
import { verifyAudit } from '../audit/audit-verification.ts';
import { ControlLink } from '../control-link.ts';
import { ControlPlane } from '../control-plane.fixture.ts';
import { DurableQueue } from '../durable-queue.ts';
import { enrollAgent } from '../enrollment.ts';
import { hostFacts, ProcessGauges } from '../host.ts';
import { IdentityStore } from '../identity-store.ts';
import { HeldPolicies } from '../policies/held-policies.ts';
import { policyTrustOf } from '../policies/policy-trust.ts';
import { NameReferences } from './name-references.ts';
import { Upward } from './upward.ts';

const hourMs = 3_600_000;

test('after thirty days alone, everything that waited arrives once and in order, and proves the audit', async () => {
  const plane = await ControlPlane.start();
  const folder = join(mkdtempSync(join(tmpdir(), 'keystead-upward-')), 'data');
  await enrollAgent({
    endpoint: plane.endpoint,
    token: plane.token,
    caFingerprint: plane.fingerprint,
    name: 'payments',
    data: folder,
    port: 0,
    force: false,
  });
  await plane.down();
  const identities = new IdentityStore({
    certificate: join(folder, 'identity/agent.crt'),
    privateKey: join(folder, 'identity/agent.key'),
    root: join(folder, 'identity/root.crt'),
  });
  identities.load();
  const endMs = Date.now();
  const startMs = endMs - 30 * 24 * hourMs;
  const clock = { nowMs: startMs };
  const bootId = newUuid();
  const queue = new DurableQueue(
    join(folder, 'queue.db'),
    { bootId, startedAtUnixMs: startMs, configuration: {} },
    10_000,
  );
  const log = pino({ level: 'silent' });
  const upward = new Upward({
    queue,
    names: new NameReferences(Buffer.alloc(32, 1)),
    sizes: async () => ({ namespaces: 1, secrets: 1, storedBytes: 1 }),
    identityKey: () => identities.current.privateKey,
    log,
    now: () => clock.nowMs,
    monotonicNow: () => clock.nowMs - startMs + 1,
  });
  const logFile = freshLogFile();
  const trail = await openTrail(logFile, {
    now: () => clock.nowMs,
    monotonicNow: () => clock.nowMs - startMs + 1,
  });
  upward.follow(trail);
  const stepMs = process.env.KEYSTEAD_PROVE === 'full' ? 60_000 : 4 * hourMs;
  for (clock.nowMs = startMs; clock.nowMs < endMs; clock.nowMs += stepMs) {
    await trail.record(fact(clock.nowMs));
    upward.settled(
      { action: 'secret.read-value', resource: { namespace: 'n', secret: 's' } },
      'done',
      1,
    );
    upward.tick();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await trail.stop();
  await upward.stop();
  expect(queue.refused).toBe(0);
  const waited = queue
    .after(0, 20_000)
    .map(({ bootId: boot, sequence, event }) => `${boot} ${sequence} ${event.kind?.$case}`);
  expect(waited.length).toBeGreaterThan(300);
  await plane.up();
  const link = new ControlLink({
    endpoint: parseEndpoint(plane.endpoint),
    identities,
    queue,
    vaultId: plane.vaultId,
    bootId,
    agentVersion: '0.0.0',
    configurationDigest: '',
    host: hostFacts(),
    gauges: new ProcessGauges(),
    policies: await HeldPolicies.open({
      folder: join(folder, 'policies'),
      anchor: { read: async () => undefined, write: async () => undefined },
      trust: () => policyTrustOf(identities.current),
      now: Date.now,
      record: () => undefined,
      log,
    }),
    log,
    startedAtUnixMs: startMs,
    firstIntervalMs: 30_000,
    now: () => ({ unixMs: Date.now(), monotonicMs: performance.now() }),
    random: () => 0.5,
  });
  const sinceMs = performance.now();
  link.start();
  await plane.until(() => queue.waiting === 0, 50_000);
  const drainedMs = performance.now() - sinceMs;
  await link.stop();
  queue.close();
  await plane.down();
  const arrived = plane.heard
    .filter(({ message }) => message.payload?.content?.$case === 'event')
    .map(({ bootId: boot, sequence, kind }) => `${boot} ${sequence} ${kind}`);
  expect(arrived).toEqual(expect.arrayContaining(waited));
  const own = new Set(waited);
  expect(arrived.filter((each) => own.has(each))).toEqual(waited);
  expect([...plane.events.values()].every((times) => times === 1)).toBe(true);
  expect(drainedMs).toBeLessThan(50_000);
  // What arrived is enough to find a log that is rewritten now.
  const heads = plane.heard.flatMap(({ message }) => {
    const content = message.payload?.content;
    const kind = content?.$case === 'event' ? content.value.kind : undefined;
    return kind?.$case === 'auditHead' ? [kind.value] : [];
  });
  expect(heads.length).toBeGreaterThan(100);
  const { publicKey } = identities.current.leaf;
  const certificateKey = publicKey.export({ type: 'spki', format: 'der' });
  for (const head of heads) {
    expect(head.signerKey.equals(certificateKey)).toBe(true);
    expect(isAuditHeadSignedBy(head, head.signature, head.signerKey)).toBe(true);
  }
  const trustedHeads = heads.map(({ chainId, sequence, hash }) => ({
    chain: chainId.toString('hex'),
    sequence,
    hash: hash.toString('hex'),
  }));
  expect(await verifyAudit(logFile, { trustedHeads })).toMatchObject({
    ok: true,
    trustedHeads: { confirmed: heads.length },
  });
});

import { createHash, generateKeyPairSync } from 'node:crypto';
import { signAuditHead } from '@keystead/agent-protocol/audit-head';
import {
  AgentMessage,
  type ApprovalReported,
  ApprovalState,
  ApprovalVerdict,
  type AuditHead,
  AuditHeadSigner,
  OperationOutcome,
  SecurityNoticeKind,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { retainedEvent } from '@keystead/contracts/agent-link';
import { newUuid } from '@keystead/contracts/ids';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { eventOf, factsOf, healthOf } from './received-message.ts';
import { helloValue } from './test-session.fixture.ts';

const text = fc.oneof(
  fc.string({ maxLength: 300 }),
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc.constantFrom('', '0.1.0', newUuid(), 'ab'.repeat(32), 'ff'),
);
const number = fc.oneof(
  fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  fc.constantFrom(0, -1, 1_700_000_000_000, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER),
);
const count = fc.oneof(fc.nat(), fc.constantFrom(0, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER));
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.constantFrom(new Uint8Array(0), new Uint8Array(16), new Uint8Array(32)),
);
const blob = bytes.map((content) => Buffer.from(content));
const id = fc.oneof(
  fc.uuid().map((text) => Buffer.from(text.replaceAll('-', ''), 'hex')),
  blob,
);
const word = fc.integer({ min: 0, max: 40 }) as fc.Arbitrary<never>;
const kind = fc.oneof(
  fc.record({
    $case: fc.constant('auditHead' as const),
    value: fc.record({
      chainId: blob,
      sequence: count,
      hash: blob,
      atUnixMs: number,
      entriesSincePrevious: count,
      signer: word,
      signature: blob,
      signerKey: blob,
    }),
  }),
  fc.record({
    $case: fc.constant('operationCounts' as const),
    value: fc.record({
      periodStartUnixMs: number,
      periodEndUnixMs: number,
      counts: fc.array(
        fc.record({
          operation: word,
          outcome: word,
          count,
          p50Us: count,
          p95Us: count,
          p99Us: count,
        }),
        { maxLength: 60 },
      ),
      topSecrets: fc.array(fc.record({ secretRef: blob, count }), { maxLength: 12 }),
      namespaces: count,
      secrets: count,
      storedBytes: count,
    }),
  }),
  fc.record({
    $case: fc.constant('rotationReported' as const),
    value: fc.record({
      namespaceRef: blob,
      secretRef: blob,
      outcome: word,
      attempt: count,
      rotator: word,
      nextDueUnixMs: number,
    }),
  }),
  fc.record({
    $case: fc.constant('backupReported' as const),
    value: fc.record({
      kind: word,
      outcome: word,
      destination: word,
      bytes: count,
      secrets: count,
      durationMs: count,
      attempt: count,
    }),
  }),
  fc.record({
    $case: fc.constant('policySetReported' as const),
    value: fc.record({
      policySet: fc.option(fc.record({ version: count, digest: text }), { nil: undefined }),
      outcome: word,
      problem: word,
      configurationDigest: text,
      unknownDestinations: count,
    }),
  }),
  fc.record({
    $case: fc.constant('replayReported' as const),
    value: fc.record({
      replayId: id,
      outcome: word,
      fromUnixMs: number,
      decisions: count,
      newlyDenied: count,
      newlyAllowed: count,
      newlyNeedingApproval: count,
      unchanged: count,
      unevaluated: fc.array(fc.record({ obstacle: word, count }), { maxLength: 20 }),
      differences: fc.array(fc.record({ decisionRef: blob, change: word, count }), {
        maxLength: 25,
      }),
      durationMs: count,
    }),
  }),
  fc.record({
    $case: fc.constant('approvalReported' as const),
    value: fc.record({
      approvalId: id,
      revision: count,
      state: word,
      action: fc.oneof(text, fc.constant('secret.read-value')),
      namespaceRef: blob,
      secretRef: blob,
      otherRef: blob,
      requesterRef: blob,
      requestedAtUnixMs: number,
      expiresAtUnixMs: number,
      requirements: fc.array(
        fc.record({
          policy: fc.oneof(text, fc.constant('pol_1:v3')),
          approvers: fc.array(fc.oneof(text, fc.constant('admin'))),
          count,
        }),
        { maxLength: 20 },
      ),
      decisions: fc.array(
        fc.record({ approverRef: blob, verdict: word, atUnixMs: number, decisionId: id }),
        { maxLength: 70 },
      ),
    }),
  }),
  fc.record({
    $case: fc.constant('approvalAnswered' as const),
    value: fc.record({ approvalId: id, decisionId: id, outcome: word }),
  }),
  fc.record({
    $case: fc.constant('policyDecisionCounts' as const),
    value: fc.record({
      policySet: fc.record({ version: fc.nat(), digest: fc.constantFrom('', 'ab'.repeat(32)) }),
      periodStartUnixMs: number,
      periodEndUnixMs: number,
      allowed: count,
      denied: count,
      newlyAllowed: count,
      newlyDenied: count,
      errors: count,
    }),
  }),
  fc.record({
    $case: fc.constant('securityNotice' as const),
    value: fc.record({ kind: word, identityRef: blob, count }),
  }),
  fc.record({
    $case: fc.constant('booted' as const),
    value: fc.record({
      agentVersion: text,
      previousBootId: text,
      previousRunEndedCleanly: fc.boolean(),
      configurationDigest: text,
    }),
  }),
  fc.record({
    $case: fc.constant('configurationChanged' as const),
    value: fc.record({
      previousDigest: text,
      digest: text,
      sections: fc.array(fc.integer() as fc.Arbitrary<never>, { maxLength: 40 }),
    }),
  }),
  fc.record({
    $case: fc.constant('certificateRenewed' as const),
    value: fc.record({ previousSerial: text, serial: text, notAfterUnixMs: number }),
  }),
  fc.record({
    $case: fc.constant('clockJumped' as const),
    value: fc.record({ jumpMs: number }),
  }),
  fc.record({
    $case: fc.constant('contactLost' as const),
    value: fc.record({ lastContactUnixMs: number, reason: fc.integer() as fc.Arbitrary<never> }),
  }),
  fc.record({
    $case: fc.constant('contactRegained' as const),
    value: fc.record({
      lostAtUnixMs: number,
      gapMs: number,
      attempts: number,
      reason: fc.integer() as fc.Arbitrary<never>,
    }),
  }),
  fc.record({
    $case: fc.constant('queueOverflowed' as const),
    value: fc.record({ count: number, firstAtUnixMs: number, lastAtUnixMs: number }),
  }),
  fc.record({
    $case: fc.constant('shutDown' as const),
    value: fc.record({ uptimeSeconds: number }),
  }),
);

test('whatever event arrives, what gets further fits the contract', () => {
  fc.assert(
    fc.property(kind, number, (told, occurredAtUnixMs) => {
      const checked = eventOf({ occurredAtUnixMs, kind: told }, undefined);
      if ('wrong' in checked) return;
      const parsed = retainedEvent.safeParse({
        organizationId: newUuid(),
        agentId: newUuid(),
        bootId: newUuid(),
        sequence: 1,
        signature: '',
        ...checked.value,
      });
      expect(parsed.error?.issues ?? []).toEqual([]);
    }),
    { numRuns: 2_000 },
  );
});

test('whatever facts arrive, only plain ones get further', () => {
  const hello = helloValue();
  expect(factsOf(hello)).toHaveProperty('value');
  for (const hostname of ['a\nb', '<script>', 'x'.repeat(256), 'a b', '\u202e']) {
    expect(factsOf({ ...hello, host: { ...hello.host, hostname } })).toEqual({
      wrong: 'hello.host.hostname',
    });
  }
  expect(factsOf({ ...hello, agentVersion: '' })).toHaveProperty('wrong');
  expect(factsOf({ ...hello, host: { ...hello.host, platform: 'x\u0000' } })).toHaveProperty(
    'wrong',
  );
});

test('no bytes make the decoding and checking of a message throw anything but a refusal', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      let message: AgentMessage;
      try {
        message = AgentMessage.decode(bytes);
      } catch {
        return;
      }
      const content = message.payload?.content;
      if (content?.$case === 'event') eventOf(content.value, undefined);
      if (content?.$case === 'hello') factsOf(content.value);
      if (content?.$case === 'heartbeat') healthOf(content.value);
    }),
    { numRuns: 5_000 },
  );
});

test("an audit head says whether the session's certificate signed it, another key, nobody, or wrongly", () => {
  const certificate = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const other = generateKeyPairSync('ed25519');
  const facts = {
    chainId: Buffer.alloc(16, 1),
    sequence: 1_000,
    hash: Buffer.alloc(32, 2),
    atUnixMs: 1_700_000_000_000,
  };
  const blank = {
    entriesSincePrevious: 0,
    signer: AuditHeadSigner.CERTIFICATE,
    signature: Buffer.alloc(0),
    signerKey: Buffer.alloc(0),
  };
  const report = (head: Partial<AuditHead>) => {
    const checked = eventOf(
      {
        occurredAtUnixMs: 1,
        kind: { $case: 'auditHead', value: { ...blank, ...facts, ...head } },
      },
      certificate.publicKey,
    );
    return 'value' in checked ? checked.value.auditHead : checked.wrong;
  };
  const keyOf = (pair: typeof other) => pair.publicKey.export({ type: 'spki', format: 'der' });
  const signed = {
    signature: signAuditHead(facts, certificate.privateKey),
    signerKey: keyOf(certificate),
  };
  expect(report(signed)).toMatchObject({
    chainId: '01'.repeat(16),
    sequence: 1_000,
    signature: 'certificate',
    signerKeyDigest: createHash('sha256').update(signed.signerKey).digest('hex'),
  });
  expect(
    report({ signature: signAuditHead(facts, other.privateKey), signerKey: keyOf(other) }),
  ).toMatchObject({ signature: 'other_key' });
  expect(report({})).toMatchObject({ signature: 'absent', signerKeyDigest: null });
  for (const changed of [
    { sequence: 1_001 },
    { hash: Buffer.alloc(32, 3) },
    { chainId: Buffer.alloc(16, 3) },
    { atUnixMs: 1 },
    { signerKey: keyOf(other) },
  ]) {
    expect(report({ ...signed, ...changed })).toMatchObject({ signature: 'invalid' });
  }
  expect(report({ chainId: Buffer.alloc(15) })).toBe('audit_head.chain_id');
});

test('an approval crosses as ids, numbers, keyed hashes and words of the signed set alone', () => {
  const reference = Buffer.alloc(32, 7);
  const uuid = Buffer.from('0190b6a0c0de7abc8def0123456789ab', 'hex');
  const reported = (changes: Partial<ApprovalReported> = {}) => {
    const checked = eventOf(
      {
        occurredAtUnixMs: 1,
        kind: {
          $case: 'approvalReported',
          value: {
            approvalId: uuid,
            revision: 2,
            state: ApprovalState.APPROVED,
            action: 'secret.read-value',
            namespaceRef: reference,
            secretRef: Buffer.alloc(0),
            otherRef: Buffer.alloc(0),
            requesterRef: reference,
            requestedAtUnixMs: 1,
            expiresAtUnixMs: 2,
            requirements: [{ policy: 'pol_1:v3', approvers: ['admin'], count: 2 }],
            decisions: [],
            ...changes,
          },
        },
      },
      undefined,
    );
    return 'value' in checked ? checked.value.approval : checked.wrong;
  };
  expect(reported()).toMatchObject({
    id: '0190b6a0-c0de-7abc-8def-0123456789ab',
    state: 'approved',
    namespaceRef: '07'.repeat(32),
    secretRef: null,
  });
  const value = Buffer.from('correct horse battery staple');
  expect(reported({ approvalId: value })).toBe('approval_reported.approval_id');
  expect(reported({ secretRef: value })).toBe('approval_reported.secretRef');
  expect(reported({ requesterRef: value })).toBe('approval_reported.requester_ref');
  expect(reported({ action: 'correct horse' })).toBe('approval_reported.action');
  const policy = { policy: 'a', approvers: ['correct horse'], count: 1 };
  expect(reported({ requirements: [policy] })).toBe('approval_reported.requirements');
  const decision = {
    approverRef: value,
    verdict: ApprovalVerdict.APPROVE,
    atUnixMs: 1,
    decisionId: Buffer.alloc(0),
  };
  expect(reported({ decisions: [decision] })).toBe('approval_reported.decisions');
});

test('words of a newer agent are kept as unrecognized, and never as text of its choosing', () => {
  expect(
    eventOf(
      {
        occurredAtUnixMs: 1,
        kind: {
          $case: 'operationCounts',
          value: {
            periodStartUnixMs: 0,
            periodEndUnixMs: 0,
            counts: [
              {
                operation: 999 as never,
                outcome: OperationOutcome.DONE,
                count: 3,
                p50Us: 0,
                p95Us: 0,
                p99Us: 0,
              },
            ],
            topSecrets: [],
            namespaces: 0,
            secrets: 0,
            storedBytes: 0,
          },
        },
      },
      undefined,
    ),
  ).toMatchObject({
    value: { operationCounts: { counts: [{ operation: 'unrecognized', outcome: 'done' }] } },
  });
  expect(
    eventOf(
      {
        occurredAtUnixMs: 1,
        kind: {
          $case: 'securityNotice',
          value: {
            kind: SecurityNoticeKind.GUESSING,
            identityRef: Buffer.from('alice@example.com'),
            count: 3,
          },
        },
      },
      undefined,
    ),
  ).toEqual({ wrong: 'security_notice.identity_ref' });
});

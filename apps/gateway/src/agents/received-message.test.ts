import { AgentMessage } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
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
const kind = fc.oneof(
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
      const checked = eventOf({ occurredAtUnixMs, kind: told });
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
      if (content?.$case === 'event') eventOf(content.value);
      if (content?.$case === 'hello') factsOf(content.value);
      if (content?.$case === 'heartbeat') healthOf(content.value);
    }),
    { numRuns: 5_000 },
  );
});

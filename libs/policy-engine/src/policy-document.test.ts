import { describe, expect, test } from 'vitest';
import { compile } from './compile.ts';
import { decide } from './decide.ts';
import type { AccessRequest } from './facts.ts';
import type { PolicyDocumentInput } from './policy-document.ts';
import { request, wednesday } from './request.fixture.ts';
import { validate } from './validate.ts';

type Rule = PolicyDocumentInput['rules'][number];
type Condition = NonNullable<Rule['conditions']>[number];

async function allows(rule: Rule, asked: AccessRequest): Promise<boolean> {
  const document = { id: 'test', rules: [rule], actions: [{ type: 'ALLOW' }] };
  expect((await validate(document)).filter(({ severity }) => severity === 'error')).toEqual([]);
  const compiled = await compile({
    networks: { office: ['192.0.2.0/24'] },
    vault: { policies: [document] },
  });
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems));
  const decision = decide(compiled.value, asked);
  compiled.value.close();
  expect(decision.errors).toEqual([]);
  return decision.decision === 'allow';
}

const holds = (condition: Condition, asked = request()) =>
  allows({ conditions: [condition] }, asked);
const inContext = (context: Partial<AccessRequest['context']>) => request({ context });
const hour = 3_600_000;

describe('a document applies to those it selects', () => {
  test.each<[string, boolean, Rule]>([
    ['everybody', true, {}],
    ['a role', true, { principals: ['role:developer'] }],
    ['another role', false, { principals: ['role:admin'] }],
    ['a principal', true, { principals: ['user:alice'] }],
    ['the same name of another kind', false, { principals: ['api_key:alice'] }],
    ['a kind', true, { principals: ['user:*'] }],
    ['a pattern of names', true, { principals: ['api_key:x', 'user:al*'] }],
    ['one of several', true, { principals: ['role:admin', 'user:alice'] }],
    ['none of several', false, { principals: ['role:admin', 'user:bob'] }],
    ['an action', true, { operations: ['secret.read'] }],
    ['a family of actions', true, { operations: ['key.read', 'secret.*'] }],
    ['another family', false, { operations: ['token.*'] }],
    ['a namespace', true, { resources: ['namespace:payments'] }],
    ['another namespace', false, { resources: ['namespace:pay'] }],
    ['a pattern of namespaces', true, { resources: ['namespace:pay*'] }],
    ['a secret', true, { resources: ['secret:payments:db/main'] }],
    ['a pattern of secrets', true, { resources: ['secret:payments:db/*'] }],
    ['a pattern of secrets elsewhere', false, { resources: ['secret:ops:db/*'] }],
    ['secrets anywhere', true, { resources: ['vault:*', 'secret:*:*/main'] }],
    ['all secrets of a namespace', true, { resources: ['secret:payments:*'] }],
    ['vaults', false, { resources: ['vault:*'] }],
  ])('%s: %s', async (_, expected, rule) => {
    expect(await allows(rule, request())).toBe(expected);
  });
});

describe('conditions of time', () => {
  const at = (offsetMs: number) => inContext({ atMs: wednesday + offsetMs });
  test('hours are those of the zone, summer time included', async () => {
    const office: Condition = {
      type: 'TIME',
      zone: 'Europe/Berlin',
      from: '12:00',
      until: '13:00',
    };
    expect(await holds(office, at(0))).toBe(true);
    expect(await holds(office, at(hour))).toBe(false);
    expect(await holds(office, inContext({ atMs: Date.UTC(2026, 0, 14, 11) }))).toBe(true);
  });
  test('an interval over midnight', async () => {
    const night: Condition = { type: 'TIME', from: '22:00', until: '06:00' };
    expect(await holds(night, at(0))).toBe(false);
    expect(await holds(night, at(13 * hour))).toBe(true);
    expect(await holds(night, at(19 * hour))).toBe(true);
    expect(await holds(night, at(20 * hour))).toBe(false);
  });
  test('weekdays are those of the zone', async () => {
    const wednesdays: Condition = { type: 'TIME', zone: 'Pacific/Auckland', weekdays: ['wed'] };
    expect(await holds(wednesdays, at(0))).toBe(true);
    expect(await holds(wednesdays, at(4 * hour))).toBe(false);
  });
  test('a span of dates begins with its first and ends before its last moment', async () => {
    const span: Condition = {
      type: 'TIME',
      notBefore: '2026-06-10T10:00:00Z',
      notAfter: '2026-06-10T11:00:00Z',
    };
    expect(await holds(span, at(-1))).toBe(false);
    expect(await holds(span, at(0))).toBe(true);
    expect(await holds(span, at(hour - 1))).toBe(true);
    expect(await holds(span, at(hour))).toBe(false);
  });
});

describe('other conditions', () => {
  test.each<[boolean, Condition, Partial<AccessRequest['context']>?]>([
    [true, { type: 'IP', ranges: ['10.0.0.0/8'] }],
    [true, { type: 'IP', ranges: ['10.0.0.0/8'] }, { address: '::ffff:10.1.2.3' }],
    [true, { type: 'IP', ranges: ['::ffff:10.0.0.0/104'] }],
    [false, { type: 'IP', ranges: ['10.0.0.0/8'] }, { address: '' }],
    [true, { type: 'IP', ranges: ['10.0.0.0/8'], negate: true }, { address: '' }],
    [false, { type: 'IP', ranges: ['::/0'] }],
    [true, { type: 'IP', networks: ['office'] }, { address: '192.0.2.9' }],
    [true, { type: 'IP', networks: ['private'] }],
    [false, { type: 'IP', networks: ['public', 'office'] }],
    [
      true,
      { type: 'ATTRIBUTE', attribute: 'resource.name', operator: 'starts_with', value: 'db/' },
    ],
    [
      false,
      { type: 'ATTRIBUTE', attribute: 'resource.name', operator: 'starts_with', value: 'db*' },
    ],
    [
      true,
      { type: 'ATTRIBUTE', attribute: 'resource.name', operator: 'ends_with', value: '/main' },
    ],
    [
      true,
      {
        type: 'ATTRIBUTE',
        attribute: 'resource.name',
        operator: 'like',
        value: 'd*i?'.replace('?', 'n'),
      },
    ],
    [
      true,
      { type: 'ATTRIBUTE', attribute: 'resource.tags', operator: 'contains', value: 'database' },
    ],
    [
      true,
      {
        type: 'ATTRIBUTE',
        attribute: 'namespace.tags',
        operator: 'contains_any',
        values: ['x', 'pci'],
      },
    ],
    [
      false,
      {
        type: 'ATTRIBUTE',
        attribute: 'namespace.tags',
        operator: 'contains_all',
        values: ['x', 'pci'],
      },
    ],
    [true, { type: 'ATTRIBUTE', attribute: 'namespace.owner', operator: 'equals', value: 'bob' }],
    [true, { type: 'ATTRIBUTE', attribute: 'vault.name', operator: 'in', values: ['main', 'x'] }],
    [
      true,
      { type: 'ATTRIBUTE', attribute: 'resource.metadata.tier', operator: 'equals', value: '1' },
    ],
    [false, { type: 'ATTRIBUTE', attribute: 'resource.metadata.other', operator: 'exists' }],
    [
      true,
      {
        type: 'ATTRIBUTE',
        attribute: 'resource.metadata.other',
        operator: 'not_equals',
        value: '1',
      },
    ],
    [true, { type: 'ATTRIBUTE', attribute: 'namespace.metadata.stage', operator: 'exists' }],
    [
      false,
      { type: 'ATTRIBUTE', attribute: 'principal.attributes.team', operator: 'equals', value: 'x' },
    ],
    [true, { type: 'ATTRIBUTE', attribute: 'useCount', operator: 'less_than', value: 4 }],
    [false, { type: 'ATTRIBUTE', attribute: 'useCount', operator: 'greater_or_equal', value: 4 }],
    [true, { type: 'ATTRIBUTE', attribute: 'tls.used', operator: 'equals', value: true }],
    [true, { type: 'REGEX', attribute: 'resource.name', pattern: '^db/[a-z]+$' }],
    [false, { type: 'REGEX', attribute: 'resource.name', pattern: '^[0-9]' }],
    [true, { type: 'REGEX', attribute: 'resource.name', pattern: '^[0-9]', negate: true }],
    [false, { type: 'REGEX', attribute: 'headers.user-agent', pattern: '.' }],
    [true, { type: 'REGEX', attribute: 'headers.x-purpose', pattern: '^(deploy|audit)$' }],
    [
      true,
      { type: 'REQUEST', methods: ['api_key', 'jwt'], tls: true, maxAuthenticationAgeSeconds: 60 },
    ],
    [false, { type: 'REQUEST', maxAuthenticationAgeSeconds: 59 }],
    [false, { type: 'REQUEST', clientCertificate: true }],
    [true, { type: 'REQUEST', maxUseCount: 4 }],
    [false, { type: 'REQUEST', maxUseCount: 3 }],
    [true, { type: 'REQUEST', header: { name: 'x-purpose', equals: 'deploy' } }],
    [true, { type: 'REQUEST', header: { name: 'x-purpose', like: 'dep*' } }],
    [false, { type: 'REQUEST', header: { name: 'origin' } }],
  ])('%s: %j %j', async (expected, condition, context) => {
    expect(await holds(condition, inContext(context ?? {}))).toBe(expected);
  });
});

test('texts with quotes, stars and control characters stay what they are', async () => {
  for (const name of ['a"b', 'a\\', '*', 'a\u0007b', "it's", '\u{1f511}']) {
    const condition: Condition = {
      type: 'ATTRIBUTE',
      attribute: 'resource.metadata.note',
      operator: 'equals',
      value: name,
    };
    const asked = (note: string) =>
      request({ resource: { secret: { name: 'x', metadata: { note } } } });
    expect(await holds(condition, asked(name)), name).toBe(true);
    expect(await holds(condition, asked('other')), name).toBe(false);
  }
});

test('what must be done besides is told with the decision', async () => {
  const compiled = await compile({
    vault: {
      policies: [
        {
          id: 'careful',
          rules: [{ resources: ['namespace:payments'] }],
          actions: [
            { type: 'ALLOW' },
            { type: 'LOG', message: 'read' },
            { type: 'ALERT', severity: 'high', message: 'payments: read' },
            { type: 'NOTIFY', targets: ['security', 'on-call'] },
            { type: 'REQUIRE_APPROVAL', approvers: ['owner'], count: 2, expiresAfterSeconds: 600 },
            { type: 'THROTTLE', limit: 5, windowSeconds: 60, by: 'secret' },
          ],
        },
      ],
    },
  });
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems));
  expect(decide(compiled.value, request()).obligations).toEqual([
    { kind: 'alert', policyId: 'careful', severity: 'high', message: 'payments: read' },
    { kind: 'log', policyId: 'careful', message: 'read' },
    { kind: 'notify', policyId: 'careful', targets: ['security', 'on-call'], message: '' },
    {
      kind: 'require_approval',
      policyId: 'careful',
      approvers: ['owner'],
      count: 2,
      expiresAfterSeconds: 600,
    },
    { kind: 'throttle', policyId: 'careful', limit: 5, windowSeconds: 60, by: 'secret' },
  ]);
});

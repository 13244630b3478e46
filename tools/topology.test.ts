import { nudges } from '@keystead/contracts/nudges';
import { outboxTopics } from '@keystead/contracts/outbox';
import { expect, test } from 'vitest';
import { findComplaints, readDeclared, readFacts, readTables, render } from './topology.ts';

const tables = readTables([
  'model Vault {\n  id String\n  @@map("vault")\n  @@schema("registry")\n}\n',
  'model ApiKey {\n  id String\n  @@map("api_key")\n  @@schema("auth")\n}\n',
]);
const declared = readDeclared();

/** Sources in which everything that the contracts declare has its place. */
function wholeSources(): Map<string, string> {
  const sources = new Map<string, string>();
  const add = (service: string, line: string) => {
    const file = `apps/${service}/src/all.nats.ts`;
    sources.set(file, `${sources.get(file) ?? ''}${line}\n`);
  };
  for (const [name, one] of declared) {
    add(one.service, `  @Answers(${name})`);
    if ('callers' in one)
      for (const caller of one.callers) add(caller, `bus.call(${name}, ctx, {})`);
  }
  for (const [name, { publishers, listeners }] of Object.entries(nudges)) {
    for (const service of publishers) add(service, `this.bus.nudge('${name}');`);
    for (const service of listeners) add(service, `  @OnNudge('${name}', true)`);
  }
  for (const topic of Object.keys(outboxTopics)) {
    add('monitoring', `await enqueue(transaction, organizationId, '${topic}', {});`);
    add('notification', `await take(transaction, '${topic}');`);
  }
  return sources;
}

function complaintsAfter(file: string, text: string): string[] {
  return findComplaints(declared, readFacts(wholeSources().set(file, text), tables));
}

test('sources that hold everything declared raise no complaint', () => {
  expect(findComplaints(declared, readFacts(wholeSources(), tables))).toEqual([]);
});

test('a subject without a handler is named with its home', () => {
  const sources = wholeSources();
  const file = 'apps/policy/src/all.nats.ts';
  sources.set(file, (sources.get(file) ?? '').replace('@Answers(getPolicySet)', ''));
  expect(findComplaints(declared, readFacts(sources, tables))).toEqual([
    'policy.policy-sets.get has no handler: add @Answers(getPolicySet) in apps/policy',
  ]);
});

test('a subject with two handlers is found', () => {
  expect(complaintsAfter('apps/auth/src/b.nats.ts', '@Answers(getPolicySet)')).toEqual([
    'policy.policy-sets.get is answered 2 times: auth, policy',
  ]);
});

test('a nudge that the contract does not know of is found', () => {
  expect(complaintsAfter('apps/analytics/src/b.ts', "bus.nudge('thresholds')")).toEqual([
    expect.stringContaining('analytics does, but'),
  ]);
});

test.each([
  'await transaction.vault.updateMany({})',
  'await transaction.vault\n  .upsert({})',
  'transaction.$executeRaw`update registry.vault set name = 1`',
  'transaction.$executeRaw`with x as (insert into registry.vault (id) select 1)`',
  'transaction.$executeRaw`DELETE FROM registry.vault`',
])('a write into a table of another service is found: %s', (text) => {
  expect(complaintsAfter('apps/monitoring/src/b.ts', text)).toEqual([
    'monitoring writes registry.vault, which it does not own: ask the owner instead',
  ]);
  expect(complaintsAfter('apps/vault-registry/src/b.ts', text)).toEqual([]);
});

test('reading across schemas is allowed and shown', () => {
  const sources = wholeSources().set(
    'apps/analytics/src/b.ts',
    'transaction.vault.findMany(); transaction.$queryRaw`select 1 from auth.api_key`',
  );
  const facts = readFacts(sources, tables);
  expect(findComplaints(declared, facts)).toEqual([]);
  const text = render(declared, tables, facts);
  expect(text).toMatch(/\| `registry\.vault` +\| – +\| `analytics` \|/);
  expect(text).toMatch(/\| `auth\.api_key` +\| – +\| `analytics` \|/);
});

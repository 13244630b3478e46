import type { ESLint } from 'eslint';
import { beforeAll, describe, expect, test } from 'vitest';
import { borders } from '../eslint.config.mjs';
import {
  createLinter,
  findRings,
  lintText,
  readProjectGraph,
  untaggedProjects,
} from './boundaries.ts';

let linter: ESLint;
let graph: Awaited<ReturnType<typeof readProjectGraph>>;

beforeAll(async () => {
  graph = await readProjectGraph();
  linter = createLinter();
}, 60_000);

describe('a forbidden import fails', () => {
  test.each([
    ['the agent stays without Nest', 'apps/vault-agent/src/a.ts', '@nestjs/common'],
    ['the agent stays without Prisma', 'apps/vault-agent/src/a.ts', '@prisma/client'],
    ['the agent stays without BullMQ', 'apps/vault-agent/src/a.ts', 'bullmq'],
    ['the agent never speaks NATS', 'apps/vault-agent/src/a.ts', '@nats-io/transport-node'],
    ['the agent has no database of ours', 'apps/vault-agent/src/a.ts', '@keystead/database/keyset'],
    ['contracts import no project', 'libs/contracts/src/a.ts', '@keystead/agent-protocol/services'],
    ['contracts import zod alone', 'libs/contracts/src/a.ts', 'jose'],
    ['access has no bus', 'libs/access/src/a.ts', '@keystead/messaging/bus'],
    ['only database imports Prisma', 'libs/access/src/a.ts', '@prisma/client/runtime/client'],
    ['only database opens PostgreSQL', 'apps/monitoring/src/a.ts', 'pg'],
    ['only messaging opens NATS', 'apps/auth/src/a.ts', '@nats-io/transport-node'],
    ['only messaging opens BullMQ', 'apps/analytics/src/a.ts', 'bullmq'],
    [
      'most services do not know the agent link',
      'apps/analytics/src/a.ts',
      '@keystead/agent-protocol/link-server',
    ],
    ['an app imports no app by path', 'apps/policy/src/a.ts', '../../auth/src/main.ts'],
    ['a library imports no app', 'libs/access/src/a.ts', '@keystead/auth/main'],
    [
      'product code does not import the test rig',
      'apps/policy/src/a.ts',
      '@keystead/test-control-plane/inbox/inbox',
    ],
    [
      'the generated client has no door',
      'apps/policy/src/a.ts',
      '@keystead/database/generated/client',
    ],
    ['an adapter has no database', 'apps/policy/src/a.nats.ts', '@keystead/database/database'],
  ])('%s', async (_, file, target) => {
    for (const text of [
      `import { x } from '${target}';\nx();\n`,
      `import type { X } from '${target}';\nexport type Y = X;\n`,
      `export * from '${target}';\n`,
    ]) {
      expect(await lintText(linter, file, text), text).not.toEqual([]);
    }
  });

  test('a comment cannot switch the border off', async () => {
    const text = "/* eslint-disable */\nimport { Pool } from 'pg';\nnew Pool();\n";
    expect(await lintText(linter, 'apps/policy/src/a.ts', text)).not.toEqual([]);
  });

  test('a dynamic import is an import', async () => {
    const text = "await import('@keystead/database/database');\n";
    expect(await lintText(linter, 'apps/vault-agent/src/a.ts', text)).not.toEqual([]);
  });
});

test.each([
  ['apps/policy/src/a.ts', '@keystead/database/database'],
  ['apps/gateway/src/a.ts', '@keystead/agent-protocol/link-server'],
  ['apps/vault-registry/src/a.ts', '@keystead/agent-protocol/peer-identity'],
  ['apps/vault-agent/src/a.ts', '@keystead/agent-protocol/link-client'],
  ['libs/database/src/a.ts', 'pg'],
  ['libs/messaging/src/a.ts', 'bullmq'],
  ['libs/contracts/src/a.ts', 'zod'],
  ['apps/policy/src/a.test.ts', '@keystead/test-control-plane/inbox/inbox'],
])('an allowed import passes: %s may import %s', async (file, target) => {
  expect(await lintText(linter, file, `import { x } from '${target}';\nx();\n`)).toEqual([]);
});

test('the borders name tags, never a wildcard', () => {
  const tags = Object.keys(borders);
  for (const [tag, { may }] of Object.entries(borders)) {
    for (const name of [tag, ...may]) {
      expect(name).not.toContain('*');
      expect(tags).toContain(name);
    }
  }
});

test('the graph knows every workspace, and each has exactly one tag with a border', () => {
  expect(Object.values(graph.nodes).map((node) => node.data.root)).toEqual(
    expect.arrayContaining(['libs/contracts', 'apps/gateway', 'apps/vault-agent']),
  );
  expect(untaggedProjects(graph, Object.keys(borders))).toEqual([]);
});

describe('rings inside a project', () => {
  test('are found at any length, through re-exports and dynamic imports', () => {
    const files = new Map([
      ['a/one.ts', "import { two } from './two.ts';\n"],
      ['a/two.ts', "export { three } from './deep/three.ts';\n"],
      ['a/deep/three.ts', "const one = () => import('../one.ts');\n"],
    ]);
    expect(findRings(files)).toEqual([['a/one.ts', 'a/two.ts', 'a/deep/three.ts', 'a/one.ts']]);
  });

  test('do not come from types alone', () => {
    const files = new Map([
      ['a/one.ts', "import { two } from './two.ts';\n"],
      ['a/two.ts', "import type { One } from './one.ts';\n"],
    ]);
    expect(findRings(files)).toEqual([]);
  });
});

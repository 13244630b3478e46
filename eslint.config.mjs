// Borders: which project may import which, by the tag in its package.json. A tag without a row below
// may import nothing, and none is ever `*`. Formatting and ordinary lint are Biome's work.
import nx from '@nx/eslint-plugin';
import typescript from 'typescript-eslint';

const prisma = ['@prisma/*', 'prisma', 'prisma/*', 'pg', 'pg-*'];
const nest = ['@nestjs/*', 'reflect-metadata', 'rxjs'];
const queue = ['bullmq'];
const cache = ['ioredis'];
const bus = ['nats', '@nats-io/*'];
const grpc = ['@grpc/*'];

const serverLibraries = [
  'lib:contracts',
  'lib:database',
  'lib:access',
  'lib:messaging',
  'lib:service-runtime',
];

/**
 * @typedef {{ may: string[], external?: string[], not?: string[] }} Border
 * `may`: projects by tag; `external`: the only packages; `not`: packages that stay out.
 * @type {Record<string, Border>}
 */
export const borders = {
  // What crosses a border. Everything imports it, so it imports nothing but its schema language.
  'lib:contracts': { may: [], external: ['zod'] },
  'lib:agent-protocol': {
    may: ['lib:contracts'],
    not: [...prisma, ...nest, ...queue, ...cache, ...bus],
  },
  // The only importer of Prisma and of the PostgreSQL driver: row-level security hangs on it.
  'lib:database': { may: ['lib:contracts'], not: [...nest, ...queue, ...cache, ...bus, ...grpc] },
  // What both the agent and a library used on its own are made of: no server of ours, no framework.
  'lib:envelope': {
    may: ['lib:contracts'],
    not: [...prisma, ...nest, ...queue, ...cache, ...bus, ...grpc],
  },
  'lib:policy-engine': {
    may: ['lib:contracts'],
    not: [...prisma, ...nest, ...queue, ...cache, ...bus, ...grpc],
  },
  // Speaks to the owner's database itself; Prisma and its tenants are another world.
  'lib:vault-store': {
    may: ['lib:contracts', 'lib:envelope'],
    not: ['@prisma/*', 'prisma', 'prisma/*', ...nest, ...queue, ...cache, ...bus, ...grpc],
  },
  // The only importer of NATS and BullMQ.
  'lib:messaging': { may: ['lib:contracts'], not: [...prisma, ...grpc] },
  'lib:access': {
    may: ['lib:contracts', 'lib:database'],
    not: [...prisma, ...queue, ...cache, ...bus, ...grpc],
  },
  'lib:service-runtime': {
    may: ['lib:contracts', 'lib:messaging'],
    not: [...prisma, ...queue, ...cache, ...bus, ...grpc],
  },
  // A service may count attempts in Redis; jobs and calls go through messaging.
  'app:service': { may: serverLibraries, not: [...prisma, ...queue, ...bus, ...grpc] },
  // The agent link is known to the two that stand at it.
  'app:vault-registry': {
    may: [...serverLibraries, 'lib:agent-protocol'],
    not: [...prisma, ...queue, ...bus, ...grpc],
  },
  // Signs what agents hold and are told, and decides as they do; the streams themselves are the
  // gateway's.
  'app:policy': {
    may: [...serverLibraries, 'lib:agent-protocol', 'lib:policy-engine'],
    not: [...prisma, ...queue, ...bus, ...grpc],
  },
  // The one server of gRPC.
  'app:gateway': {
    may: [...serverLibraries, 'lib:agent-protocol'],
    not: [...prisma, ...queue, ...bus],
  },
  // Runs on customers' machines: it has to be small, and to know nothing of our insides. It reaches
  // a database only through the vault store, whoever's database that is.
  'app:vault-agent': {
    may: [
      'lib:contracts',
      'lib:agent-protocol',
      'lib:envelope',
      'lib:policy-engine',
      'lib:vault-store',
    ],
    not: [...prisma, 'mysql2', 'mysql2/*', ...nest, ...queue, ...cache, ...bus],
  },
  // Boots the real thing from outside and looks at it with plain clients.
  'lib:test-control-plane': {
    may: ['lib:contracts', 'lib:agent-protocol', 'lib:database', 'lib:messaging'],
    not: [...nest],
  },
};

/** @param {(border: Border) => Border} change */
const constraints = (change) =>
  Object.entries(borders).map(([sourceTag, border]) => {
    const { may, external, not } = change(border);
    return {
      sourceTag,
      onlyDependOnLibsWithTags: may,
      ...(external ? { allowedExternalImports: external } : {}),
      ...(not ? { bannedExternalImports: not } : {}),
    };
  });

/**
 * @param {(border: Border) => Border} change
 * @param {boolean} banTransitiveDependencies only what the project's own package.json names
 */
const boundaries = (change, banTransitiveDependencies) => ({
  '@nx/enforce-module-boundaries': [
    'error',
    { allow: [], banTransitiveDependencies, depConstraints: constraints(change) },
  ],
});

const tests = ['**/*.test.ts', '**/*.fixture.ts', '**/test/**/*.ts'];

export default [
  { ignores: ['**/dist/**', '**/generated/**', '**/node_modules/**'] },
  {
    files: ['libs/**/*.ts', 'apps/**/*.ts'],
    languageOptions: { parser: typescript.parser },
    linterOptions: { reportUnusedDisableDirectives: 'error', noInlineConfig: true },
    plugins: { '@nx': nx },
    rules: boundaries((border) => border, true),
  },
  {
    // A test may look at the world with whatever client it needs, and may boot real servers.
    files: tests,
    rules: boundaries(({ may }) => ({ may: [...may, 'lib:test-control-plane'] }), false),
  },
  {
    files: ['libs/**/*.ts', 'apps/**/*.ts'],
    ignores: ['libs/database/**', ...tests],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              group: ['@keystead/database/generated/*'],
              message: 'The generated client has no tenant: use withTenant or acrossTenants.',
            },
          ],
        },
      ],
    },
  },
  {
    // An adapter translates: what it would ask the database belongs into the class it calls. The
    // list of those that do more may only shrink.
    files: ['apps/**/*.{http,grpc,nats,job}.ts'],
    ignores: ['apps/gateway/src/agents/agent-backend.nats.ts', 'apps/monitoring/src/duties.job.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              group: ['@keystead/database/*'],
              message: 'An adapter translates and calls; a transaction belongs into a class.',
            },
          ],
        },
      ],
    },
  },
];

import { defineConfig } from 'vitest/config';

// Sources are tested, not what was built from them: every package of ours resolves to its src folder.
// Without `module`, which is for bundlers: what AWS's packages offer under it, Node cannot load.
const conditions = ['keystead-source', 'node', 'development|production'];
const shared = {
  resolve: { conditions },
  // What Node loads itself: its own conditions stay as they are.
  ssr: { resolve: { conditions, externalConditions: ['keystead-source'] } },
};
const sources = '{libs,apps,tools,bench}';
const ignored = ['**/node_modules/**', '**/dist/**', '**/generated/**'];

// A proof in full takes the time it takes.
const isProof = process.env.KEYSTEAD_PROVE === 'full';
const atMost = (ms: number) => (isProof ? 4 * 3_600_000 : ms);

// Unit tests that take seconds each: real key derivation, sockets and clocks. `npm run verify` leaves them out.
const long = [
  'apps/gateway/src/agents/agent-link',
  'apps/notification/src/delivery/render',
  'apps/vault-agent/src/audit/audit-trail',
  'apps/vault-agent/src/backup/backups',
  'apps/vault-agent/src/backup/destinations',
  'apps/vault-agent/src/durable-queue',
  'apps/vault-agent/src/keys/key-ring',
  'apps/vault-agent/src/namespaces/namespaces',
  'apps/vault-agent/src/namespaces/transfer',
  'apps/vault-agent/src/policies/replays/replays',
  'apps/vault-agent/src/rotation/rotations',
  'apps/vault-agent/src/secrets/access-counter',
  'apps/vault-agent/src/upward/upward',
  'libs/envelope/src/providers/local-providers',
  'libs/envelope/src/sealed-stream',
  'libs/policy-engine/src/decide',
  'libs/policy-engine/src/validate',
].map((name) => `${name}.test.ts`);
// What is waited for comes at once, or late on a busy machine, which is no failure.
const patient = { expect: { poll: { timeout: 8_000 } } };
const alone = `${sources}/**/faults.e2e.test.ts`;
const endToEnd = {
  ...patient,
  globalSetup: ['libs/test-control-plane/src/vitest-setup.ts'],
  testTimeout: atMost(240_000),
  hookTimeout: 240_000,
};

export default defineConfig({
  ...shared,
  test: {
    // More than the two cores: most of what is tested waits for a timer or a server.
    maxWorkers: 3,
    projects: [
      {
        ...shared,
        test: {
          ...patient,
          name: 'unit',
          include: [`${sources}/**/*.test.ts`],
          exclude: [...ignored, ...long, '**/*.int.test.ts', '**/*.e2e.test.ts'],
          testTimeout: atMost(10_000),
        },
      },
      {
        ...shared,
        // Many times what they take: a busy machine is no failure.
        test: { ...patient, name: 'unit-long', include: long, testTimeout: atMost(60_000) },
      },
      {
        ...shared,
        test: {
          ...patient,
          name: 'int',
          include: [`${sources}/**/*.int.test.ts`],
          exclude: ignored,
          globalSetup: ['libs/test-control-plane/src/vitest-setup.ts'],
          testTimeout: atMost(60_000),
          hookTimeout: 120_000,
        },
      },
      {
        ...shared,
        test: {
          ...endToEnd,
          name: 'e2e',
          include: [`${sources}/**/*.e2e.test.ts`],
          exclude: [...ignored, alone],
          // Each file boots seven services and then waits for a silence most of its time.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        ...shared,
        test: {
          ...endToEnd,
          name: 'e2e-alone',
          include: [alone],
          exclude: ignored,
          // Load and kills at once: beside another installation the clock would lie on two cores.
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});

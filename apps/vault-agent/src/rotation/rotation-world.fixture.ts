/** A vault with rotation, and a system outside whose password is in a file. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type RotationPolicy, rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import { leaseMigrations } from '../leases/lease-tables.ts';
import { Leases } from '../leases/leases.ts';
import {
  openTestVault,
  plainNamespace,
  plainSecret,
  type TestPlace,
  testCaller,
} from '../store/vault.fixture.ts';
import type { RotationReport } from './rotation-report.ts';
import { RotationRunner, type RotationRunnerOptions } from './rotation-runner.ts';
import { type RotationSchema, rotationMigrations } from './rotation-tables.ts';
import { Rotations } from './rotations.ts';
import type { RotatorPermissions } from './rotators/rotators.ts';

export const firstValue = 'first-value-of-the-world';

/** A module that keeps the world's password in a file, and fails where the file `<world>.fails` says so. */
export const worldModule = `
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
const troubled = (settings, step) => {
  const file = settings.file + '.fails';
  if (!existsSync(file)) return;
  if (readFileSync(file, 'utf8').split(' ').includes(step)) {
    throw Object.assign(new Error('trouble'), { code: 'in-trouble' });
  }
};
export default {
  async apply({ settings, readSecret }, next) {
    if (settings.credential) await readSecret({ namespace: 'payments', secret: settings.credential });
    troubled(settings, 'apply-before');
    writeFileSync(settings.file, next.value);
    troubled(settings, 'apply');
  },
  async verify({ settings }, value) {
    troubled(settings, 'verify');
    if (readFileSync(settings.file, 'utf8') !== value.value) {
      throw Object.assign(new Error('no'), { code: 'does-not-work' });
    }
  },
  async rollBack({ settings, current }) {
    troubled(settings, 'rollBack');
    writeFileSync(settings.file, current.value);
  },
};
`;

export interface RotationWorld {
  file: string;
  module: string;
}

export function makeWorld(folder: string): RotationWorld {
  const world = { file: join(folder, 'world'), module: join(folder, 'world-rotator.mjs') };
  writeFileSync(world.file, firstValue);
  writeFileSync(world.module, worldModule);
  return world;
}

/** A door that lets everything through. */
const openDoor: RotationRunnerOptions['door'] = {
  perform: async (_caller, _errand, work) => work({} as never),
};

export async function openRotation(
  place: TestPlace,
  world: RotationWorld,
  options: Partial<RotationRunnerOptions> & { holder?: string } = {},
) {
  const vault = await openTestVault(place, {
    migrations: [...leaseMigrations, ...rotationMigrations],
    ...(options.now === undefined ? {} : { now: options.now }),
  });
  const reports: RotationReport[] = [];
  const errors: unknown[] = [];
  const allowed = (): RotatorPermissions => ({
    scripts: {},
    modules: { world: { path: world.module, timeoutMs: 10_000 } },
    httpHosts: [],
  });
  const store = vault.store.as<RotationSchema>();
  const leases = new Leases({ store, holder: options.holder ?? `agent-${process.pid}` });
  const runner = new RotationRunner({
    store,
    secrets: vault.secrets,
    leases,
    door: openDoor,
    allowed,
    report: (report) => void reports.push(report),
    onError: (error) => errors.push(error),
    random: () => 0,
    verifyPausesMs: [0],
    ...options,
  });
  const rotations = new Rotations({
    store: vault.store,
    directory: vault.directory,
    allowed,
    poke: () => runner.poke(),
    ...(options.now === undefined ? {} : { now: options.now }),
  });
  const caller = testCaller();

  return {
    vault,
    runner,
    rotations,
    leases,
    reports,
    errors,
    caller,
    policy: (given: object = {}): RotationPolicy =>
      rotationPolicy.parse({
        rotator: { kind: 'custom', rotator: 'world', settings: { file: world.file } },
        overlapSeconds: 0,
        noticeSeconds: 0,
        ...given,
      }),
    /** A secret that holds what is in force in the world. */
    async createSecret(name = 'db/password', value = firstValue): Promise<void> {
      const namespaces = await vault.namespaces.list({ limit: 10 });
      if (namespaces.items.length === 0) {
        await vault.namespaces.create(caller, { ...plainNamespace, name: 'payments' });
      }
      await vault.secrets.create(caller, 'payments', { ...plainSecret, name, value });
    },
    /** What a reader gets. */
    async value(name = 'db/password'): Promise<string> {
      return (await vault.secrets.readValue(caller, 'payments', name)).value;
    },
    inForce: (): string => readFileSync(world.file, 'utf8'),
    async states(name = 'db/password'): Promise<string[]> {
      const { items } = await vault.secrets.versions('payments', name, { limit: 50 });
      return items
        .toReversed()
        .map(
          ({ version, state, isCurrent }) => `${version} ${state}${isCurrent ? ' current' : ''}`,
        );
    },
    /** One look at everything that is due. */
    async runOnce(): Promise<void> {
      const held = await leases.hold('rotation', 30_000, (lease) => runner.runOnce(lease));
      if (held === undefined) throw new Error('another agent holds the lease');
    },
  };
}

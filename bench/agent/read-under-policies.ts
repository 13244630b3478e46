/**
 * What policies add to a secret that is read: the door, the store and the audit on the disk as they are in an
 * agent, without HTTP before them, so that what is added is not hidden by it. Told as processor time for a read,
 * which other work on the machine changes less than the clock on the wall.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile } from '@keystead/policy-engine/compile';
import { pino } from 'pino';
import type { Caller } from '../../apps/vault-agent/src/access/caller.ts';
import { loadConfiguration } from '../../apps/vault-agent/src/configuration.ts';
import { GuardedVault } from '../../apps/vault-agent/src/guarded-vault.ts';
import type { HeldPolicies } from '../../apps/vault-agent/src/policies/held-policies.ts';
import { median } from '../report.ts';
import { storeSecrets } from './stored-secrets.ts';

const secrets = 1_000;
const atOnce = 64;

export interface ReadCost {
  /** Microseconds of processor time for a read. */
  withoutUs: number;
  withUs: number;
}

/** @param policies of one vault; they must permit `bench` to read */
export async function readCost(
  policies: { id: string; cedar: string }[],
  { rounds, reads }: { rounds: number; reads: number },
): Promise<ReadCost> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-bench-policies-'));
  const main = join(import.meta.dirname, '..', '..', 'apps', 'vault-agent', 'dist', 'main.js');
  execFileSync(process.execPath, [main, 'init', '--data', folder, '--port', '0', '--json']);
  const configuration = join(folder, 'vault.yaml');
  await storeSecrets(configuration, secrets);
  const guarded = await GuardedVault.open({
    loaded: loadConfiguration(configuration),
    readVariable: () => undefined,
    log: pino({ level: 'silent' }),
  });
  const compiled = await compile({ vault: { policies } });
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems[0]));
  const held = {
    active: {
      number: 1,
      digest: 'bench',
      compiled: compiled.value,
      configuration: {},
      staleness: null,
    },
    previous: undefined,
    staleness: undefined,
    surelyPastMs: 0,
  } as unknown as HeldPolicies;
  const caller: Caller = {
    identity: { kind: 'api_key', id: 'key_bench', name: 'bench', roles: ['reader'] },
    requestId: 'bench',
    address: '10.0.0.7',
    authenticatedAtMs: Date.now(),
    tls: true,
    headers: {},
  };
  const read = (at: number) => {
    const name = `s/${at % secrets}`;
    return guarded.door.perform(
      caller,
      {
        action: 'secret.read-value',
        operation: 'secrets.read-value',
        resource: { namespace: 'bench-0', secret: name },
        effect: 'read',
      },
      () => guarded.vault.secrets.readValue(caller, 'bench-0', name, {}),
    );
  };
  const cost = async (): Promise<number> => {
    const before = process.cpuUsage();
    let next = 0;
    await Promise.all(
      Array.from({ length: atOnce }, async () => {
        while (next < reads) await read(next++);
      }),
    );
    const { user, system } = process.cpuUsage(before);
    return (user + system) / reads;
  };
  const without: number[] = [];
  const withPolicies: number[] = [];
  try {
    for (let round = 0; round <= rounds; round += 1) {
      for (const [policiesHeld, list] of [
        [undefined, without],
        [held, withPolicies],
      ] as const) {
        guarded.policies.held = policiesHeld;
        const took = await cost();
        // What runs first is compiled while it is measured.
        if (round > 0) list.push(took);
      }
    }
  } finally {
    compiled.value.close();
    await guarded.close();
    rmSync(folder, { recursive: true, force: true });
  }
  return { withoutUs: median(without), withUs: median(withPolicies) };
}

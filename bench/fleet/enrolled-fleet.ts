/** A whole control plane of built processes with an enrolled fleet, for benchmarks. */
import { type ControlPlane, startControlPlane } from '@keystead/test-control-plane/control-plane';
import type { Api, EnrollmentToken } from '@keystead/test-control-plane/installation/api';
import { Fleet, type FleetOptions } from './fleet.ts';
import { enrollFleet, type FleetIdentity } from './identities.ts';

export interface EnrolledFleet {
  controlPlane: ControlPlane;
  api: Api;
  identities: FleetIdentity[];
  fleet: (options: Pick<FleetOptions, 'beats' | 'reconnect'>) => Fleet;
}

export async function startEnrolledFleet(
  agents: number,
  vaults = agents,
  offlineAfterSeconds = 270,
): Promise<EnrolledFleet> {
  const controlPlane = await startControlPlane({ ownPostgresql: true });
  const { api } = await controlPlane.signUp('Fleet');
  await api.patch('/v1/organizations/current', { offlineAfterSeconds });
  const enrollment = await api.post<EnrollmentToken>('/v1/enrollment-tokens', {
    name: 'fleet',
    maxUses: agents,
    ttlSeconds: 3_600,
  });
  const host = 'localhost';
  const port = Number(controlPlane.agentEndpoint.split(':')[1]);
  process.stderr.write(`enrolling ${agents.toLocaleString('en-US')} agents …\n`);
  const { identities, root } = await enrollFleet(
    { host, port, caFingerprint: enrollment.caFingerprint, token: enrollment.token },
    agents,
    (index) => ({ vaultName: `vault-${index % vaults}`, agentName: `agent-${index}` }),
    8,
  );
  return {
    controlPlane,
    api,
    identities,
    fleet: (options) => new Fleet({ host, port, root, ...options }),
  };
}

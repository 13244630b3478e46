/** A request that is complete, to be changed where a test needs it. */
import type { AccessRequest } from './facts.ts';

type Changes = {
  principal?: Partial<AccessRequest['principal']>;
  action?: AccessRequest['action'];
  resource?: Partial<AccessRequest['resource']>;
  context?: Partial<AccessRequest['context']>;
};

/** A Wednesday, ten in the morning in UTC. */
export const wednesday = Date.UTC(2026, 5, 10, 10);

export function request(changes: Changes = {}): AccessRequest {
  return {
    principal: { kind: 'user', id: 'alice', roles: ['developer'], ...changes.principal },
    action: changes.action ?? 'secret.read',
    resource: {
      vault: { id: 'vlt_1', name: 'main', tags: ['eu'] },
      namespace: { name: 'payments', tags: ['pci'], owner: 'bob', metadata: { stage: 'prod' } },
      secret: { name: 'db/main', tags: ['database'], metadata: { tier: '1' } },
      ...changes.resource,
    },
    context: {
      atMs: wednesday,
      zone: 'UTC',
      address: '10.1.2.3',
      authentication: { method: 'api_key', ageSeconds: 60 },
      tls: { used: true, version: 'TLSv1.3', clientCertificate: false },
      headers: { 'x-purpose': 'deploy' },
      useCount: 3,
      ...changes.context,
    },
  };
}

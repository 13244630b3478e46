/** An organization as in the demonstration: three channels, everything subscribed, short silence. */
import { alertKinds } from '@keystead/contracts/monitoring';
import type { ControlPlane } from './control-plane.ts';
import type { InboxMessage } from './inbox/message.ts';
import type { Api } from './installation/api.ts';

export interface Tenant {
  name: string;
  api: Api;
  email: string;
  password: string;
  accessToken: string;
  /** What reached this tenant: mails to its owner, and its own Slack and webhook paths. */
  received: () => InboxMessage[];
  /** The kinds its webhook was told, in order. */
  kinds: () => string[];
}

export interface AgentView {
  id: string;
  name: string;
  status: string;
  heartbeatIntervalMs: number;
  vault: { id: string; name: string };
}

let counter = 0;

export async function createTenant(
  controlPlane: ControlPlane,
  offlineAfterSeconds: number,
): Promise<Tenant> {
  counter += 1;
  const name = `Tenant ${counter}`;
  const path = `tenant-${counter}`;
  const { inbox } = controlPlane;
  const signedIn = await controlPlane.signUp(name);
  const { api, email } = signedIn;
  await api.patch('/v1/organizations/current', { offlineAfterSeconds });
  const mail = await api.post<{ id: string }>('/v1/channels', {
    kind: 'email',
    name: 'mail',
    config: { to: [email] },
  });
  const slack = await api.post<{ id: string }>('/v1/channels', {
    kind: 'slack',
    name: 'slack',
    config: { url: `${inbox.url}/slack/${path}` },
  });
  const webhook = await api.post<{ id: string; secret: string }>('/v1/channels', {
    kind: 'webhook',
    name: 'webhook',
    config: { url: `${inbox.url}/webhooks/${path}` },
  });
  inbox.expectSignature(path, webhook.secret);
  await api.post('/v1/subscriptions', {
    name: 'everything',
    channelIds: [mail.id, slack.id, webhook.id],
    events: [...alertKinds],
  });
  const received = () =>
    inbox.messages.filter(
      (message) =>
        message.channel === path || (message.kind === 'email' && message.email?.to.includes(email)),
    );
  return {
    ...signedIn,
    name,
    received,
    kinds: () =>
      received()
        .filter(({ kind }) => kind === 'webhook')
        .map(({ subject }) => subject),
  };
}

export async function agentsOf(api: Api): Promise<AgentView[]> {
  return (await api.get<{ items: AgentView[] }>('/v1/agents?limit=200')).items;
}

/** `name status`, sorted, for a comparison with what should be. */
export async function statuses(api: Api): Promise<string[]> {
  return (await agentsOf(api)).map(({ name, status }) => `${name} ${status}`).sort();
}

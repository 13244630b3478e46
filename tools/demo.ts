/**
 * The demo: an organization with three vaults, their agents, a channel of each kind that ends in the
 * local inbox, and a second organization that must see none of it. Everything is made through the
 * public API, as a customer would. What was made is noted step by step, so that a start that was
 * interrupted goes on where it stopped and a later one makes nothing twice.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { alertKinds } from '@keystead/contracts/monitoring';
import { AgentProcess } from '@keystead/test-control-plane/installation/agent-process';
import {
  type Api,
  ApiError,
  type EnrollmentToken,
  type Owner,
  signIn,
} from '@keystead/test-control-plane/installation/api';
import type { Installation } from './installation.ts';
import { dim, root, say, step, yellow } from './terminal.ts';

export const offlineAfterSeconds = 45;
const groupWaitSeconds = 10;
const vaultNames = ['payments', 'reporting', 'backups'] as const;

interface Organization {
  readonly name: string;
  readonly owner: Owner;
}

interface DemoState {
  readonly main: Organization;
  readonly other: Organization;
  thresholdIsSet?: boolean;
  inboxUrl?: string;
  channels?: Partial<Record<'email' | 'slack' | 'webhook', { id: string; secret?: string }>>;
  subscriptionId?: string;
}

export interface Demo {
  readonly main: Organization;
  readonly other: Organization;
  readonly agents: readonly DemoAgent[];
}

export interface DemoAgent {
  readonly name: string;
  readonly process: AgentProcess;
}

const hookName = 'demo';

export async function startDemo(installation: Installation): Promise<Demo> {
  const file = join(installation.stateDir, 'demo.json');
  let state = readState(file) ?? newState();
  const save = () => writeFileSync(file, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 });
  save();

  const seeded = await step('Demo organization, channels and agents', async () => {
    const { api, isNew } = await enter(installation.api, state.main);
    if (isNew && state.thresholdIsSet) {
      // The notes are of another database: what they name is not in this one.
      say(dim('  the database does not know the demo of an earlier start: it is made again'));
      state = { main: state.main, other: state.other };
      rmSync(join(installation.stateDir, 'agents'), { recursive: true, force: true });
      save();
    }
    await enter(installation.api, state.other);
    if (!state.thresholdIsSet) {
      await api.patch('/v1/organizations/current', { offlineAfterSeconds });
      state.thresholdIsSet = true;
      save();
    }
    await ensureChannels(api, installation, state, save);
    return { api, agents: await startAgents(api, installation) };
  });
  installation.stopFirst(() =>
    Promise.all(seeded.agents.map(({ process }) => process.stop(1_200))),
  );
  return { main: state.main, other: state.other, agents: seeded.agents };
}

function readState(file: string): DemoState | undefined {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
}

function newState(): DemoState {
  const organization = (name: string, domain: string): Organization => ({
    name,
    owner: {
      name: `Owner of ${name}`,
      email: `owner@${domain}`,
      password: randomBytes(12).toString('base64url'),
    },
  });
  return {
    main: organization('Northwind Trading', 'northwind.example'),
    other: organization('Southwind Labs', 'southwind.example'),
  };
}

/** Signs in; the first time, signs the organization up before. */
async function enter(api: Api, organization: Organization): Promise<{ api: Api; isNew: boolean }> {
  try {
    const { accessToken } = await signIn(api, organization.owner);
    return { api: api.as(accessToken), isNew: false };
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
  }
  await api.post('/v1/organizations', organization);
  const { accessToken } = await signIn(api, organization.owner);
  return { api: api.as(accessToken), isNew: true };
}

async function ensureChannels(
  api: Api,
  { inbox }: Installation,
  state: DemoState,
  save: () => void,
): Promise<void> {
  const configs = {
    email: { to: [state.main.owner.email] },
    slack: { url: inbox.slackUrl(hookName) },
    webhook: { url: inbox.webhookUrl(hookName) },
  };
  const names = { email: 'Mail to the owner', slack: 'Slack #vaults', webhook: 'Webhook' };
  state.channels ??= {};
  const { channels } = state;
  for (const kind of ['email', 'slack', 'webhook'] as const) {
    if (channels[kind] !== undefined) {
      // The inbox may be on another port than last time.
      if (kind !== 'email' && state.inboxUrl !== inbox.url) {
        await api.patch(`/v1/channels/${channels[kind].id}`, { config: configs[kind] });
      }
      continue;
    }
    const { id, secret } = await api.post<{ id: string; secret?: string }>('/v1/channels', {
      kind,
      name: names[kind],
      config: configs[kind],
    });
    channels[kind] = { id, ...(secret === undefined ? {} : { secret }) };
    state.inboxUrl ??= inbox.url;
    save();
  }
  state.inboxUrl = inbox.url;
  save();
  const secret = channels.webhook?.secret;
  if (secret !== undefined) inbox.expectSignature(hookName, secret);
  if (state.subscriptionId === undefined) {
    const { id } = await api.post<{ id: string }>('/v1/subscriptions', {
      name: 'Everything to everybody',
      channelIds: Object.values(channels).map((channel) => channel.id),
      events: [...alertKinds],
    });
    state.subscriptionId = id;
    save();
  }
}

async function startAgents(api: Api, installation: Installation): Promise<DemoAgent[]> {
  const agents: DemoAgent[] = [];
  const missing = vaultNames.filter((name) => !AgentProcess.isEnrolled(folderOf(name)));
  function folderOf(name: string): string {
    return join(installation.stateDir, 'agents', name);
  }
  await Promise.all(
    missing.map(async (name) => {
      const enrollment = await api.post<EnrollmentToken>('/v1/enrollment-tokens', {
        name: `demo ${name}`,
        maxUses: 1,
        ttlSeconds: 600,
        vault: name,
        tags: ['demo'],
      });
      await AgentProcess.enroll({ enrollment, data: folderOf(name), agentName: `${name}-1` });
    }),
  );
  for (const name of vaultNames) {
    const process = new AgentProcess(folderOf(name), (how) => onAgentGone(name, how, installation));
    await process.adjust(installation.agentEndpoint);
    process.start();
    agents.push({ name, process });
  }
  if (missing.length > 0) say(dim(`  enrolled ${missing.join(', ')}`));
  await untilOnline(api, agents.length);
  return agents;
}

/** The start waits for them only a little: they are shown as they are. */
async function untilOnline(api: Api, count: number): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (Date.now() < deadline) {
    const { items } = await api.get<{ items: { status: string }[] }>('/v1/agents');
    if (items.filter(({ status }) => status === 'online').length >= count) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  say(yellow('! not every agent is online yet; each has an agent.log beside its vault.yaml'));
}

function onAgentGone(name: string, how: string, installation: Installation): void {
  if (installation.isStopping) return;
  const at = (seconds: number) =>
    new Date(Date.now() + seconds * 1_000).toLocaleTimeString('en-GB', { timeZone: undefined });
  const config = relative(root, join(installation.stateDir, 'agents', name, 'vault.yaml'));
  say(yellow(`\n! The agent of ${name} ${how}.`));
  if (how === 'ended by SIGKILL') {
    say(
      `  It is offline at about ${at(offlineAfterSeconds)}, and told by ${at(offlineAfterSeconds + groupWaitSeconds + 5)}: ${installation.inboxUrl}`,
    );
  } else {
    say(
      `  If it said goodbye, vault.stopped is told by ${at(groupWaitSeconds + 5)}: ${installation.inboxUrl}`,
    );
  }
  say(`  To bring it back: node_modules/.bin/keystead-agent run --config ${config}`);
}

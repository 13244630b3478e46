/**
 * From the last heartbeat to the hand-over to each channel: first one agent of a quiet
 * organization, then that again while thousands of another organization fall silent at once.
 * The floor is what was asked for: the threshold and the group wait.
 *
 *   npm run bench -- silence [--storm 2000] [--threshold 20]
 */

import { limits } from '@keystead/contracts/limits';
import { alertKinds } from '@keystead/contracts/monitoring';
import type { InboxMessage } from '@keystead/test-control-plane/inbox/message';
import type { Api, EnrollmentToken } from '@keystead/test-control-plane/installation/api';
import { pause } from './fleet/echo-floor.ts';
import { startEnrolledFleet } from './fleet/enrolled-fleet.ts';
import { Fleet } from './fleet/fleet.ts';
import { enrollFleet } from './fleet/identities.ts';
import { argument, calibrate, finish, printTable, round, spread } from './report.ts';

const storm = argument('storm', 2_000);
const thresholdSeconds = argument('threshold', 20);
const asked = thresholdSeconds * 1_000 + limits.groupWaitMs;

const enrolled = await startEnrolledFleet(storm, storm, thresholdSeconds);
const { controlPlane } = enrolled;
const { inbox } = controlPlane;

async function subscribe(api: Api, path: string, mail: string): Promise<void> {
  const channels = await Promise.all([
    api.post<{ id: string }>('/v1/channels', {
      kind: 'email',
      name: 'mail',
      config: { to: [mail] },
    }),
    api.post<{ id: string }>('/v1/channels', {
      kind: 'slack',
      name: 'slack',
      config: { url: inbox.slackUrl(path) },
    }),
    api.post<{ id: string }>('/v1/channels', {
      kind: 'webhook',
      name: 'webhook',
      config: { url: inbox.webhookUrl(path) },
    }),
  ]);
  await api.post('/v1/subscriptions', {
    name: 'all',
    channelIds: channels.map(({ id }) => id),
    events: [...alertKinds],
  });
}

const quiet = await controlPlane.signUp('Quiet');
await quiet.api.patch('/v1/organizations/current', { offlineAfterSeconds: thresholdSeconds });
await subscribe(quiet.api, 'quiet', quiet.email);
const me = await enrolled.api.get<{ email: string }>('/v1/me');
await subscribe(enrolled.api, 'storm', me.email);
const token = await quiet.api.post<EnrollmentToken>('/v1/enrollment-tokens', {
  name: 'quiet',
  maxUses: 2,
  ttlSeconds: 3_600,
});
const target = {
  host: 'localhost',
  port: Number(controlPlane.agentEndpoint.split(':')[1]),
};
const one = await enrollFleet({ ...target, ...token }, 2, (index) => ({
  vaultName: `quiet-${index}`,
  agentName: `quiet-${index}`,
}));
const quietFleet = new Fleet({ ...target, root: one.root, beats: 'paced', reconnect: true });
await quietFleet.connect(one.identities);
await pause(6_000);

const toQuiet = (message: InboxMessage) =>
  message.channel === 'quiet' || (message.email?.to.includes(quiet.email) ?? false);

/** Stops one agent of the quiet organization. @returns ms from its last beat to each channel */
async function silenceOne(index: number): Promise<Record<string, number>> {
  const known = inbox.messages.filter(toQuiet).length;
  const agent = quietFleet.agents[index];
  await quietFleet.until(() => (agent?.lastRecordedMs ?? 0) > 0, 30_000);
  const lastAt = Date.now() - (performance.now() - (agent?.lastRecordedMs ?? 0));
  agent?.stop('killed');
  const deadline = Date.now() + asked + 120_000;
  while (inbox.messages.filter(toQuiet).length < known + 3 && Date.now() < deadline)
    await pause(20);
  return Object.fromEntries(
    inbox.messages
      .filter(toQuiet)
      .slice(known)
      .map((message) => [message.kind, Date.parse(message.receivedAt) - lastAt]),
  );
}

const alone = await silenceOne(0);
process.stderr.write(`connecting ${storm.toLocaleString('en-US')} agents …\n`);
const fleet = enrolled.fleet({ beats: 'paced', reconnect: true });
await fleet.connect(enrolled.identities, 300, 300_000);
await pause(8_000);
const before = inbox.messages.length;
fleet.stop(storm);
const stoppedAt = Date.now();
const during = await silenceOne(1);
const toStorm = () =>
  inbox.messages.slice(before).filter((message) => !toQuiet(message) && message.kind === 'webhook');
let toldAgents = 0;
const deadline = Date.now() + 300_000;
while (toldAgents < storm && Date.now() < deadline) {
  await pause(100);
  toldAgents = toStorm()
    .map((message) => JSON.parse(message.webhook?.body ?? '{}'))
    .filter(({ type }) => type === 'vault.offline')
    .reduce((sum, { data }) => sum + data.alerts.length + (data.truncated ?? 0), 0);
}
const stormTook = Date.now() - stoppedAt;
const rows = [
  { what: 'one agent, quiet', ...overhead(alone) },
  { what: `one agent, beside ${storm} of another organization`, ...overhead(during) },
];
function overhead(times: Record<string, number>) {
  return Object.fromEntries(
    ['email', 'slack', 'webhook'].map((kind) => [
      `${kind} ms beyond`,
      times[kind] === undefined ? 'not told' : Math.round(times[kind] - asked),
    ]),
  );
}
printTable(rows);
console.log(
  `\nstorm: ${toldAgents} of ${storm} vaults told in ${toStorm().length} webhooks, ` +
    `the last ${round((stormTook - asked) / 1_000)} s beyond threshold and group wait`,
);
const beyond = [...Object.values(alone), ...Object.values(during)].map((ms) => ms - asked);
const told = Math.max(...Object.values(alone));
finish({
  bench: 'silence',
  ratio: told / asked,
  better: 'lower',
  floor: asked,
  ours: told,
  unit: 'ms',
  ...spread(beyond),
  stormTold: toldAgents,
  stormBeyondMs: stormTook - asked,
  peakRssBytes: process.resourceUsage().maxRSS * 1_024,
  rounds: 1,
  calibrationMs: calibrate(),
});
await controlPlane.stop();
process.exit(0);

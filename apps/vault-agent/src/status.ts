/** How the agent on this machine is doing, asked over its own HTTP. */
import { request as requestPlain } from 'node:http';
import { request as requestTls } from 'node:https';
import { type LoadedConfiguration, loadConfiguration } from './configuration.ts';
import { readNamedFile } from './named-file.ts';

export interface AgentStatus {
  running: boolean;
  facts: Record<string, unknown>;
  text: string;
}

/** @throws ConfigurationError */
export async function readStatus(config: string): Promise<AgentStatus> {
  const loaded = loadConfiguration(config);
  const { host, port, tls } = loaded.configuration.server;
  const scheme = tls.enabled ? 'https' : 'http';
  const address = `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
  try {
    const facts = JSON.parse(await ask(address, loaded)) as Health;
    const { controlPlane, queue } = facts;
    const isAlone = controlPlane.state === 'disabled';
    return {
      running: true,
      facts: { running: true, ...facts },
      text: [
        `running    ${facts.version}, up ${facts.uptimeSeconds} s, ${facts.status}`,
        ...(isAlone
          ? ['contact    without a control plane']
          : [
              `agent      ${facts.agentName} (${facts.agentId}) of vault ${facts.vaultName} (${facts.vaultId})`,
              `contact    ${controlPlane.state}${controlPlane.reason ? `: ${controlPlane.reason}` : ''}`,
              `last heard ${controlPlane.lastContactAt ?? 'never in this run'}`,
            ]),
        `policies   ${policiesOf(facts)}`,
        ...(isAlone
          ? []
          : [
              `queue      ${queue.waiting} waiting, ${queue.refused} refused`,
              `identity   until ${controlPlane.certificate?.expiresAt ?? 'none'}`,
            ]),
      ].join('\n'),
    };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return {
      running: false,
      facts: { running: false, address },
      text: `not running: nothing answers at ${address} (${reason})`,
    };
  }
}

/** Over TLS only the agent that has our own certificate is believed, whatever name it is called by. */
function ask(address: string, { configuration, locate }: LoadedConfiguration): Promise<string> {
  const { tls } = configuration.server;
  const certificate = tls.enabled ? readNamedFile(locate(tls.cert_file ?? '')) : undefined;
  const options = {
    timeout: 3_000,
    ...(certificate === undefined
      ? {}
      : { ca: certificate, allowPartialTrustChain: true, checkServerIdentity: () => undefined }),
  };
  return new Promise((resolve, reject) => {
    const send = certificate === undefined ? requestPlain : requestTls;
    const sent = send(`${address}/healthz`, options, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
      response.on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer within three seconds')));
    sent.on('error', reject);
    sent.end();
  });
}

function policiesOf({ policySet }: Health): string {
  const { number, configurationDigest, decides, staleness } = policySet ?? {};
  const configuration = (configurationDigest ?? '').slice(0, 12);
  const set = `set ${number}${configuration === '' ? '' : `, configuration ${configuration}`}`;
  const held = number == null ? 'no set' : set;
  if (decides == null) return held;
  const age = decides === 'policies' && staleness != null ? `; ${stale[staleness]}` : '';
  return `${held}: ${deciding[decides]}${age}`;
}

const deciding = {
  roles: 'roles decide alone',
  policies: 'roles decide, then its policies',
  refused: 'everything is denied until a set comes that can be used',
  override: 'an emergency override is in force, policies are not asked',
} as const;

const stale = {
  keep: 'the control plane is silent for longer than the set allows, which changes nothing',
  restrict: 'the control plane is silent for longer than the set allows: reading alone',
  deny: 'the control plane is silent for longer than the set allows: everything is denied',
} as const;

interface Health extends Record<string, unknown> {
  version: string;
  status: string;
  uptimeSeconds: number;
  agentName: string;
  agentId: string;
  vaultName: string;
  vaultId: string;
  controlPlane: {
    state: string;
    reason: string | null;
    lastContactAt: string | null;
    certificate?: { expiresAt: string };
  };
  queue: { waiting: number; refused: number };
  /** Not said by older agents. */
  policySet?: {
    number: number | null;
    digest: string | null;
    configurationDigest: string | null;
    decides?: keyof typeof deciding | null;
    staleness?: keyof typeof stale | null;
  };
}

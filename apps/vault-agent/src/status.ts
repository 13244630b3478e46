/** How the agent on this machine is doing, asked over its own HTTP. */
import { loadConfiguration } from './configuration.ts';

export interface AgentStatus {
  running: boolean;
  facts: Record<string, unknown>;
  text: string;
}

/** @throws ConfigurationError */
export async function readStatus(config: string): Promise<AgentStatus> {
  const { configuration } = loadConfiguration(config);
  const { host, port } = configuration.server;
  const address = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  try {
    const response = await fetch(`${address}/healthz`, { signal: AbortSignal.timeout(3_000) });
    const facts = (await response.json()) as Health;
    const { controlPlane, queue } = facts;
    return {
      running: true,
      facts: { running: true, ...facts },
      text: [
        `running    ${facts.version}, up ${facts.uptimeSeconds} s, ${facts.status}`,
        `agent      ${facts.agentName} (${facts.agentId}) of vault ${facts.vaultName} (${facts.vaultId})`,
        `contact    ${controlPlane.state}${controlPlane.reason ? `: ${controlPlane.reason}` : ''}`,
        `last heard ${controlPlane.lastContactAt ?? 'never in this run'}`,
        `queue      ${queue.waiting} waiting, ${queue.refused} refused`,
        `identity   until ${controlPlane.certificate?.expiresAt ?? 'none'}`,
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
}

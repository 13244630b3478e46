/** What `npm start` reads from the environment, and the ports it ends up with. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import {
  freePort,
  isPortFreeEverywhere,
} from '@keystead/test-control-plane/infrastructure/free-port';

export interface Ports {
  readonly http: number;
  readonly agent: number;
  readonly inbox: number;
  readonly smtp: number;
}

interface PortRule {
  readonly name: keyof Ports;
  readonly what: string;
  readonly variable: string;
  readonly usual: number | undefined;
}

const rules: readonly PortRule[] = [
  { name: 'http', what: 'the API', variable: 'KEYSTEAD_HTTP_PORT', usual: 8080 },
  { name: 'agent', what: 'the agent link', variable: 'KEYSTEAD_AGENT_PORT', usual: 8443 },
  { name: 'inbox', what: 'the inbox', variable: 'KEYSTEAD_INBOX_PORT', usual: 8025 },
  { name: 'smtp', what: 'its mail server', variable: 'KEYSTEAD_INBOX_SMTP_PORT', usual: undefined },
];

/**
 * A port that the environment names is used or it is an error. One that it does not name is the usual
 * one, else the one of the last start, else any that is free; people are told when it moved.
 */
export async function choosePorts(file: string, report: (line: string) => void): Promise<Ports> {
  const last: Partial<Ports> = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const chosen: Partial<Record<keyof Ports, number>> = {};
  const isFree = async (port: number | undefined): Promise<boolean> =>
    port !== undefined &&
    !Object.values(chosen).includes(port) &&
    (await isPortFreeEverywhere(port));
  for (const { name, what, variable, usual } of rules) {
    const named = process.env[variable];
    if (named !== undefined && named !== '') {
      const port = Number(named);
      if (!Number.isInteger(port) || port < 1 || port > 65_535) {
        throw new Error(`${variable} is "${named}"; it must be a port between 1 and 65535.`);
      }
      if (!(await isFree(port))) {
        throw new Error(
          `Port ${port} for ${what} is taken, and ${variable} names it. Free it, name another, or ` +
            `leave ${variable} out to have one chosen.`,
        );
      }
      chosen[name] = port;
      continue;
    }
    if (usual !== undefined && (await isFree(usual))) {
      chosen[name] = usual;
      continue;
    }
    const lastPort = last[name];
    const port = lastPort !== undefined && (await isFree(lastPort)) ? lastPort : await freePort();
    chosen[name] = port;
    if (usual !== undefined) {
      report(`Port ${usual} is taken: ${what} is on ${port} instead (${variable} names another).`);
    }
  }
  const ports = chosen as Ports;
  writeFileSync(file, `${JSON.stringify(ports)}\n`, { mode: 0o600 });
  return ports;
}

/** A setting of a service that people may change for `npm start` as they would for the real thing. */
export function setting(name: string, otherwise: string): string {
  const value = process.env[name];
  return value === undefined || value === '' ? otherwise : value;
}

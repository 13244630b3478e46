/** The receivers of the audit that vault.yaml names, each for both logs. */
import { createHash } from 'node:crypto';
import { hostname } from 'node:os';
import { auditLogs } from '@keystead/contracts/agent-api/audit';
import {
  type Configuration,
  ConfigurationError,
  type LoadedConfiguration,
} from '../../configuration.ts';
import { type ReadVariable, readSecret } from '../../key-management.ts';
import { readNamedFile } from '../../named-file.ts';
import { commandsLogOf } from '../commands-log.ts';
import type { Destination } from './destination.ts';
import { FileDestination } from './file-destination.ts';
import { HttpDestination } from './http-destination.ts';
import { SyslogDatagrams, SyslogStream } from './syslog-destination.ts';

/** A receiver of one log. */
export interface DestinationOfLog {
  /** What a policy set knows it by; undefined: vault.yaml alone turns it on. */
  name: string | undefined;
  isOn: boolean;
  source: (typeof auditLogs)[number];
  logFile: string;
  /** Of the address: a receiver that is changed begins anew, one that is renamed goes on. */
  positionFile: string;
  open: () => Destination;
}

/**
 * Also those that are off, so that what is wrong with them is known before they are turned on.
 * @throws ConfigurationError where a file or a secret that is named is not there, or two are the same place:
 * both would go on from one position, so that one of them would get nothing
 */
export function destinationsOf(
  { configuration, locate }: LoadedConfiguration,
  readVariable: ReadVariable,
): DestinationOfLog[] {
  const { audit } = configuration;
  const logFile = locate(audit.log_file);
  const files = { agent: logFile, commands: commandsLogOf(logFile) };
  const forward = audit.forward
    .map((each) => ({ ...each, isOn: each.enabled ?? true }))
    .filter(({ name, isOn }) => isOn || name !== undefined);
  const destinations = auditLogs.flatMap((source) =>
    [
      ...syslogOf(source, audit, locate),
      ...forward.map((each) => ({
        name: each.name,
        isOn: each.isOn,
        open: openerOf(each, source, locate, readVariable),
        // No part of the destination's name, because it may hold a credential.
        query: each.type === 'http' ? new URL(each.url).search : '',
      })),
    ].map(({ query, ...each }) => ({
      ...each,
      source,
      logFile: files[source],
      positionFile: `${files[source]}.forward-${shortDigest(`${each.open().name}${query}`)}.json`,
    })),
  );
  const places = destinations.map(({ positionFile }) => positionFile);
  const twice = destinations.find((_, index) => places.indexOf(places[index] ?? '') < index);
  if (twice !== undefined) {
    throw new ConfigurationError([`audit: ${twice.open().name} is named twice`]);
  }
  return destinations;
}

/** Each log is a chain of its own, and arrives where it can be told from the other. */
function syslogOf(
  source: (typeof auditLogs)[number],
  { forward_to_syslog: isOn, syslog }: Configuration['audit'],
  locate: (path: string) => string,
) {
  const { name, host, port, protocol, ca_file: caFile } = syslog;
  if (!isOn && name === undefined) return [];
  const origin = {
    host,
    port,
    hostname: hostname(),
    processId: process.pid,
    program: `keystead-${source}`,
  };
  const query = '';
  if (protocol === 'udp') return [{ name, isOn, query, open: () => new SyslogDatagrams(origin) }];
  const ca = readAuthority(caFile, locate);
  return [{ name, isOn, query, open: () => new SyslogStream({ ...origin, protocol, ca }) }];
}

function openerOf(
  each: Configuration['audit']['forward'][number],
  source: (typeof auditLogs)[number],
  locate: (path: string) => string,
  readVariable: ReadVariable,
): () => Destination {
  if (each.type === 'file') {
    const path = locate(each.path);
    return () => new FileDestination(source === 'agent' ? path : commandsLogOf(path));
  }
  const { authorization, url } = each;
  const readAuthorization =
    authorization === undefined ? undefined : () => readSecret(authorization, locate, readVariable);
  readAuthorization?.();
  const ca = readAuthority(each.ca_file, locate);
  return () => new HttpDestination({ url, source, ca, authorization: readAuthorization });
}

function readAuthority(
  file: string | undefined,
  locate: (path: string) => string,
): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readNamedFile(locate(file)).toString('utf8');
  } catch (error) {
    throw new ConfigurationError([`audit: ${(error as Error).message}`]);
  }
}

function shortDigest(name: string): string {
  return createHash('sha256').update(name).digest('hex').slice(0, 12);
}

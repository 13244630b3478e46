/** The forwarders that vault.yaml names. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { auditLogs } from '@keystead/contracts/agent-api/audit';
import type { Logger } from 'pino';
import {
  type Configuration,
  ConfigurationError,
  type LoadedConfiguration,
} from '../../configuration.ts';
import { type ReadVariable, readSecret } from '../../key-management.ts';
import { commandsLogOf } from '../commands-log.ts';
import { AuditForwarder } from './audit-forwarder.ts';
import type { Destination } from './destination.ts';
import { FileDestination } from './file-destination.ts';
import { HttpDestination } from './http-destination.ts';
import { SyslogDatagrams, SyslogStream } from './syslog-destination.ts';

/** @throws ConfigurationError where a file or a secret that is named is not there */
export function openForwarders(
  { configuration, locate }: LoadedConfiguration,
  readVariable: ReadVariable,
  log: Logger,
): AuditForwarder[] {
  const logFile = locate(configuration.audit.log_file);
  const files = { agent: logFile, commands: commandsLogOf(logFile) };
  return auditLogs.flatMap((source) =>
    destinationsOf(source, configuration.audit, locate, readVariable).map(
      (destination) =>
        new AuditForwarder({
          logFile: files[source],
          source,
          positionFile: `${files[source]}.forward-${shortDigest(destination.name)}.json`,
          destination,
          log,
        }),
    ),
  );
}

/** Each log is a chain of its own, and arrives where it can be told from the other. */
function destinationsOf(
  source: (typeof auditLogs)[number],
  audit: Configuration['audit'],
  locate: (path: string) => string,
  readVariable: ReadVariable,
): Destination[] {
  const destinations: Destination[] = [];
  if (audit.forward_to_syslog) {
    const { host, port, protocol, ca_file: caFile } = audit.syslog;
    const origin = {
      host,
      port,
      hostname: hostname(),
      processId: process.pid,
      program: `keystead-${source}`,
    };
    destinations.push(
      protocol === 'udp'
        ? new SyslogDatagrams(origin)
        : new SyslogStream({ ...origin, protocol, ca: readAuthority(caFile, locate) }),
    );
  }
  for (const each of audit.forward) {
    if (each.type === 'file') {
      const path = locate(each.path);
      destinations.push(new FileDestination(source === 'agent' ? path : commandsLogOf(path)));
      continue;
    }
    const { authorization } = each;
    if (authorization !== undefined) readSecret(authorization, locate, readVariable);
    destinations.push(
      new HttpDestination({
        url: each.url,
        source,
        ca: readAuthority(each.ca_file, locate),
        authorization:
          authorization === undefined
            ? undefined
            : () => readSecret(authorization, locate, readVariable),
      }),
    );
  }
  return destinations;
}

function readAuthority(
  file: string | undefined,
  locate: (path: string) => string,
): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(locate(file), 'utf8');
  } catch (error) {
    throw new ConfigurationError([`audit: ${(error as Error).message}`]);
  }
}

/** A destination that is changed begins anew. */
function shortDigest(name: string): string {
  return createHash('sha256').update(name).digest('hex').slice(0, 12);
}

/** The forwarders that vault.yaml names. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { ConfigurationError, type LoadedConfiguration } from '../../configuration.ts';
import { type ReadVariable, readSecret } from '../../key-management.ts';
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
  const { audit } = configuration;
  const logFile = locate(audit.log_file);
  const destinations: Destination[] = [];
  if (audit.forward_to_syslog) {
    const { host, port, protocol, ca_file: caFile } = audit.syslog;
    const origin = { host, port, hostname: hostname(), processId: process.pid };
    destinations.push(
      protocol === 'udp'
        ? new SyslogDatagrams(origin)
        : new SyslogStream({ ...origin, protocol, ca: readAuthority(caFile, locate) }),
    );
  }
  for (const each of audit.forward) {
    if (each.type === 'file') {
      destinations.push(new FileDestination(locate(each.path)));
      continue;
    }
    const { authorization } = each;
    if (authorization !== undefined) readSecret(authorization, locate, readVariable);
    destinations.push(
      new HttpDestination({
        url: each.url,
        ca: readAuthority(each.ca_file, locate),
        authorization:
          authorization === undefined
            ? undefined
            : () => readSecret(authorization, locate, readVariable),
      }),
    );
  }
  return destinations.map(
    (destination) =>
      new AuditForwarder({
        logFile,
        positionFile: `${logFile}.forward-${shortDigest(destination.name)}.json`,
        destination,
        log,
      }),
  );
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

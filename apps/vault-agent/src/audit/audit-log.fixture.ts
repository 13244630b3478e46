/** A log in a folder of its own, and what a test writes into it. */
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { type AuditFact, chainLine, noHash, parseLine } from './audit-entry.ts';
import { AuditTrail, type AuditTrailOptions } from './audit-trail.ts';

export function freshLogFile(): string {
  return join(mkdtempSync(join(tmpdir(), 'keystead-audit-')), 'audit.log');
}

export function trailOptions(
  logFile: string,
  options: Partial<AuditTrailOptions> = {},
): AuditTrailOptions {
  return {
    logFile,
    keyFile: `${logFile}.key`,
    rotationBytes: 100_000_000,
    retentionDays: 365,
    log: pino({ level: 'silent' }),
    ...options,
  };
}

export function openTrail(
  logFile: string,
  options: Partial<AuditTrailOptions> = {},
): Promise<AuditTrail> {
  return AuditTrail.open(trailOptions(logFile, options));
}

export function fact(number: number, changes: Partial<AuditFact> = {}): AuditFact {
  return {
    requestId: `req-${number}`,
    identity: { kind: 'api_key', id: `key_${number % 3}`, name: `robot ${number % 3}` },
    address: '127.0.0.1',
    action: 'secret.read-value',
    operation: 'secrets.read-value',
    resource: { namespace: 'production', secret: `database/${number}` },
    phase: 'outcome',
    result: 'done',
    decidedBy: ['role reader'],
    ...changes,
  };
}

/** Every file of the log by its name, the closed ones first, with their lines. */
export function readLog(logFile: string): Map<string, string[]> {
  const folder = join(logFile, '..');
  const names = readdirSync(folder).filter((name) => /^audit\.log(\.\d{12})?$/.test(name));
  const order = (name: string) => (name === 'audit.log' ? 'z' : name);
  names.sort((one, other) => (order(one) < order(other) ? -1 : 1));
  return new Map(
    names.map((name) => [name, readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1)]),
  );
}

export function writeLog(logFile: string, files: ReadonlyMap<string, readonly string[]>): void {
  const folder = join(logFile, '..');
  for (const [name, lines] of files) {
    writeFileSync(join(folder, name), lines.map((line) => `${line}\n`).join(''));
  }
}

/** What somebody with the file and without the key does: numbers and chains every line anew. */
export function rechain(files: ReadonlyMap<string, readonly string[]>): Map<string, string[]> {
  let sequence = 0;
  let hash = noHash;
  const rechained = new Map<string, string[]>();
  for (const [name, lines] of files) {
    rechained.set(
      name,
      lines.map((line) => {
        const {
          sequence: _sequence,
          hash: _hash,
          ...fields
        } = parseLine(line) as object as {
          sequence: number;
          hash: string;
          type: string;
        };
        if (fields.type === 'file') Object.assign(fields, { previous: hash });
        const next = chainLine(JSON.stringify(fields), sequence + 1, hash);
        sequence += 1;
        hash = next.hash;
        return next.line.slice(0, -1);
      }),
    );
  }
  return rechained;
}

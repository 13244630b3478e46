import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { findProgram } from './programs.ts';

export interface SystemUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

const ownUserName = 'keystead-postgres';

/**
 * PostgreSQL refuses to run as root. As root, this is the user it runs as instead: Debian's `postgres`
 * where there is one, else a system user of our own without a home or a shell, else `nobody`.
 * Undefined when we are not root and everything runs as ourselves.
 */
export async function unprivilegedUser(): Promise<SystemUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const existing = lookUp('postgres') ?? lookUp(ownUserName);
  if (existing !== undefined) return existing;
  const useradd = findProgram('useradd');
  if (useradd !== undefined) {
    const args = ['--system', '--user-group', '--no-create-home', '--home-dir', '/nonexistent'];
    const shell = ['--shell', '/usr/sbin/nologin'];
    await promisify(execFile)(useradd, [...args, ...shell, ownUserName]).catch(() => undefined);
    const created = lookUp(ownUserName);
    if (created !== undefined) return created;
  }
  const nobody = lookUp('nobody');
  if (nobody !== undefined) return nobody;
  throw new Error(
    `PostgreSQL does not run as root, and no user "postgres" exists or could be created ` +
      `(useradd ${ownUserName}). Run this as an ordinary user, or name a PostgreSQL by ` +
      'KEYSTEAD_DATABASE_URL.',
  );
}

function lookUp(name: string): SystemUser | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  return uid && gid ? { name, uid: Number(uid), gid: Number(gid) } : undefined;
}

/** Whether the user may pass through every folder down to this one, and look into it. */
export function canEnter(user: SystemUser, folder: string): boolean {
  for (let at = folder; ; at = dirname(at)) {
    const mayPass = mayUse(user, at, 0o1);
    if (!mayPass) return false;
    if (dirname(at) === at) return true;
  }
}

export function canRead(user: SystemUser, path: string): boolean {
  return mayUse(user, path, 0o4);
}

function mayUse(user: SystemUser, path: string, bit: number): boolean {
  try {
    const { mode, uid, gid } = statSync(path);
    const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
    return ((mode >> shift) & bit) === bit;
  } catch {
    return false;
  }
}

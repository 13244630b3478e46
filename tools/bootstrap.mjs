// The first step of every npm script, and the only file that has to run on whatever Node the machine
// has (20 or newer). It makes node_modules match package-lock.json, then hands over to the tool of the
// same name on the Node version that the lockfile pins. It imports nothing but Node's own modules.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const nodeProgram = join(root, 'node_modules', '.bin', 'node');
const tools = [
  'start',
  'test',
  'verify',
  'prove',
  'dev',
  'bench',
  'generate',
  'build',
  'topology',
  'openapi',
  'lockfile',
];

const environment = {
  ...process.env,
  // No tool may phone home or fetch anything that the lockfile does not name.
  SCARF_ANALYTICS: 'false',
  NX_DAEMON: 'false',
  NX_NO_CLOUD: 'true',
  CHECKPOINT_DISABLE: '1',
  PRISMA_HIDE_UPDATE_MESSAGE: '1',
  PRISMA_SCHEMA_ENGINE_BINARY: '/bin/false',
  BUF_CACHE_DIR: join(root, '.keystead', 'buf'),
  KEYSTEAD_PARENT_PIPE: '3',
};

/** Why node_modules cannot be used as it is, or undefined when it matches package-lock.json. */
function whyInstall() {
  const wanted = readPackages(join(root, 'package-lock.json'));
  if (wanted === undefined) throw new Error('package-lock.json is missing or broken');
  // npm writes this file as the last act of an install: a broken-off one has none.
  const installed = readPackages(join(root, 'node_modules', '.package-lock.json'));
  if (installed === undefined) {
    return existsSync(join(root, 'node_modules'))
      ? 'an earlier installation was broken off'
      : 'nothing is installed yet';
  }
  for (const [path, entry] of Object.entries(wanted)) {
    if (!path.includes('node_modules/')) continue;
    const have = installed[path];
    if (have === undefined) {
      if (entry.optional || entry.peer) continue;
      return `${nameOf(path)} is missing`;
    }
    if (have.version !== entry.version) {
      return `${nameOf(path)} is ${have.version}, package-lock.json says ${entry.version}`;
    }
  }
  if (!existsSync(nodeProgram)) {
    return `it was installed for another platform than ${process.platform}-${process.arch}`;
  }
  const probe = spawnSync(nodeProgram, ['--version'], { encoding: 'utf8' });
  if (probe.status !== 0) {
    return `its Node does not run on ${process.platform}-${process.arch} (copied from another machine?)`;
  }
  return undefined;
}

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

function nameOf(path) {
  return path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
}

let wasInterrupted = false;

/** Runs a program to its end, passing signals on; answers its exit code, 128 + n after a signal. */
function run(program, args, options) {
  return new Promise((resolve) => {
    // Descriptor 3 is never written to. Its end tells the tool that this process is gone, however it
    // died, so that a `kill -9` here does not leave a platform running there.
    const child = spawn(program, args, {
      cwd: root,
      env: environment,
      stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
      ...options,
    });
    const passOn = (signal) => {
      wasInterrupted = true;
      child.kill(signal);
    };
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
    for (const signal of signals) process.on(signal, passOn);
    // npm cannot pass a `kill -9` on: when it goes, this process or its shell gets another parent.
    const parents = ancestors();
    const watch = process.env.npm_lifecycle_event
      ? setInterval(() => ancestors() !== parents && child.kill('SIGTERM'), 300)
      : undefined;
    child.on('error', (error) => {
      console.error(`${program} could not be started: ${error.message}`);
      resolve(127);
    });
    child.on('exit', (code, signal) => {
      clearInterval(watch);
      for (const name of signals) process.off(name, passOn);
      resolve(code ?? 128 + (constants.signals[signal] ?? 0));
    });
  });
}

/** The ids of this process's parent and, where the system tells it, of the parent's parent. */
function ancestors() {
  try {
    const status = readFileSync(`/proc/${process.ppid}/status`, 'utf8');
    return `${process.ppid} ${/^PPid:\s*(\d+)/m.exec(status)?.[1]}`;
  } catch {
    return `${process.ppid}`;
  }
}

async function install(reason) {
  const startedAt = Date.now();
  console.log(`Installing packages: ${reason}. This takes a minute or two.`);
  const heartbeat = setInterval(() => {
    console.log(`  … still installing, ${Math.round((Date.now() - startedAt) / 1_000)} s`);
  }, 15_000);
  const code = await run('npm', ['ci', '--no-audit', '--no-fund'], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  clearInterval(heartbeat);
  if (wasInterrupted) process.exit(130);
  if (code !== 0) {
    console.error(
      'Packages could not be installed: npm ci failed, its reason is above. A registry must be ' +
        'reachable (npm config get registry).',
    );
    process.exit(code);
  }
  console.log(`Packages installed in ${Math.round((Date.now() - startedAt) / 1_000)} s.`);
}

const [tool, ...args] = process.argv.slice(2);
if (tool === undefined || !tools.includes(tool)) {
  console.error(`usage: node tools/bootstrap.mjs ${tools.join('|')} [arguments]`);
  process.exit(2);
}
const reason = whyInstall();
if (reason !== undefined) await install(reason);
process.exitCode = await run(
  nodeProgram,
  [
    '--conditions=keystead-source',
    '--disable-warning=ExperimentalWarning',
    join(root, 'tools', `${tool}.ts`),
    ...args,
  ],
  {},
);

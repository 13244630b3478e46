/**
 * `npm run dev`: as `npm start`, and a service starts again when its code, or that of a library it is
 * built on, has changed. What counts is what the compiler wrote, so a change that alters nothing, or
 * does not compile, restarts nothing.
 */
import { createHash } from 'node:crypto';
import { existsSync, globSync, readFileSync, watch } from 'node:fs';
import { join } from 'node:path';
import { build } from './build.ts';
import { startDemo } from './demo.ts';
import { endWith, Installation } from './installation.ts';
import { summary } from './summary.ts';
import { complain, cyan, dim, fail, root, say, seconds } from './terminal.ts';

/** A hash of what each project was compiled to, by its folder (`apps/auth`, `libs/contracts`). */
function compiled(): Map<string, string> {
  const hashes = new Map<string, string>();
  for (const folder of globSync('{apps,libs}/*', { cwd: root })) {
    const hash = createHash('sha256');
    for (const file of globSync(`${folder}/dist/**/*.js`, { cwd: root }).sort()) {
      hash.update(file).update(readFileSync(join(root, file)));
    }
    hashes.set(folder, hash.digest('hex'));
  }
  return hashes;
}

/** The folders of the projects that this one is built on, itself included. */
function buildsOn(folder: string, seen = new Set<string>()): Set<string> {
  if (seen.has(folder)) return seen;
  seen.add(folder);
  const file = join(root, folder, 'package.json');
  const { dependencies = {} } = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  for (const name of Object.keys(dependencies)) {
    if (name.startsWith('@keystead/')) buildsOn(name.replace('@keystead/', 'libs/'), seen);
  }
  return seen;
}

const startedAt = Date.now();
const installation = new Installation();
let known = new Map<string, string>();
let isReady = false;
let isBuilding = false;
let isWanted = false;
endWith(installation);
watchSources();
try {
  await installation.start(async () => {
    await build();
    known = compiled();
  });
  const demo = process.argv.includes('--empty') ? undefined : await startDemo(installation);
  say(summary(installation, demo, startedAt));
  isReady = true;
  if (isWanted) void rebuild();
} catch (error) {
  if (!installation.isStopping) {
    await installation.stop();
    fail(error);
  }
}

/** From the first moment: what changes while all this starts is not missed. */
function watchSources(): void {
  let timer: NodeJS.Timeout | undefined;
  for (const folder of ['libs', 'apps', 'proto', 'prisma']) {
    watch(join(root, folder), { recursive: true }, (_event, name) => {
      if (name === null || /(^|\/)(dist|generated|node_modules)(\/|$)|\.test\.ts$/.test(name))
        return;
      if (!/\.(ts|proto|prisma|json|sql)$/.test(name)) return;
      clearTimeout(timer);
      timer = setTimeout(() => void rebuild(), 150);
    });
  }
}

async function rebuild(): Promise<void> {
  if (isBuilding || !isReady) {
    isWanted = true;
    return;
  }
  isBuilding = true;
  try {
    do {
      isWanted = false;
      await rebuildOnce();
    } while (isWanted && !installation.isStopping);
  } finally {
    isBuilding = false;
  }
}

async function rebuildOnce(): Promise<void> {
  try {
    await build();
  } catch (error) {
    complain(error instanceof Error ? error.message : String(error));
    return;
  }
  const now = compiled();
  const changed = new Set(
    [...now.keys()].filter((folder) => now.get(folder) !== known.get(folder)),
  );
  known = now;
  const touched = [...installation.services.values()].filter(({ service }) =>
    [...buildsOn(`apps/${service}`)].some((folder) => changed.has(folder)),
  );
  if (touched.length === 0) {
    say(dim('  nothing to restart'));
    return;
  }
  const begun = Date.now();
  const names = touched.map(({ service }) => service).join(', ');
  say(`${cyan('▸')} restarting ${names}`);
  const results = await Promise.allSettled(touched.map((service) => service.restart(20_000)));
  for (const result of results) {
    if (result.status === 'rejected' && !installation.isStopping) complain(String(result.reason));
  }
  say(`${cyan('▸')} restarted ${names} ${dim(seconds(begun))}`);
}

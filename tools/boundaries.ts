/**
 * Borders between projects (eslint.config.mjs) and rings inside them.
 *
 *   node tools/boundaries.ts
 *
 * The rule reads the project graph from Nx's cache and says nothing when there is none, so the graph
 * is built first, and a forbidden import must be found before silence is believed.
 */
import { createHash } from 'node:crypto';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { ESLint, type Linter } from 'eslint';
import { borders } from '../eslint.config.mjs';

const root = join(import.meta.dirname, '..');

export interface Breach {
  file: string;
  line: number;
  message: string;
}

/** Nx works from the workspace alone: no daemon, no cloud, no cache left from another tree. */
export async function readProjectGraph() {
  process.env.NX_DAEMON = 'false';
  process.env.NX_NO_CLOUD = 'true';
  process.env.NX_ISOLATE_PLUGINS = 'false';
  process.env.NX_WORKSPACE_ROOT_PATH = root;
  const { createProjectGraphAsync } = await import('@nx/devkit');
  return createProjectGraphAsync({ exitOnError: false, resetDaemonClient: false });
}

/** @param cacheFile where it is remembered which files had no complaint */
export function createLinter(cacheFile?: string): ESLint {
  return new ESLint({
    cwd: root,
    overrideConfigFile: join(root, 'eslint.config.mjs'),
    ...(cacheFile === undefined
      ? {}
      : { cache: true, cacheLocation: cacheFile, cacheStrategy: 'content' }),
  });
}

/** What the borders say about a text as if it stood in that file. */
export async function lintText(linter: ESLint, file: string, text: string): Promise<string[]> {
  const [result] = await linter.lintText(text, { filePath: join(root, file) });
  return (result?.messages ?? []).map(describe);
}

const describe = ({ ruleId, message }: Linter.LintMessage) => `${ruleId ?? 'parse'}: ${message}`;

export async function findBreaches(linter: ESLint): Promise<Breach[]> {
  const results = await linter.lintFiles(['libs/*/src/**/*.ts', 'apps/*/src/**/*.ts']);
  return results.flatMap((result) =>
    result.messages.map((message) => ({
      file: relative(root, result.filePath),
      line: message.line,
      message: describe(message),
    })),
  );
}

const importPattern =
  /^\s*(?:import|export)\s+(?!type\b)(?:[^'";]*?\sfrom\s+)?'(\.[^']+)'|\bimport\(\s*'(\.[^']+)'/gm;

/** Files that import each other in a ring at run time; types do not count. */
export function findRings(files: ReadonlyMap<string, string>): string[][] {
  const edges = new Map<string, string[]>();
  for (const [file, text] of files) {
    const targets = [...text.matchAll(importPattern)].map((match) =>
      resolve('/', dirname(file), match[1] ?? match[2] ?? '').slice(1),
    );
    edges.set(
      file,
      targets.filter((target) => files.has(target)),
    );
  }
  const rings: string[][] = [];
  const done = new Set<string>();
  const visit = (file: string, path: string[]) => {
    const at = path.indexOf(file);
    if (at !== -1) {
      rings.push([...path.slice(at), file]);
      return;
    }
    if (done.has(file)) return;
    for (const target of edges.get(file) ?? []) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files.keys()) visit(file, []);
  return rings;
}

export function readSources(): Map<string, string> {
  const files = globSync('{libs,apps}/*/src/**/*.ts', { cwd: root });
  return new Map(
    files
      .filter((file) => !file.includes('/generated/') && !file.endsWith('.d.ts'))
      .sort()
      .map((file) => [file, readFileSync(join(root, file), 'utf8')]),
  );
}

/** Tags in package.json files that have no row in the table of borders. */
export function untaggedProjects(
  graph: Awaited<ReturnType<typeof readProjectGraph>>,
  tags: readonly string[],
): string[] {
  return Object.values(graph.nodes)
    .filter((node) => existsSync(join(root, node.data.root, 'package.json')))
    .filter(
      (node) => (node.data.tags ?? []).filter((tag: string) => tags.includes(tag)).length !== 1,
    )
    .map((node) => node.data.root);
}

if (import.meta.main) {
  const graph = await readProjectGraph();
  // What is allowed hangs on every project's tags and packages, not only on the file that imports.
  const projects = createHash('sha256').update(JSON.stringify(graph.nodes)).digest('hex');
  const linter = createLinter(
    join(root, 'node_modules', '.cache', 'keystead', `borders-${projects}`),
  );
  const complaints: string[] = [];
  const control = await lintText(
    linter,
    'apps/vault-agent/src/control.ts',
    "import '@keystead/database/database';\n",
  );
  if (!control.some((message) => message.startsWith('@nx/enforce-module-boundaries'))) {
    complaints.push('the border check is asleep: it let the agent import the database');
  }
  for (const project of untaggedProjects(graph, Object.keys(borders))) {
    complaints.push(
      `${project}/package.json: nx.tags must hold exactly one tag of eslint.config.mjs`,
    );
  }
  for (const { file, line, message } of await findBreaches(linter)) {
    complaints.push(`${file}:${line}: ${message}`);
  }
  for (const ring of findRings(readSources())) {
    complaints.push(`files import each other in a ring: ${ring.join(' → ')}`);
  }
  if (complaints.length > 0) {
    console.error(complaints.join('\n'));
    process.exitCode = 1;
  } else {
    console.log(`Borders hold over ${Object.keys(graph.nodes).length} projects.`);
  }
}

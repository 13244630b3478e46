/**
 * `npm run bench -- NAME [--json]`: one benchmark of bench/, which sets up what it needs. Without a
 * name it lists them.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from './build.ts';
import { complain, fail, nodeProgram, root, say } from './terminal.ts';

const folder = join(root, 'bench');
const [name, ...args] = process.argv.slice(2);

/** A benchmark reports as benchmarks do; the other files of the folder are what they are made of. */
function programOf(bench: string): string | undefined {
  return [`${bench}.ts`, `${bench}/main.ts`, `${bench}/${bench}.ts`]
    .map((path) => join(folder, path))
    .find(
      (path) => existsSync(path) && /from '\.\.?\/report\.ts'/.test(readFileSync(path, 'utf8')),
    );
}

/** The first sentence of its head. */
function purposeOf(program: string): string {
  const [, head = ''] = /^\/\*\*(.*?)\*\//s.exec(readFileSync(program, 'utf8')) ?? [];
  return (
    head
      .replace(/\s*\n \* ?/g, ' ')
      .trim()
      .split(/(?<=\.) /)[0] ?? ''
  );
}

const program = name !== undefined && /^[a-z0-9-]+$/.test(name) ? programOf(name) : undefined;
if (program === undefined) {
  if (name !== undefined) complain(`there is no benchmark ${name}`);
  say('usage: npm run bench -- NAME [--json]\n');
  for (const entry of existsSync(folder) ? readdirSync(folder).sort() : []) {
    const bench = entry.replace(/\.ts$/, '');
    const file = programOf(bench);
    if (file !== undefined) say(`  ${bench.padEnd(12)} ${purposeOf(file)}`);
  }
  process.exit(name === undefined ? 0 : 2);
}

await build().catch(fail);
const child = spawn(
  nodeProgram,
  ['--conditions=keystead-source', '--expose-gc', program, ...args],
  {
    cwd: root,
    stdio: 'inherit',
  },
);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => child.kill(signal));
}
child.on('exit', (code, signal) => {
  process.exitCode = code ?? (signal ? 1 : 0);
});

/**
 * `npm run bench -- NAME [--json]`: one benchmark of bench/, which sets up what it needs. Without a
 * name it lists them.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { build } from './build.ts';
import { complain, fail, nodeProgram, root, say } from './terminal.ts';

const folder = join(root, 'bench');
const [name, ...args] = process.argv.slice(2);

function programOf(bench: string): string | undefined {
  return [`${bench}.ts`, `${bench}/main.ts`, `${bench}/${bench}.ts`, `${bench}/index.ts`]
    .map((path) => join(folder, path))
    .find((path) => existsSync(path));
}

const program =
  name !== undefined && /^[a-z0-9-]+$/.test(name) && !name.includes('.')
    ? programOf(name)
    : undefined;
if (program === undefined) {
  const names = existsSync(folder)
    ? [...new Set(readdirSync(folder).map((entry) => entry.replace(/\.ts$/, '')))].filter(
        (entry) => programOf(entry) !== undefined && !entry.includes('.'),
      )
    : [];
  if (name !== undefined) complain(`there is no benchmark ${name}`);
  say(`usage: npm run bench -- NAME [--json]\n\n  ${names.join('\n  ') || '(there are none yet)'}`);
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

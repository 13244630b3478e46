/** Generates what is generated and compiles every project that is built, by the native compiler. */
import { globSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { generate } from './generate.ts';
import { dim, fail, root, runPackage, say, seconds } from './terminal.ts';

export async function compile(): Promise<void> {
  const startedAt = Date.now();
  const attempt = () => runPackage('typescript7/bin/tsc', ['-b', '--pretty', 'false']);
  let { code, output } = await attempt();
  if (output.includes('TS6305')) {
    // The compiler trusts its notes where outputs have gone, as after a build that was cut short.
    for (const folder of globSync('{apps,libs}/*/dist', { cwd: root })) {
      rmSync(join(root, folder), { recursive: true, force: true });
    }
    ({ code, output } = await attempt());
  }
  if (code !== 0) throw new Error(`The code does not compile.\n${output.trim()}`);
  say(dim(`  compiled in ${seconds(startedAt)}`));
}

export async function build(): Promise<void> {
  await generate();
  await compile();
}

if (import.meta.main) await build().catch(fail);

/** Generates what is generated and compiles every project that is built, by the native compiler. */
import { generate } from './generate.ts';
import { dim, fail, runPackage, say, seconds } from './terminal.ts';

export async function compile(): Promise<void> {
  const startedAt = Date.now();
  const { code, output } = await runPackage('typescript7/bin/tsc', ['-b', '--pretty', 'false']);
  if (code !== 0) throw new Error(`The code does not compile.\n${output.trim()}`);
  say(dim(`  compiled in ${seconds(startedAt)}`));
}

export async function build(): Promise<void> {
  await generate();
  await compile();
}

if (import.meta.main) await build().catch(fail);

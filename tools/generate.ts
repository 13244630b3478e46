/**
 * Generates code from the contracts: the Prisma client from prisma/schema, the agent link from proto.
 * Both land in `generated` folders that Git ignores, and both are left alone while their inputs, and
 * the generators' versions, are unchanged.
 */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { dim, fail, root, run, runPackage, say, seconds } from './terminal.ts';

interface Generator {
  readonly name: string;
  /** Files and folders it reads. */
  readonly inputs: readonly string[];
  /** Packages whose version changes what it writes. */
  readonly packages: readonly string[];
  readonly output: string;
  readonly run: () => Promise<{ code: number; output: string }>;
}

const offline = { PRISMA_SCHEMA_ENGINE_BINARY: '/bin/false', CHECKPOINT_DISABLE: '1' };

const generators: readonly Generator[] = [
  {
    name: 'Prisma client',
    inputs: ['prisma/schema', 'prisma.config.ts'],
    packages: ['prisma', '@prisma/client'],
    output: 'libs/database/src/generated',
    run: () => runPackage('prisma/build/index.js', ['generate'], { env: offline }),
  },
  {
    name: 'agent link',
    inputs: ['proto'],
    packages: ['@bufbuild/buf', 'ts-proto'],
    output: 'libs/agent-protocol/src/generated',
    run: () =>
      run(join(root, 'node_modules', '.bin', 'buf'), [
        'generate',
        'proto',
        '--template',
        'proto/buf.gen.yaml',
      ]),
  },
];

export async function generate(): Promise<void> {
  for (const generator of generators) {
    const startedAt = Date.now();
    if (!generator.inputs.every((input) => existsSync(join(root, input)))) {
      say(dim(`  ${generator.name}: nothing to generate, ${generator.inputs[0]} is absent`));
      continue;
    }
    const stamp = join(root, generator.output, '.inputs');
    const hash = hashOf(generator);
    if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) {
      say(dim(`  ${generator.name}: unchanged`));
      continue;
    }
    // What a removed contract has left behind must not compile any more.
    rmSync(join(root, generator.output), { recursive: true, force: true });
    const { code, output } = await generator.run();
    if (code !== 0) throw new Error(`${generator.name} could not be generated.\n${output.trim()}`);
    mkdirSync(join(root, generator.output), { recursive: true });
    writeFileSync(stamp, hash);
    say(dim(`  ${generator.name}: generated in ${seconds(startedAt)}`));
  }
}

function hashOf({ inputs, packages }: Generator): string {
  const hash = createHash('sha256');
  for (const name of packages) {
    const file = join(root, 'node_modules', name, 'package.json');
    hash.update(`${name} ${JSON.parse(readFileSync(file, 'utf8')).version}\n`);
  }
  for (const input of inputs) {
    for (const file of filesUnder(join(root, input))) {
      hash
        .update(`${relative(root, file)}\n`)
        .update(readFileSync(file))
        .update('\n');
    }
  }
  return hash.digest('hex');
}

function filesUnder(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path)
    .sort()
    .flatMap((name) => filesUnder(join(path, name)));
}

if (import.meta.main) await generate().catch(fail);

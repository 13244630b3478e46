/**
 * The checks that need no server, as `npm run verify` runs them and `npm test` before everything else:
 * each says whether it passed and how long it took.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from './build.ts';
import {
  bold,
  complain,
  cyan,
  dim,
  green,
  nodeProgram,
  type Outcome,
  red,
  root,
  run,
  runPackage,
  say,
  seconds,
} from './terminal.ts';

// Test files and the processes they start load the same packages again and again.
const compiled = join(root, 'node_modules', '.cache', 'keystead');

export class Tally {
  passed = 0;
  failed = 0;
  skipped = 0;
  readonly #startedAt = Date.now();
  readonly #failures: string[] = [];

  /** One check: passed when the program ends with 0. */
  async check(title: string, work: () => Promise<Outcome>): Promise<boolean> {
    const startedAt = Date.now();
    say(`${cyan('▸')} ${title}`);
    const { code, output } = await work().catch((error: unknown) => ({
      code: 1,
      output: error instanceof Error ? error.message : String(error),
    }));
    if (code === 0) {
      this.passed += 1;
      say(`${green('✓')} ${title} ${dim(seconds(startedAt))}`);
      return true;
    }
    this.failed += 1;
    this.#failures.push(title);
    say(output.trimEnd());
    say(`${red('✗')} ${title} ${dim(seconds(startedAt))}`);
    return false;
  }

  /** Test files run by vitest: every test counts, and a file that could not be loaded counts as one. */
  async tests(title: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<void> {
    const startedAt = Date.now();
    say(`${cyan('▸')} ${title}`);
    const folder = mkdtempSync(join(tmpdir(), 'keystead-report-'));
    const report = join(folder, 'report.json');
    const stillRunning = setInterval(() => say(dim(`  … ${title}: ${seconds(startedAt)}`)), 60_000);
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const { code } = await runPackage(
      'vitest/vitest.mjs',
      ['run', '--passWithNoTests', ...reporters, ...args],
      { show: true, env: { KEYSTEAD_BUILT: 'yes', NODE_COMPILE_CACHE: compiled, ...env } },
    );
    clearInterval(stillRunning);
    const { passed, failed, skipped } = readReport(report);
    rmSync(folder, { recursive: true, force: true });
    // A run that ends badly without a failed test has failed all the same.
    const counted = failed === 0 && code !== 0 ? 1 : failed;
    this.passed += passed;
    this.failed += counted;
    this.skipped += skipped;
    if (counted > 0) this.#failures.push(`${title}: ${counted} failed`);
    const mark = counted === 0 ? green('✓') : red('✗');
    say(`${mark} ${title}: ${passed} passed, ${counted} failed ${dim(seconds(startedAt))}`);
  }

  /** The summary; its last line is the one machines read. Answers the exit code. */
  finish(): number {
    say();
    for (const failure of this.#failures) complain(failure);
    if (this.skipped > 0) say(`${this.skipped} skipped`);
    say(dim(`in ${seconds(this.#startedAt)}`));
    say(bold(`${this.passed} passed, ${this.failed} failed`));
    return this.failed === 0 ? 0 : 1;
  }
}

interface Report {
  testResults: { status: string; assertionResults: { status: string }[] }[];
}

function readReport(file: string): { passed: number; failed: number; skipped: number } {
  const count = { passed: 0, failed: 0, skipped: 0 };
  if (!existsSync(file)) return count;
  const { testResults } = JSON.parse(readFileSync(file, 'utf8')) as Report;
  for (const { status, assertionResults } of testResults) {
    if (status === 'failed' && !assertionResults.some((test) => test.status === 'failed')) {
      count.failed += 1;
    }
    for (const test of assertionResults) {
      if (test.status === 'passed') count.passed += 1;
      else if (test.status === 'failed') count.failed += 1;
      else count.skipped += 1;
    }
  }
  return count;
}

const tool = (name: string, ...args: string[]) => ({
  file: join(root, 'tools', `${name}.ts`),
  run: () =>
    run(nodeProgram, ['--conditions=keystead-source', join(root, 'tools', `${name}.ts`), ...args]),
});

/**
 * What needs no server. Answers false when the code does not even compile.
 * @param unitTests `unit` leaves out those that take seconds each, `unit*` does not
 */
export async function checkWithoutServers(
  tally: Tally,
  unitTests: 'unit' | 'unit*',
): Promise<boolean> {
  const built = await tally.check('Generate and build', async () => {
    await build();
    return { code: 0, output: '' };
  });
  const packaged: readonly [string, () => Promise<Outcome>][] = [
    [
      'Format and lint',
      () => run(join(root, 'node_modules', '.bin', 'biome'), ['ci', '--max-diagnostics=40', '.']),
    ],
    [
      'Types, tests and tools included',
      () => runPackage('typescript7/bin/tsc', ['-p', 'tsconfig.check.json', '--pretty', 'false']),
    ],
    ['package-lock.json', tool('lockfile', '--check').run],
  ];
  const optional = [
    ['Borders between projects', tool('boundaries')],
    ['Topology', tool('topology', '--check')],
    ['openapi.json and openapi-agent.json', tool('openapi')],
  ] as const;
  const present = optional.flatMap(([title, { file, run: work }]) =>
    existsSync(file) ? [[title, work] as const] : [],
  );
  // None writes what another reads.
  await Promise.all([...packaged, ...present].map(([title, work]) => tally.check(title, work)));
  await tally.tests('Unit tests', ['--project', unitTests]);
  return built;
}

/** How the tools talk to people: colour where it helps and only where it is wanted, durations, steps. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';

export const root = join(import.meta.dirname, '..');
export const nodeProgram = process.execPath;

const coloured =
  process.env.NO_COLOR === undefined &&
  process.env.TERM !== 'dumb' &&
  (process.env.FORCE_COLOR !== undefined || process.stdout.isTTY === true);

const paint = (open: number, close: number) => (text: string) =>
  coloured ? `\u001b[${open}m${text}\u001b[${close}m` : text;

export const bold = paint(1, 22);
export const dim = paint(2, 22);
export const red = paint(31, 39);
export const green = paint(32, 39);
export const yellow = paint(33, 39);
export const cyan = paint(36, 39);

export function seconds(sinceMs: number): string {
  const passed = (Date.now() - sinceMs) / 1_000;
  if (passed < 60) return `${passed.toFixed(1)} s`;
  return `${Math.floor(passed / 60)} min ${Math.round(passed % 60)} s`;
}

export function say(line = ''): void {
  process.stdout.write(`${line}\n`);
}

export function complain(line: string): void {
  process.stderr.write(`${red('✗')} ${line}\n`);
}

/** Says what begins and how long it took; what it reports in between is indented. */
export async function step<Result>(title: string, work: () => Promise<Result>): Promise<Result> {
  const startedAt = Date.now();
  say(`${cyan('▸')} ${title}`);
  try {
    const result = await work();
    say(`${green('✓')} ${title} ${dim(seconds(startedAt))}`);
    return result;
  } catch (error) {
    say(`${red('✗')} ${title} ${dim(seconds(startedAt))}`);
    throw error;
  }
}

export interface Outcome {
  readonly code: number;
  readonly output: string;
}

const children = new Set<ChildProcess>();
let isEnding = false;

/** Runs a program of this repository to its end; `show` passes its output through as it comes. */
export function run(
  program: string,
  args: readonly string[],
  options: { show?: boolean; env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<Outcome> {
  // Nothing new begins while this ends, and who waits for it waits until the end.
  if (isEnding) return new Promise(() => undefined);
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...(coloured ? {} : { NO_COLOR: '1' }), ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    children.add(child);
    let output = '';
    const collect = (bytes: Buffer, stream: NodeJS.WriteStream) => {
      output += bytes.toString();
      if (options.show) stream.write(bytes);
    };
    child.stdout.on('data', (bytes: Buffer) => collect(bytes, process.stdout));
    child.stderr.on('data', (bytes: Buffer) => collect(bytes, process.stderr));
    child.once('error', (error) => {
      children.delete(child);
      resolve({ code: 127, output: `${program}: ${error.message}` });
    });
    child.once('close', (code, signal) => {
      children.delete(child);
      resolve({ code: code ?? (signal ? 128 : 1), output });
    });
  });
}

/** A program that a package brings, run on our own Node. */
export function runPackage(
  script: string,
  args: readonly string[],
  options?: Parameters<typeof run>[2],
): Promise<Outcome> {
  return run(nodeProgram, [join(root, 'node_modules', script), ...args], options);
}

/** Ends the process with what an error has to say, without a stack where people cannot use one. */
export function fail(error: unknown): never {
  complain(error instanceof Error ? error.message : String(error));
  process.exit(1);
}

/** For tools that only run others: a signal ends those, and when they are gone, this one. */
export function endOnSignal(): void {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(signal, () => {
      if (isEnding) return;
      isEnding = true;
      for (const child of children) child.kill('SIGTERM');
      const force = setTimeout(() => {
        for (const child of children) child.kill('SIGKILL');
        process.exit(code);
      }, 4_000);
      const poll = setInterval(() => {
        if (children.size > 0) return;
        clearInterval(poll);
        clearTimeout(force);
        process.exit(code);
      }, 50);
    });
  }
}

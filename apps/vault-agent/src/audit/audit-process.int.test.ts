/** What only another process can show: being killed, and disks that refuse. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { parseLine } from './audit-entry.ts';
import { freshLogFile, openTrail, readLog } from './audit-log.fixture.ts';
import { verifyAudit } from './audit-verification.ts';

// Starting a process takes seconds on a busy machine.
const timeout = process.env.KEYSTEAD_PROVE === 'full' ? 3_600_000 : 60_000;

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** A process that records without end and says what was acknowledged and what was refused, and after how long. */
class Writer {
  readonly child: ChildProcess;
  readonly lines: string[] = [];
  #rest = '';

  constructor(
    logFile: string,
    options: { user?: number; sizeLimit?: number; paceMs?: number } = {},
  ) {
    const script = `
      import { fact, openTrail } from ${JSON.stringify(new URL('./audit-log.fixture.ts', import.meta.url).href)};
      process.on('SIGXFSZ', () => {});
      const trail = await openTrail(${JSON.stringify(logFile)}, { rotationBytes: 200_000 });
      trail.onNotice(({ kind }) => process.stdout.write('notice ' + kind + '\\n'));
      const run = process.pid;
      const worker = async (number) => {
        for (let count = 0; ; count += 1) {
          const requestId = run + '-' + number + '-' + count;
          const sinceMs = performance.now();
          try {
            await trail.record(fact(count, { requestId }));
            process.stdout.write('done ' + requestId + '\\n');
          } catch (error) {
            process.stdout.write('refused ' + error.name + ' ' + Math.round(performance.now() - sinceMs) + '\\n');
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
          await new Promise((resolve) => setTimeout(resolve, ${options.paceMs ?? 0}));
        }
      };
      for (let number = 0; number < 8; number += 1) void worker(number);`;
    const limit =
      options.sizeLimit === undefined ? [] : ['prlimit', `--fsize=${options.sizeLimit}:unlimited`];
    const [program = '', ...args] = [
      ...limit,
      process.execPath,
      '--conditions=keystead-source',
      '--disable-warning=ExperimentalWarning',
      '--input-type=module',
      '-e',
      script,
    ];
    this.child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      ...(options.user === undefined ? {} : { uid: options.user, gid: options.user }),
    });
    children.push(this.child);
    this.child.stdout?.on('data', (data: Buffer) => {
      const parts = (this.#rest + data).split('\n');
      this.#rest = parts.pop() ?? '';
      this.lines.push(...parts);
    });
  }

  async until(holds: (lines: string[]) => boolean): Promise<void> {
    const endMs = performance.now() + 30_000;
    while (!holds(this.lines)) {
      if (performance.now() > endMs) {
        throw new Error(
          `it did not come to pass in time; last: ${this.lines.slice(-5).join(' | ')}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async kill(): Promise<void> {
    const closed = new Promise((resolve) => this.child.once('close', resolve));
    this.child.kill('SIGKILL');
    await closed;
  }

  get acknowledged(): string[] {
    return this.lines.filter((line) => line.startsWith('done ')).map((line) => line.slice(5));
  }

  get refusedAfterMs(): number[] {
    return this.lines
      .filter((line) => line.startsWith('refused '))
      .map((line) => {
        expect(line).toMatch(/^refused AuditBlocked \d+$/);
        return Number(line.split(' ')[2]);
      });
  }
}

const count = (lines: string[], word: string) =>
  lines.filter((line) => line.startsWith(word)).length;

function requestIds(logFile: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of [...readLog(logFile).values()].flat()) {
    const entry = parseLine(line);
    if (entry?.type !== 'operation') continue;
    found.set(entry.requestId, (found.get(entry.requestId) ?? 0) + 1);
  }
  return found;
}

test('killed with -9 in the middle, every acknowledged entry is there, once, and the chain holds', {
  timeout,
}, async () => {
  const logFile = freshLogFile();
  const acknowledged: string[] = [];
  const rounds = process.env.KEYSTEAD_PROVE === 'full' ? 60 : 4;
  for (let round = 0; round < rounds; round += 1) {
    const writer = new Writer(logFile);
    await writer.until((lines) => count(lines, 'done') > 150 + 97 * (round % 7));
    await writer.kill();
    acknowledged.push(...writer.acknowledged);
    expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
  }
  const trail = await openTrail(logFile);
  await trail.stop();
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, tornBytes: 0 });
  const found = requestIds(logFile);
  expect(acknowledged.filter((id) => found.get(id) !== 1)).toEqual([]);
  expect([...found.values()].filter((times) => times !== 1)).toEqual([]);
});

test('a full disk: refused within two seconds, nothing acknowledged is lost, and written again when there is room', {
  timeout,
}, async () => {
  const logFile = freshLogFile();
  const writer = new Writer(logFile, { sizeLimit: 100_000, paceMs: 5 });
  await writer.until((lines) => count(lines, 'refused') > 20);
  expect(Math.max(...writer.refusedAfterMs)).toBeLessThan(2_000);
  const before = writer.acknowledged.length;
  expect(before).toBeGreaterThan(10);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
  execFileSync('prlimit', ['--pid', String(writer.child.pid), '--fsize=unlimited']);
  await writer.until((lines) => lines.includes('notice resumed'));
  await writer.until((lines) => count(lines, 'done') > before + 50);
  await writer.kill();
  expect(writer.lines.filter((line) => line.startsWith('notice'))).toEqual([
    'notice blocked',
    'notice resumed',
  ]);
  const found = requestIds(logFile);
  expect(writer.acknowledged.filter((id) => found.get(id) !== 1)).toEqual([]);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
  expect(readFileSync(logFile, 'utf8')).toMatch(
    /"type":"resumed","blockedSince":"[^"]+","refused":\d+/,
  );
});

test('a folder that cannot be written: refused within two seconds from the start, and written when it can', {
  timeout,
}, async () => {
  // Root may write anywhere: there it is another user who may not.
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? 65_534 : undefined;
  const folder = mkdtempSync(join(tmpdir(), 'keystead-audit-'));
  if (user !== undefined) chownSync(folder, user, user);
  chmodSync(folder, 0o500);
  const logFile = join(folder, 'audit.log');
  const writer = new Writer(logFile, { paceMs: 5, ...(user === undefined ? {} : { user }) });
  await writer.until((lines) => count(lines, 'refused') > 20);
  expect(writer.acknowledged).toEqual([]);
  expect(Math.max(...writer.refusedAfterMs)).toBeLessThan(2_000);
  chmodSync(folder, 0o700);
  await writer.until((lines) => count(lines, 'done') > 20);
  await writer.kill();
  const found = requestIds(logFile);
  expect(writer.acknowledged.filter((id) => found.get(id) !== 1)).toEqual([]);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
});

test('a folder that becomes read-only blocks the next file, and what is there stays whole', {
  timeout,
}, async () => {
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? 65_534 : undefined;
  const folder = mkdtempSync(join(tmpdir(), 'keystead-audit-'));
  if (user !== undefined) chownSync(folder, user, user);
  const logFile = join(folder, 'audit.log');
  const writer = new Writer(logFile, user === undefined ? {} : { user });
  await writer.until((lines) => count(lines, 'done') > 20);
  chmodSync(folder, 0o500);
  await writer.until((lines) => count(lines, 'refused') > 20);
  expect(Math.max(...writer.refusedAfterMs)).toBeLessThan(2_000);
  const before = writer.acknowledged.length;
  chmodSync(folder, 0o700);
  await writer.until((lines) => count(lines, 'done') > before + 20);
  await writer.kill();
  const found = requestIds(logFile);
  expect(writer.acknowledged.filter((id) => found.get(id) !== 1)).toEqual([]);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
});

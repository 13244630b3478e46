import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { writeDurably } from './durable-file.ts';

const run = promisify(execFile);

test('a disk that takes only a part leaves the file before it, and nothing beside it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-durable-'));
  const file = join(folder, 'state.json');
  writeDurably(file, 'the state before', 0o600);
  // A limit on the size of files stands for the disk: one block fits, the content does not.
  const program = `
    import { writeDurably } from ${JSON.stringify(new URL('./durable-file.ts', import.meta.url).href)};
    process.on('SIGXFSZ', () => undefined);
    try { writeDurably(${JSON.stringify(file)}, 'x'.repeat(50_000), 0o600); }
    catch (error) { process.stdout.write(error.code); }`;
  const { stdout } = await run('/bin/sh', [
    '-c',
    'ulimit -f 4; exec "$0" --disable-warning=ExperimentalWarning --input-type=module -e "$1"',
    process.execPath,
    program,
  ]);
  expect(stdout).toBe('EFBIG');
  expect(readFileSync(file, 'utf8')).toBe('the state before');
  expect(readdirSync(folder)).toEqual(['state.json']);
  rmSync(folder, { recursive: true, force: true });
});

import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DurableQueue } from './durable-queue.ts';

test('killed with -9 in the middle, every event that was acknowledged is there, once', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'keystead-queue-')), 'queue.db');
  const seen = new Map<string, number>();
  for (let round = 0; round < 3; round += 1) {
    const writer = spawn(
      process.execPath,
      [
        '--conditions=keystead-source',
        '--disable-warning=ExperimentalWarning',
        '--input-type=module',
        '-e',
        `import { DurableQueue } from ${JSON.stringify(new URL('./durable-queue.ts', import.meta.url).href)};
         const queue = new DurableQueue(${JSON.stringify(file)},
           { bootId: crypto.randomUUID(), startedAtUnixMs: 1, configuration: {} }, 1e6);
         for (let count = 1; ; count += 1) {
           queue.append({ $case: 'clockJumped', value: { jumpMs: ${round} * 1e6 + count } }, 1);
           process.stdout.write(${round} * 1e6 + count + '\\n');
           await new Promise((resolve) => setImmediate(resolve));
         }`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    let output = '';
    writer.stdout.on('data', (data: Buffer) => {
      output += data;
    });
    const enough = 40 + round * 37;
    await new Promise<void>((resolve) => {
      writer.stdout.on('data', () => {
        if (output.split('\n').length > enough) resolve();
      });
    });
    writer.kill('SIGKILL');
    await new Promise((resolve) => writer.once('close', resolve));
    for (const line of output.split('\n').slice(0, -1)) seen.set(line, 0);
  }
  const queue = new DurableQueue(
    file,
    { bootId: crypto.randomUUID(), startedAtUnixMs: 1, configuration: {} },
    1_000,
  );
  for (const { event } of queue.after(0, 10_000)) {
    if (event.kind?.$case !== 'clockJumped') throw new Error('an event became another');
    const { jumpMs } = event.kind.value;
    seen.set(String(jumpMs), (seen.get(String(jumpMs)) ?? 0) + 1);
  }
  // One event per round may be on the disk without its acknowledgement having been read.
  expect([...seen.values()].every((count) => count === 1)).toBe(true);
  expect(queue.waiting).toBe(seen.size);
  queue.close();
});

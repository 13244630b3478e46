import { appendFileSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FileDestination } from './file-destination.ts';

test('a line that is sent again after an append was cut short stands on a line of its own', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'keystead-forward-')), 'audit.jsonl');
  const destination = new FileDestination(file);
  await destination.send([{ sequence: 1, text: '{"sequence":1}' }]);
  appendFileSync(file, '{"seq');
  await destination.send([{ sequence: 2, text: '{"sequence":2}' }]);
  destination.reset();
  expect(readFileSync(file, 'utf8')).toBe('{"sequence":1}\n{"seq\n{"sequence":2}\n');
});

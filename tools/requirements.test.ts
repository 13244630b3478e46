import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');

const rows = [
  ...readFileSync(join(root, 'docs/requirements.md'), 'utf8').matchAll(
    /^\| (R\d+\.\d+) +\| ([^|]+?) +\| ([^|]+?) +\| ([^|]*?) *\|$/gm,
  ),
].map(([, id = '', criterion = '', state = '', remark = '']) => ({ id, criterion, state, remark }));

test('there are fifty criteria, five to each of ten areas', () => {
  const ids = Array.from({ length: 50 }, (_, at) => `R${Math.floor(at / 5) + 1}.${(at % 5) + 1}`);
  expect(rows.map(({ id }) => id)).toEqual(ids);
});

test('each has a state, and what is done names what proves it', () => {
  for (const { id, state, remark } of rows) {
    expect(['done', 'partly', 'not yet'], id).toContain(state);
    if (state === 'done') expect(remark, id).toMatch(/`[\w./-]+\.(test\.ts|json)`/);
    if (state === 'partly') expect(remark, id).not.toBe('');
  }
});

test('every criterion that is cited exists', () => {
  const known = rows.map(({ id }) => id);
  const files = globSync(['{apps,libs,tools,bench,docs}/**/*.{ts,md}', 'README.md'], {
    cwd: root,
    exclude: (path) => /(?:^|\/)(?:node_modules|dist|generated)$/.test(path),
  });
  for (const file of files) {
    for (const [id] of readFileSync(join(root, file), 'utf8').matchAll(/\bR\d{1,2}\.\d\b/g)) {
      expect(known, `${file} cites ${id}`).toContain(id);
    }
  }
});

import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readersOf } from './configuration.ts';

const root = join(import.meta.dirname, '..');
const readers = readersOf();

const rows = new Map(
  [
    ...readFileSync(join(root, 'README.md'), 'utf8').matchAll(
      /^\| `(KEYSTEAD_\w+)` +\| ([^|]+?) +\|/gm,
    ),
  ].map(([, name = '', who = '']) => [name, who]),
);

test('the README names every variable that a service reads, and who reads it', () => {
  for (const [name, services] of readers) {
    const who = services.length === 7 ? 'all' : services.join(', ');
    expect(rows.get(name)?.split(', `')[0]?.replace(', `npm start`', ''), name).toBe(who);
  }
});

test('the README names no variable that nobody reads', () => {
  const sources = globSync(['libs/*/src/**/*.ts', 'apps/*/src/**/*.ts', 'tools/*.ts'], {
    cwd: root,
  })
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('\n');
  for (const name of rows.keys()) {
    expect(
      readers.has(name) || sources.includes(`'${name}'`) || sources.includes(`.${name}`),
      name,
    ).toBe(true);
  }
});

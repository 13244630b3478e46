import { spawnSync } from 'node:child_process';
import {
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

test('what the original plan got wrong has the tests that the README names', () => {
  const folder = fileURLToPath(new URL('.', import.meta.url));
  const tests = globSync('**/*.test.ts', { cwd: folder })
    .map((file) => readFileSync(join(folder, file), 'utf8'))
    .join('\n');
  const chapter = readme.split('## What the original plan got wrong')[1] ?? '';
  const names = [...chapter.matchAll(/^\| [^|]+ \| ([^|]+) \|$/gm)].map(([, name]) => name?.trim());
  expect(names.length).toBeGreaterThan(10);
  const missing = names.slice(2).filter((name) => !tests.includes(`'${name}'`));
  expect(missing).toEqual([]);
});

test('the first example of the README runs as written', { timeout: 30_000 }, () => {
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  expect(example).toContain('openVault');
  const folder = mkdtempSync(join(tmpdir(), 'keystead-readme-'));
  const file = join(folder, 'example.ts');
  writeFileSync(file, example);
  mkdirSync(join(folder, 'node_modules', '@keystead'), { recursive: true });
  symlinkSync(
    fileURLToPath(new URL('..', import.meta.url)),
    join(folder, 'node_modules', '@keystead', 'vault-store'),
  );
  try {
    const run = spawnSync(process.execPath, ['--conditions=keystead-source', file], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect(run.stderr).toBe('');
    expect(run.stdout).toBe('4111 1111 1111 1111\n1\n1 4111 1111 1111 1111\n');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

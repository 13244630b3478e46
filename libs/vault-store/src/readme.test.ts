import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('the first example of the README runs as written', { timeout: 30_000 }, () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
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

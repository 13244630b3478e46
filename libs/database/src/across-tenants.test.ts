/**
 * Where the code looks across organizations: every call site of `acrossTenants`, by purpose, as
 * listed in `libs/database/across-tenants.json`. The list is a ratchet: it is meant to shrink.
 */
import { globSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { purposes } from './purposes.ts';

const repository = resolve(import.meta.dirname, '..', '..', '..');
const listFile = 'libs/database/across-tenants.json';
type CallSites = Record<string, Record<string, number>>;

const sources = globSync(['{apps,libs}/*/src/**/*.ts', 'bench/**/*.ts'], {
  cwd: repository,
  exclude: (path) => /(?:^|\/)(?:node_modules|dist|generated)$/.test(path),
})
  .filter((path) => !/\.(?:test|fixture)\.ts$/.test(path))
  .sort()
  .map((path) => ({ path, text: readFileSync(join(repository, path), 'utf8') }));

function callSites(): CallSites {
  const found: CallSites = {};
  for (const { path, text } of sources) {
    for (const [, purpose = ''] of text.matchAll(/\bacrossTenants(?:<[^(]*>)?\(\s*'([\w-]+)'/g)) {
      const files = found[purpose] ?? {};
      files[path] = (files[path] ?? 0) + 1;
      found[purpose] = files;
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

test('the code looks across organizations only where it is listed', () => {
  const listed = JSON.parse(readFileSync(join(repository, listFile), 'utf8')) as CallSites;
  expect(
    callSites(),
    `A look across organizations came or went. Prefer withTenant: it needs no list. For a duty without a
caller put the call site into ${listFile}; take out those that are gone.`,
  ).toEqual(listed);
});

test('every look across organizations names its purpose where it is made', () => {
  for (const { path, text } of sources) {
    if (path === 'libs/database/src/database.ts') continue;
    const calls = text.match(/\bacrossTenants(?:<[^(]*>)?\(/g)?.length ?? 0;
    const named = text.match(/\bacrossTenants(?:<[^(]*>)?\(\s*'/g)?.length ?? 0;
    expect(named, `${path}: write the purpose as a literal`).toBe(calls);
  }
});

test('no purpose is kept that nobody has', () => {
  const used = Object.keys(callSites());
  expect([...purposes].filter((purpose) => !used.includes(purpose))).toEqual([]);
});

test('statements are templates whose values are parameters', () => {
  for (const { path, text } of sources) {
    if (path.startsWith('bench/')) continue;
    expect(text, path).not.toMatch(/\$(?:queryRaw|executeRaw)Unsafe|Prisma\.raw\(/);
  }
});

test('the database client is made in one place', () => {
  for (const { path, text } of sources) {
    if (path.startsWith('libs/database/src/')) continue;
    expect(text, path).not.toMatch(/from '(?:@prisma\/|.*generated\/client)/);
  }
});

import { expect, test } from 'vitest';
import { missingVariants } from './lockfile.ts';

test('a variant the registry did not have is added with the platform its name tells', () => {
  const packages = {
    '': {},
    'node_modules/tool': {
      version: '1.0.0',
      optionalDependencies: {
        '@tool/linux-x64-musl': '1.0.0',
        '@tool/win32-arm64': '1.0.0',
        '@tool/darwin-arm64': '1.0.0',
      },
    },
    'node_modules/@tool/darwin-arm64': { version: '1.0.0', optional: true },
  };
  expect(missingVariants(packages)).toEqual({
    'node_modules/@tool/linux-x64-musl': {
      version: '1.0.0',
      os: ['linux'],
      cpu: ['x64'],
      libc: ['musl'],
      optional: true,
    },
    'node_modules/@tool/win32-arm64': {
      version: '1.0.0',
      os: ['win32'],
      cpu: ['arm64'],
      optional: true,
    },
  });
});

test('two versions of a package each get their variant where Node looks for it', () => {
  const packages = {
    'node_modules/tool': { version: '1.0.0', optionalDependencies: { 'tool-darwin-x64': '1.0.0' } },
    'node_modules/other/node_modules/tool': {
      version: '2.0.0',
      optionalDependencies: { 'tool-darwin-x64': '2.0.0' },
    },
  };
  expect(
    Object.entries(missingVariants(packages)).map(([path, { version }]) => [path, version]),
  ).toEqual([
    ['node_modules/tool-darwin-x64', '1.0.0'],
    ['node_modules/other/node_modules/tool/node_modules/tool-darwin-x64', '2.0.0'],
  ]);
});

test('what is optional for another reason than the platform is left alone', () => {
  expect(
    missingVariants({
      'node_modules/a': { optionalDependencies: { colors: '1.4.0', b: '^2.0.0' } },
    }),
  ).toEqual({});
});

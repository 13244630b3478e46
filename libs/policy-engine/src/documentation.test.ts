import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { policySetSettings } from '@keystead/contracts/policy';
import { describe, expect, test } from 'vitest';
import * as compiling from './compile.ts';
import * as deciding from './decide.ts';
import { limits } from './limits.ts';
import * as validating from './validate.ts';

const root = join(import.meta.dirname, '../../..');
const policies = readFileSync(join(root, 'docs/policies.md'), 'utf8');
const readme = readFileSync(join(root, 'libs/policy-engine/README.md'), 'utf8');

const blocks = (text: string, kind: string) =>
  [...text.matchAll(new RegExp(`^\`\`\`${kind}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(
    ([, block = '']) => block,
  );

const modules: Record<string, object> = {
  compile: compiling,
  decide: deciding,
  validate: validating,
};
type Run = (
  modules: Record<string, object>,
  check: (value: unknown, expected: unknown) => void,
) => Promise<void>;
const AsyncFunction = (async () => {}).constructor as new (...args: string[]) => Run;

describe('docs/policies.md', () => {
  test('its policies are valid', async () => {
    const examples = [...blocks(policies, 'cedar'), ...blocks(policies, 'json')];
    expect(examples.length).toBeGreaterThan(4);
    for (const example of examples) expect(await validating.validate(example), example).toEqual([]);
  });

  test('its set compiles', async () => {
    const sets = blocks(policies, 'json set');
    expect(sets).toHaveLength(1);
    for (const set of sets) {
      expect(await compiling.compile(JSON.parse(set))).toMatchObject({ ok: true, warnings: [] });
    }
  });

  test('its settings are those of a set', () => {
    const settings = blocks(policies, 'json settings');
    expect(settings).toHaveLength(1);
    for (const each of settings)
      expect(() => policySetSettings.parse(JSON.parse(each))).not.toThrow();
  });

  test('what is said of its wrong policies is what is said', async () => {
    const wrong = [
      ...policies.matchAll(/^```cedar wrong\n([\s\S]*?)^```\n\n> (\d+):(\d+): (.*?); (.*)$/gm),
    ];
    expect(wrong).toHaveLength(3);
    for (const [, text = '', line, column, what, suggestion] of wrong) {
      const [problem] = await validating.validate(text);
      expect(problem?.where).toEqual({ line: Number(line), column: Number(column) });
      expect(problem?.what).toContain(what);
      expect(problem?.suggestion).toBe(suggestion);
    }
  });

  test('its limits are those of the code', () => {
    const row = (name: string) => new RegExp(`\\| ${name} +\\| (.*?) +\\|`).exec(policies)?.[1];
    const count = (value: number) => value.toLocaleString('en-US');
    expect(row('policies of a set')).toBe(count(limits.policiesPerSet));
    expect(row('words and signs of a policy')).toBe(count(limits.tokensMax));
    expect(row('depth of brackets, of conditions')).toBe(
      `${limits.bracketDepthMax}, ${limits.treeDepthMax}`,
    );
    expect(row('rules of a document, conditions of a rule')).toBe(
      `${limits.rulesMax}, ${limits.conditionsMax}`,
    );
    expect(row('patterns of a policy, characters of a pattern')).toBe(
      `${limits.patternsPerPolicy}, ${limits.patternMaxLength}`,
    );
    expect(row('time zones a policy reads')).toBe(`${limits.zonesPerPolicy}`);
    expect(row('policies that apply to one request')).toBe(`${limits.policiesPerDecision}`);
  });
});

test('the examples of the README run, and give what they say', async () => {
  const examples = blocks(readme, 'ts run');
  expect(examples).toHaveLength(3);
  let checked = 0;
  for (const example of examples) {
    const body = example
      .replace(
        /^import (\{.*?\}) from '@keystead\/policy-engine\/(\w+)';$/gm,
        'const $1 = modules.$2;',
      )
      .replace(/^(.+); \/\/=> (.+)$/gm, 'check($1, $2);');
    expect(body).not.toContain('import ');
    await new AsyncFunction('modules', 'check', body)(modules, (value, expected) => {
      checked += 1;
      expect(value, example).toEqual(expected);
    });
  }
  expect(checked).toBe(11);
});

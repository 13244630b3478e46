import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import { expect, test } from 'vitest';
import { parseConfiguration } from '../configuration.ts';
import { problemOfSchedule } from './rotation-schedule.ts';
import { problemOfRotator } from './rotators/rotators.ts';

const docs = readFileSync(join(import.meta.dirname, '../../../../docs/agent-rotation.md'), 'utf8');
const blocks = (language: string) =>
  [...docs.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(
    ([, content = '']) => content,
  );

test('the policies of the documentation are accepted', () => {
  const policies = blocks('json').filter((text) => text.includes('"rotator"'));
  expect(policies).toHaveLength(2);
  for (const text of policies) {
    const policy = rotationPolicy.parse(JSON.parse(text));
    expect(
      problemOfRotator(policy.rotator, { scripts: {}, modules: {}, httpHosts: [] }),
    ).toBeUndefined();
    expect(problemOfSchedule(policy.schedule)).toBeUndefined();
  }
  expect(problemOfSchedule({ cron: '0 3 * * SUN', timezone: 'Europe/Berlin' })).toBeUndefined();
});

test('the configuration of the documentation is accepted', () => {
  const [scripts = '', webhook = '', ...others] = blocks('yaml');
  expect(others).toEqual([]);
  const read = (yaml: string) =>
    parseConfiguration(`${yaml}\ncontrol_plane:\n  enabled: false\n`).rotation;
  expect(Object.keys(read(scripts).scripts)).toEqual(['crm']);
  expect(Object.keys(read(scripts).rotators)).toEqual(['files']);
  expect(read(webhook).webhook?.events).toEqual(['gave-up', 'due-soon']);
});

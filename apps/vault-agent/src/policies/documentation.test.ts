import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { agentConfiguration } from '@keystead/contracts/policy-set-content';
import { compile } from '@keystead/policy-engine/compile';
import { expect, test } from 'vitest';
import { parseConfiguration, writtenKeys } from '../configuration.ts';
import { effectiveConfiguration, settingsShown } from './rolled-out-configuration.ts';

const docs = readFileSync(join(import.meta.dirname, '../../../../docs/agent-policies.md'), 'utf8');
const blocks = (kind: string) =>
  [...docs.matchAll(new RegExp(`\`\`\`${kind}\\n([\\s\\S]*?)\`\`\``, 'g'))].map(
    ([, block = '']) => block,
  );

test('the policies of the documentation compile', async () => {
  const policies = blocks('cedar').map((cedar, index) => ({ id: `example-${index}`, cedar }));
  expect(policies).toHaveLength(1);
  expect(await compile({ vault: { otherwise: 'permit', policies } })).toMatchObject({ ok: true });
});

test('the configuration of the documentation holds as it says, and its table is complete', () => {
  const [text = '', ...moreTexts] = blocks('json configuration');
  const [file = '', ...moreFiles] = blocks('yaml vault');
  expect([...moreTexts, ...moreFiles]).toEqual([]);
  const fromSet = agentConfiguration.parse(JSON.parse(text));
  const local = { configuration: parseConfiguration(file), written: writtenKeys(file) };
  const effective = effectiveConfiguration(local, fromSet);
  expect(settingsShown(effective)).toMatchObject({
    'suspiciousActivity.manyDenials.response': { value: 'lock_identity', source: 'set' },
    'suspiciousActivity.lockSeconds': { value: 1_800, source: 'set' },
    'auditForwarding.local-syslog': { value: false, source: 'file' },
    'auditForwarding.archive': { value: true, source: 'file' },
    'auditForwarding.siem': { value: true, source: 'set' },
  });
  expect(effective.unknownDestinations).toEqual(['siem-eu']);
  const [, section = ''] = docs.split('## Configuration that comes with a set');
  const named = [...section.matchAll(/^\| `(\w+)` /gm)].map(([, name]) => name);
  expect(named.sort()).toEqual(Object.keys(agentConfiguration.shape).sort());
});

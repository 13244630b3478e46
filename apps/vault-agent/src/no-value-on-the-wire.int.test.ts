/** What the agent says to the control plane, decrypted: no value in it, and no name of a secret in the clear. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AgentMessage } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { Canary, CanarySearch, planted } from '@keystead/test-control-plane/canaries.fixture';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { command, TestAgent } from './agent-process.fixture.ts';
import { ControlPlane } from './control-plane.fixture.ts';

let plane: ControlPlane;
let agent: TestAgent | undefined;

beforeEach(async () => {
  plane = await ControlPlane.start();
});
afterEach(async () => {
  await agent?.remove();
  await plane.down();
});

test('values and names of secrets are in no message, in none of twelve encodings', async () => {
  agent = await TestAgent.make();
  const enrolled = await command([
    'enroll',
    ...['--endpoint', plane.endpoint],
    ...['--token', plane.token],
    ...['--ca-fingerprint', plane.fingerprint],
    ...['--name', 'payments', '--data', agent.folder, '--port', '0', '--force'],
  ]);
  expect(enrolled.code, enrolled.errors).toBe(0);
  await agent.run();
  await plane.until(() => plane.count('heartbeat') > 0, 20_000);
  const value = new Canary('value');
  const refused = new Canary('refused');
  // Names hold only what names may.
  const namespace = `ns-${new Canary('n').value.replaceAll(/[^A-Za-z0-9]/g, '')}`;
  const secret = `path/${new Canary('s').value.replaceAll(/[^A-Za-z0-9]/g, '')}`;
  await agent.send('POST', '/v1/namespaces', { body: { name: namespace } });
  const secrets = `/v1/namespaces/${namespace}/secrets`;
  await agent.send('POST', secrets, { body: { name: secret, value: value.value } });
  await agent.send('POST', secrets, { body: { name: secret, value: refused.value } });
  await agent.send('POST', secrets, { body: { [refused.value]: refused.value } });
  const path = `${secrets}/${encodeURIComponent(secret)}/value`;
  for (let count = 0; count < 5; count += 1) {
    expect((await agent.send('GET', path)).status).toBe(200);
  }
  await plane.until(() => plane.count('auditHead') > 0, 20_000);
  await agent.stop();
  expect(plane.count('operationCounts')).toBeGreaterThan(0);
  const search = new CanarySearch([value, refused]);
  for (const { message } of plane.heard) {
    const bytes = Buffer.from(AgentMessage.encode(message).finish());
    search.bytes('wire', bytes);
    for (const name of [namespace, secret, secret.slice(5)])
      expect(bytes.includes(name)).toBe(false);
  }
  search.text('log', agent.output);
  await search.folder(agent.folder, 'files');
  expect(search.findings).toEqual([]);
  expect(search.searched.get('wire')).toBeGreaterThan(1_000);
  // The same search finds: the audit does hold the names, and what is planted is seen.
  expect(readFileSync(join(agent.folder, 'audit.log'), 'utf8')).toContain(secret);
  search.bytes('planted', planted(value, 'base64'));
  expect(search.findings.length).toBeGreaterThan(0);
}, 120_000);

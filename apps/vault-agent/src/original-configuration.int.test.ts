import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { createSqlDatabase, type TestSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { command, TestAgent } from './agent-process.fixture.ts';
import { ControlPlane } from './control-plane.fixture.ts';
import { Wire } from './store/wire.fixture.ts';

/** As the original plan writes it; only paths, ports, addresses and passwords are filled in. */
const original = (facts: {
  port: number;
  folder: string;
  database: string;
  endpoint: string;
}) => `# vault.yaml - Main configuration file
server:
  port: ${facts.port}
  tls:
    enabled: true
    cert_file: "${facts.folder}/certs/server.crt"
    key_file: "${facts.folder}/certs/server.key"
    ca_file: "${facts.folder}/certs/ca.crt"

storage:
  type: "postgresql"  # sqlite, postgresql, mysql
  connection_string: "${facts.database}"
  max_connections: 100
  connection_timeout: "30s"

encryption:
  key_management: "file"  # file, hsm, cloud_kms
  key_file: "${facts.folder}/keys/master.key"
  rotation_interval: "90d"

authentication:
  methods: ["api_key", "jwt", "certificate"]
  session_timeout: "24h"
  max_sessions_per_user: 10

audit:
  enabled: true
  log_file: "${facts.folder}/logs/audit.log"
  rotation_size: "100MB"
  retention_days: 365
  forward_to_syslog: false

backup:
  enabled: true
  schedule: "0 2 * * *"  # Daily at 2 AM
  destinations:
    - type: "local"
      path: "${facts.folder}/backups"
    - type: "s3"
      bucket: "vault-backups"
      region: "us-west-2"

monitoring:
  metrics_enabled: true
  prometheus_endpoint: "/metrics"
  health_check_interval: "30s"
  
control_plane:
  enabled: true
  endpoint: "https://${facts.endpoint}"
  certificate_path: "${facts.folder}/identity/agent.crt"
  private_key_path: "${facts.folder}/identity/agent.key"
  heartbeat_interval: "60s"
`;

let plane: ControlPlane;
let database: TestSqlDatabase;
let authority: TestAuthority;
const agents: TestAgent[] = [];
/** To the database of the second one. */
let wire: Wire | undefined;

beforeAll(async () => {
  plane = await ControlPlane.start();
  database = await createSqlDatabase('postgresql');
  authority = await TestAuthority.create();
});
afterAll(async () => {
  for (const agent of agents) await agent.remove();
  wire?.close();
  await plane.down();
  await database.drop();
});

const connectionString = () =>
  'connectionString' in database.options ? database.options.connectionString : '';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  return port;
}

async function enrolledFolder(connection?: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-original-'));
  const { code, errors } = await command([
    'enroll',
    ...['--endpoint', plane.endpoint, '--token', plane.token],
    ...['--ca-fingerprint', plane.fingerprint, '--name', 'original', '--data', folder],
  ]);
  if (code !== 0) throw new Error(errors);
  const server = await authority.issueServer();
  mkdirSync(join(folder, 'certs'));
  writeFileSync(join(folder, 'certs/server.crt'), server.certificateChain);
  writeFileSync(join(folder, 'certs/server.key'), server.privateKey);
  writeFileSync(join(folder, 'certs/ca.crt'), authority.root);
  writeFileSync(
    join(folder, 'vault.yaml'),
    original({
      port: await freePort(),
      folder,
      database: connection ?? connectionString(),
      endpoint: plane.endpoint,
    }),
  );
  return folder;
}

test('the configuration of the original plan starts as it is written there', async () => {
  const folder = await enrolledFolder();
  const agent = await TestAgent.initialize(folder);
  agents.push(agent);
  expect(agent.adminKey).toMatch(/^ksv_/);
  await agent.run();
  agent.useTls();
  expect((await agent.send('POST', '/v1/namespaces', { body: { name: 'app' } })).status).toBe(201);
  const path = '/v1/namespaces/app/secrets';
  await agent.send('POST', path, { body: { name: 'db/password', value: 'hunter2' } });
  const read = await agent.send('GET', `${path}/db%2Fpassword/value`);
  expect(read.body).toMatchObject({ value: 'hunter2' });
  await agent.until(async () => {
    const { body } = await agent.send('GET', '/healthz', { key: '' });
    return body.controlPlane.state === 'connected';
  });
  expect(agent.audit('logs/audit.log').length).toBeGreaterThan(3);
  const { output } = await command(['status', '--config', agent.configuration]);
  expect(output).toMatch(/^running/);
  expect(agent.output).toContain('authentication.jwt names no issuer');
});

test('a second agent on the same store knows within a second what the first one changes', async () => {
  const [first] = agents;
  if (first === undefined) throw new Error('the first agent did not start');
  const line = await Wire.to(new URL(connectionString()));
  wire = line.wire;
  const folder = await enrolledFolder(line.url);
  mkdirSync(join(folder, 'keys'));
  writeFileSync(
    join(folder, 'keys/master.key'),
    readFileSync(join(first.folder, 'keys/master.key')),
    { mode: 0o600 },
  );
  const second = await TestAgent.initialize(folder);
  agents.push(second);
  expect(second.adminKey, 'the vault has its first key already').toBe('');
  await second.run();
  second.useTls();
  const key = await first.keyFor(['reader']);
  const path = '/v1/namespaces/app/secrets/db%2Fpassword/value';
  expect(await second.send('GET', path, { key })).toMatchObject({ status: 200 });
  const within = async (what: () => Promise<boolean>) => {
    const startedMs = performance.now();
    await second.until(what);
    return performance.now() - startedMs;
  };
  await first.send('PUT', path, { body: { value: 'changed' } });
  const seenMs = await within(
    async () => (await second.send('GET', path, { key })).body.value === 'changed',
  );
  const { items } = (await first.send('GET', '/v1/api-keys')).body;
  const { id } = items.find(({ prefix }: { prefix: string }) => key.startsWith(prefix));
  await first.send('DELETE', `/v1/api-keys/${id}`);
  const refusedMs = await within(
    async () => (await second.send('GET', path, { key })).status === 401,
  );
  expect(seenMs).toBeLessThan(1_500);
  expect(refusedMs).toBeLessThan(1_500);
});

test('while the store is away what needs it is refused with 503, which readiness and metrics tell too', async () => {
  const [, second] = agents;
  if (second === undefined || wire === undefined) throw new Error('the second agent did not start');
  const { adminKey: key = '' } = agents[0] ?? {};
  const create = (name: string) => second.send('POST', '/v1/namespaces', { key, body: { name } });
  const circuit = async () =>
    /^vault_circuit_state\{circuit="store"\} (\d)$/m.exec(
      (await second.send('GET', '/metrics', { key: '' })).text,
    )?.[1];
  wire.cut();
  await second.until(async () => (await second.send('GET', '/readyz', { key: '' })).status === 503);
  expect((await second.send('GET', '/readyz', { key: '' })).body).toMatchObject({
    ready: false,
    obstacles: ['the store is not available'],
  });
  expect(await circuit()).not.toBe('0');
  const refused = await create('refused');
  expect(refused).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
  expect(refused.text).not.toMatch(/ECONN|postgres/);
  wire.mend();
  await second.until(async () => (await create('mended')).status === 201);
  expect(await circuit()).toBe('0');
});

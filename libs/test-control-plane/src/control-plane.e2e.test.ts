import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { serviceNames } from './infrastructure/infrastructure.ts';
import { Api } from './installation/api.ts';

let controlPlane: ControlPlane;
beforeAll(async () => {
  controlPlane = await startControlPlane();
});
afterAll(() => controlPlane?.stop());

test('all seven services run and say that they are ready', async () => {
  for (const service of serviceNames) {
    const answer = await fetch(`${controlPlane.services[service].healthUrl}/readyz`);
    expect(answer.status, service).toBe(200);
  }
  expect((await controlPlane.api.send('GET', '/readyz')).status).toBe(200);
});

test('no service holds what only another needs', () => {
  for (const service of serviceNames) {
    const environment = controlPlane.environment(service);
    const values = Object.values(environment).join('\n');
    expect(values).not.toContain(new URL(controlPlane.databases.ownerUrl).password);
    for (const other of serviceNames) {
      const itsKey = controlPlane.keys.signingKeyFile(other);
      expect(values.includes(itsKey), `${service} knows ${itsKey}`).toBe(other === service);
    }
    const knowsAuthorityKey = 'KEYSTEAD_CA_KEY_FILE' in environment;
    expect(knowsAuthorityKey).toBe(service === 'vault-registry');
  }
});

test('a service that was killed comes back on its port and takes work again', async () => {
  const { api } = await controlPlane.signUp('Restarted');
  const before = controlPlane.services.auth.pid;
  await controlPlane.services.auth.kill();
  await controlPlane.services.auth.start();
  expect(controlPlane.services.auth.pid).not.toBe(before);
  expect(await api.get('/v1/me')).toMatchObject({ organization: { name: 'Restarted' } });
});

test('a real agent enrols, comes online, and says goodbye when it is stopped', async () => {
  const { api } = await controlPlane.signUp('Agents');
  const agent = await controlPlane.startAgent(api, { name: 'payments-1', vault: 'payments' });
  const status = async () => {
    const { items } = await api.get<{ items: { name: string; status: string }[] }>('/v1/agents');
    return items.map(({ name, status: state }) => `${name} ${state}`);
  };
  await expect.poll(status, { timeout: 20_000 }).toEqual(['payments-1 online']);
  await agent.stop();
  await expect.poll(status, { timeout: 20_000 }).toEqual(['payments-1 stopped']);
});

test('a colleague comes in by the link of the mail that invites, and acts for the organization', async () => {
  const { api } = await controlPlane.signUp('Inviting');
  const email = 'colleague@inviting.example';
  await api.post('/v1/members', { name: 'Carla Colleague', email, role: 'admin' });
  const mail = await controlPlane.inbox.waitFor(
    (message) => message.email?.to.includes(email) ?? false,
    30_000,
  );
  expect(mail.subject).toMatch(/^Owner.* invites you to Inviting$/);
  const link = new URL(
    /http:\S+\/v1\/invitations\/accept#\S+/.exec(mail.email?.text ?? '')?.[0] ?? '',
  );
  expect((await fetch(link)).status).toBe(200);
  const token = new URLSearchParams(link.hash.slice(1)).get('token');
  const password = 'a long enough password';
  const anybody = new Api(controlPlane.apiUrl);
  await anybody.post(link.pathname, { token, password });
  const session = await anybody.post<{ accessToken: string }>('/v1/sessions', { email, password });
  const colleague = new Api(controlPlane.apiUrl, session.accessToken);
  expect(await colleague.get('/v1/me')).toMatchObject({
    organization: { name: 'Inviting' },
    role: 'admin',
  });
});

import { once } from 'node:events';
import { connect, type TLSSocket } from 'node:tls';
import { ExtendedKeyUsage, TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { HttpServer, type TlsFiles } from './http-server.ts';

let server: HttpServer | undefined;
afterEach(() => server?.close(1));

test('connections that came by a certificate end when who is trusted changes; others stay', async () => {
  const authority = await TestAuthority.create();
  const own = await authority.issueServer();
  const client = await authority.issue({
    names: [{ type: 'url', value: 'spiffe://apps.test/payments' }],
    usages: [ExtendedKeyUsage.clientAuth],
  });
  const files: TlsFiles = {
    certificate: Buffer.from(own.certificateChain),
    key: Buffer.from(own.privateKey),
    clientCa: Buffer.from(`${authority.root}\n${authority.intermediate}`),
    clientCrl: undefined,
    minVersion: 'TLSv1.3',
  };
  server = new HttpServer({ tls: files, bodyMaxBytes: 1_024, log: pino({ level: 'silent' }) });
  server.app.get('/', async () => '');
  const port = await server.listen('127.0.0.1', 0);
  const open = async (more: object) => {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...more });
    socket.on('error', () => undefined);
    await once(socket, 'secureConnect');
    await ask(socket);
    return socket;
  };
  const ask = async (socket: TLSSocket) => {
    socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    const [heard] = await once(socket, 'data');
    expect(String(heard)).toMatch(/^HTTP\/1.1 200/);
  };
  const certified = await open({ cert: client.certificateChain, key: client.privateKey });
  const plain = await open({});
  // Another certificate of the server itself is nobody else's matter.
  server.renewTls({ ...files });
  await ask(certified);
  const strangers = await TestAuthority.create('Strangers');
  const ended = once(certified, 'close');
  server.renewTls({ ...files, clientCa: Buffer.from(strangers.root) });
  await ended;
  await ask(plain);
  plain.destroy();
});

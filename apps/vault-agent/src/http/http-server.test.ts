import { once } from 'node:events';
import { connect, type TLSSocket } from 'node:tls';
import { ExtendedKeyUsage, TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { httpLimits } from './http-limits.ts';
import { HttpServer, type TlsFiles } from './http-server.ts';
import { readRevocationLists } from './revocation-lists.ts';

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

test('by lists of revoked certificates a client is let in only where each authority vouches for it', async () => {
  const authority = await TestAuthority.create();
  const strangers = await TestAuthority.create('Strangers');
  const own = await authority.issueServer();
  const [good, bad] = await Promise.all([authority.issue(), authority.issue()]);
  const root = await authority.revocationList('root');
  const list = (options?: Parameters<TestAuthority['revocationList']>[1]) =>
    authority.revocationList('intermediate', options);
  const current = await list({ revoked: [bad.certificate] });
  const foreign = await strangers.revocationList('intermediate', { revoked: [bad.certificate] });
  const files = (...lists: string[]): TlsFiles => ({
    certificate: Buffer.from(own.certificateChain),
    key: Buffer.from(own.privateKey),
    clientCa: Buffer.from(`${authority.root}\n${authority.intermediate}`),
    clientCrl: lists.length === 0 ? undefined : readRevocationLists(Buffer.from(lists.join('\n'))),
    minVersion: 'TLSv1.3',
  });
  server = new HttpServer({ tls: files(), bodyMaxBytes: 1_024, log: pino({ level: 'silent' }) });
  server.app.get('/', async (request) => {
    const { authorized, authorizationError } = request.raw.socket as TLSSocket;
    return authorized ? 'let in' : String(authorizationError);
  });
  const port = await server.listen('127.0.0.1', 0);
  const open = async ({ certificateChain: cert, privateKey: key }: typeof good, more = {}) => {
    const options = { port, host: '127.0.0.1', rejectUnauthorized: false, cert, key, ...more };
    const socket = connect(options);
    socket.on('error', () => undefined);
    const sessions: Buffer[] = [];
    socket.on('session', (session) => sessions.push(session));
    await once(socket, 'secureConnect');
    socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    const [heard] = await once(socket, 'data');
    return { socket, answer: String(heard).split('\r\n\r\n')[1], sessions };
  };
  const answerTo = async (who: typeof good, more = {}) => {
    const { socket, answer } = await open(who, more);
    socket.destroy();
    return answer;
  };
  const before = await open(bad);
  expect(before.answer).toBe('let in');
  const ended = once(before.socket, 'close');
  server.renewTls(files(root, current));
  await ended;
  expect(await answerTo(bad)).toBe('CERT_REVOKED');
  // Not either by the session of before.
  expect(await answerTo(bad, { session: before.sessions.at(-1) })).toBe('CERT_REVOKED');
  expect(await answerTo(good)).toBe('let in');
  const cases: [string, string[], string, string][] = [
    ['a foreign list says nothing', [root, await list(), foreign], 'let in', 'let in'],
    ['nor is it one of its own', [root, foreign], 'UNABLE_TO_GET_CRL', 'UNABLE_TO_GET_CRL'],
    [
      'a list past its time vouches for nobody',
      [root, await list({ revoked: [bad.certificate], until: new Date(Date.now() - 3_600_000) })],
      'CRL_HAS_EXPIRED',
      'CERT_REVOKED',
    ],
    [
      'nor does one that somebody else has signed',
      [root, await list({ signedBy: strangers })],
      'CRL_SIGNATURE_FAILURE',
      'CRL_SIGNATURE_FAILURE',
    ],
    ['each authority needs one', [current], 'UNABLE_TO_GET_CRL', 'UNABLE_TO_GET_CRL'],
  ];
  for (const [what, lists, forGood, forBad] of cases) {
    server.renewTls(files(...lists));
    const answers = [await answerTo(good), await answerTo(bad)];
    expect({ what, answers }).toEqual({ what, answers: [forGood, forBad] });
  }
});

test('a file that is no list of revoked certificates says so', async () => {
  const authority = await TestAuthority.create();
  const list = await authority.revocationList('root');
  expect(readRevocationLists(Buffer.from(`${list}\n${list}`))).toHaveLength(2);
  const wrong: [string, string][] = [
    ['', 'holds no X509 CRL'],
    [authority.root, 'holds no X509 CRL'],
    [list.slice(0, -20), 'holds no X509 CRL'],
    [`${list}\n${list.replace(/\n[^\n-]{20}/, '\n')}`, 'list 2 of 2 is damaged'],
    ['x'.repeat(httpLimits.revocationListsMaxBytes + 1), 'has more than'],
  ];
  for (const [text, problem] of wrong) {
    expect(() => readRevocationLists(Buffer.from(text)), problem).toThrow(problem);
  }
});

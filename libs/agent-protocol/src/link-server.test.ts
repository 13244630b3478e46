import { generateKeyPairSync } from 'node:crypto';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
} from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import {
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { EnrollRequest, EnrollResponse } from './generated/keystead/agent/v1/enrollment.ts';
import {
  type ClientTrust,
  certificateFingerprint,
  type Endpoint,
  enroll,
  parseEndpoint,
  parseFingerprint,
  ServerNotTrusted,
  SessionConnection,
} from './link-client.ts';
import { AgentLinkServer } from './link-server.ts';
import { peerIdentityOf } from './peer-identity.ts';
import {
  encodeControlMessage,
  enrollmentServerService,
  type ReceivedAgentMessage,
  sessionServerService,
} from './services.ts';
import {
  ExtendedKeyUsage,
  type Issued,
  TestAuthority,
  testTrustDomain,
} from './test-authority.fixture.ts';

const authority = await TestAuthority.create();
const stranger = await TestAuthority.create('Stranger');
const agent = await authority.issueAgent();
let server: AgentLinkServer;
let endpoint: Endpoint;
const enrolled: (EnrollRequest | undefined)[] = [];

/** Echoes who the peer is, as a detail of an answer; ends sessions of anybody else. */
function serve(target: AgentLinkServer): void {
  target.addService(enrollmentServerService, {
    enroll(
      call: ServerUnaryCall<EnrollRequest | undefined, EnrollResponse>,
      answer: sendUnaryData<EnrollResponse>,
    ) {
      const peer = target.peerOf(call);
      if (peer === undefined || peer.refusal !== undefined) {
        answer({ code: status.UNAUTHENTICATED, details: 'certificate refused' });
        return;
      }
      enrolled.push(call.request);
      answer(null, {
        organizationId: 'o',
        vaultId: 'v',
        agentId: 'a',
        vaultName: 'n',
        agentName: 'n',
        trustDomain: testTrustDomain,
        certificateChain: [],
        rootCertificate: authority.rootDer,
      });
    },
  });
  target.addService(sessionServerService, {
    session(call: ServerDuplexStream<ReceivedAgentMessage, Buffer>) {
      const certificate = target.peerOf(call)?.certificate;
      const identity = certificate && peerIdentityOf(certificate, testTrustDomain);
      call.on('error', () => {});
      if (identity === undefined) {
        call.emit('error', { code: status.UNAUTHENTICATED, details: 'no identity' });
        return;
      }
      call.on('data', ({ message }: ReceivedAgentMessage) => {
        if (message === undefined) {
          call.emit('error', { code: status.INVALID_ARGUMENT, details: 'malformed message' });
          return;
        }
        call.write(
          encodeControlMessage({
            version: '1.0',
            timestampUnixMs: 1,
            vaultId: identity.agentId,
            messageType: 0,
            payload: undefined,
            signature: Buffer.alloc(0),
          }),
        );
      });
      call.on('end', () => call.end());
    },
  });
}

beforeAll(async () => {
  server = new AgentLinkServer(await authority.issueServer());
  serve(server);
  endpoint = { host: '127.0.0.1', port: await server.listen(0, '127.0.0.1') };
});
afterAll(() => server.close(0));

const open: { close(): void }[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each.close();
  enrolled.length = 0;
});

/** Opens a session, sends one message, answers what came back first: a message or a status. */
function converse(trust: ClientTrust, to = endpoint): Promise<string | number> {
  const connection = new SessionConnection(to, trust);
  open.push(connection);
  return new Promise((resolve) => {
    connection.stream.on('error', (error: { code?: number }) => resolve(error.code ?? -1));
    connection.stream.on('data', ({ message }: { message: { vaultId: string } }) =>
      resolve(message.vaultId),
    );
    connection.stream.write(Buffer.from([0x0a, 0x01, 0x31]));
  });
}

const trustOf = (identity?: Issued) => authority.clientTrust(identity);

test('an agent with its certificate is itself', async () => {
  expect(await converse(trustOf(agent))).toBe(agent.agentId);
});

test('no session without a certificate', async () => {
  expect(await converse(trustOf())).toBe(status.UNAUTHENTICATED);
});

test('enrolment is possible without a certificate', async () => {
  const response = await enroll(endpoint, certificateFingerprint(authority.rootDer), request());
  expect(response.rootCertificate).toEqual(authority.rootDer);
  expect(enrolled).toHaveLength(1);
});

test.each([
  ['of another authority', () => stranger.issueAgent()],
  ['signed by itself', () => authority.issueAgent({ issuer: 'self' })],
  [
    'that expired',
    () =>
      authority.issueAgent({
        notBefore: new Date(Date.now() - 20_000),
        notAfter: new Date(Date.now() - 10_000),
      }),
  ],
  [
    'that is not valid yet',
    () =>
      authority.issueAgent({
        notBefore: new Date(Date.now() + 60_000),
        notAfter: new Date(Date.now() + 120_000),
      }),
  ],
  ['of a server', () => authority.issueAgent({ usages: [ExtendedKeyUsage.serverAuth] })],
  [
    'of another trust domain',
    () =>
      authority.issue({
        names: [
          {
            type: 'url',
            value:
              'spiffe://other.test/org/org_01h455vb4pex5vsknk084sn02q/agent/agt_01h455vb4pex5vsknk084sn02q',
          },
        ],
      }),
  ],
  ['without a name', () => authority.issue()],
] as [string, () => Promise<Issued>][])(
  'a certificate %s opens no session',
  async (_what, issue) => {
    expect(await converse(trustOf(await issue()))).toBe(status.UNAUTHENTICATED);
  },
);

test('a certificate that does not verify may not even enrol', async () => {
  const session = await rawSession(await stranger.issueAgent());
  const answer = await rawCall(
    session,
    '/keystead.agent.v1.EnrollmentService/Enroll',
    frame(Buffer.alloc(0)),
  );
  expect(answer.status).toBe(status.UNAUTHENTICATED);
  expect(enrolled).toHaveLength(0);
});

test('a connection with a refused certificate does not stay', async () => {
  const session = await rawSession(await stranger.issueAgent());
  await new Promise((resolve) => session.once('close', resolve));
});

test('TLS 1.2 is refused', async () => {
  await expect(handshake({ maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2' })).rejects.toThrow(
    /protocol version/i,
  );
  await expect(handshake({})).resolves.toBe('TLSv1.3');
});

test('the token is not sent where the fingerprint is another', async () => {
  const wrong = certificateFingerprint(stranger.rootDer);
  await expect(enroll(endpoint, wrong, request())).rejects.toMatchObject({
    reason: 'fingerprint_mismatch',
  });
  expect(enrolled).toHaveLength(0);
});

test.each([
  [
    'for another host',
    () => authority.issueServer({ names: [{ type: 'dns', value: 'other.example' }] }),
  ],
  [
    'that expired',
    () => authority.issueServer({ notBefore: new Date(1), notAfter: new Date(Date.now() - 1_000) }),
  ],
  ['for clients', () => authority.issueServer({ usages: [ExtendedKeyUsage.clientAuth] })],
  [
    // The pinned root is public: showing it must not be enough.
    'of another authority beside the pinned root',
    async () => {
      const theirs = await stranger.issueServer();
      return { ...theirs, certificateChain: `${theirs.certificateChain}${authority.root}\n` };
    },
  ],
  [
    'whose issuer only has the name of the pinned root',
    async () => {
      const twin = await TestAuthority.create();
      const theirs = await twin.issueServer();
      return {
        ...theirs,
        certificateChain: `${theirs.certificateChain.replace(twin.root.trim(), authority.root.trim())}`,
      };
    },
  ],
])('the token is not sent to a server with a certificate %s', async (_what, trust) => {
  const impostor = new AgentLinkServer(await trust());
  serve(impostor);
  const port = await impostor.listen(0, '127.0.0.1');
  try {
    const attempt = enroll(
      { host: '127.0.0.1', port },
      certificateFingerprint(authority.rootDer),
      request(),
    );
    await expect(attempt).rejects.toBeInstanceOf(ServerNotTrusted);
    expect(enrolled).toHaveLength(0);
  } finally {
    await impostor.close(0);
  }
});

test('an agent does not talk to a server of another authority', async () => {
  const impostor = new AgentLinkServer(await stranger.issueServer());
  serve(impostor);
  const port = await impostor.listen(0, '127.0.0.1');
  try {
    expect(await converse(trustOf(agent), { host: '127.0.0.1', port })).toBe(status.UNAVAILABLE);
  } finally {
    await impostor.close(0);
  }
});

test('certificate and authorities are replaced without a restart', async () => {
  const next = await TestAuthority.create('Next');
  const target = new AgentLinkServer(await authority.issueServer());
  serve(target);
  const to = { host: '127.0.0.1', port: await target.listen(0, '127.0.0.1') };
  try {
    expect(await converse(trustOf(agent), to)).toBe(agent.agentId);
    const both = await next.issueServer();
    target.replaceTrust({
      ...both,
      authorities: [...both.authorities, authority.root, authority.intermediate],
    });
    const later = await next.issueAgent();
    expect(await converse(next.clientTrust(later), to)).toBe(later.agentId);
    expect(await converse({ ...trustOf(agent), root: next.root }, to)).toBe(agent.agentId);
    target.replaceTrust(both);
    expect(await converse({ ...trustOf(agent), root: next.root }, to)).toBe(status.UNAUTHENTICATED);
  } finally {
    await target.close(0);
  }
});

test.each([
  [
    'bytes that are no message',
    frame(Buffer.from([0xff, 0xff, 0xff, 0xff])),
    status.INVALID_ARGUMENT,
  ],
  ['a message that is too large', frame(Buffer.alloc(70_000)), status.RESOURCE_EXHAUSTED],
  [
    'a length that is a lie',
    Buffer.from([0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3]),
    status.RESOURCE_EXHAUSTED,
  ],
  [
    'an unknown compression',
    Buffer.concat([Buffer.from([1, 0, 0, 0, 3]), Buffer.from('abc')]),
    status.UNIMPLEMENTED,
  ],
])('%s ends that stream with a status, others go on', async (_what, bytes, expected) => {
  const bystander = await rawSession(agent);
  const stream = openStream(bystander);
  expect(await nextData(stream, frame(Buffer.from([0x0a, 0x01, 0x31])))).toBeGreaterThan(0);
  const session = await rawSession(await authority.issueAgent());
  const headers: Record<string, string> = _what.includes('compression')
    ? { 'grpc-encoding': 'snappy' }
    : {};
  const answer = await rawCall(session, sessionPath, bytes, headers);
  expect(answer.status).toBe(expected);
  expect(await nextData(stream, frame(Buffer.from([0x0a, 0x01, 0x31])))).toBeGreaterThan(0);
});

test('a compressed message that grows beyond the limit ends with a status', async () => {
  const { gzipSync } = await import('node:zlib');
  const bomb = gzipSync(Buffer.alloc(20_000_000));
  const session = await rawSession(agent);
  const head = Buffer.from([1, 0, 0, 0, 0]);
  head.writeUInt32BE(bomb.length, 1);
  const answer = await rawCall(session, sessionPath, Buffer.concat([head, bomb]), {
    'grpc-encoding': 'gzip',
  });
  expect(answer.status).toBe(status.RESOURCE_EXHAUSTED);
});

test('unknown methods and services answer UNIMPLEMENTED', async () => {
  const session = await rawSession(agent);
  for (const path of ['/keystead.agent.v1.SessionService/Other', '/', '/x.Y/Z']) {
    expect((await rawCall(session, path, frame(Buffer.alloc(0)))).status).toBe(
      status.UNIMPLEMENTED,
    );
  }
});

test('too large headers end that connection alone', async () => {
  const bystander = await rawSession(agent);
  const stream = openStream(bystander);
  const session = await rawSession(await authority.issueAgent());
  const ended = new Promise((resolve) => session.once('close', resolve));
  const attempt = rawCall(session, sessionPath, frame(Buffer.alloc(0)), {
    'x-large': 'a'.repeat(20_000),
  });
  await expect(Promise.race([attempt.then((answer) => answer.status), ended])).resolves.not.toBe(0);
  expect(await nextData(stream, frame(Buffer.from([0x0a, 0x01, 0x31])))).toBeGreaterThan(0);
});

test('rapid resets end that connection, others go on', async () => {
  const bystander = await rawSession(agent);
  const stream = openStream(bystander);
  const session = await rawSession(await authority.issueAgent());
  await waitFor(() => server.counters.connectionsOpened - server.counters.connectionsClosed === 2);
  const before = server.counters.connectionsClosed;
  const closed = () => server.counters.connectionsClosed > before;
  for (let count = 0; count < 500 && !closed(); count += 1) {
    const request = openStream(session);
    // Once the request is on its way; before, the client would take both back.
    await new Promise((resolve) => setImmediate(resolve));
    request.close(8);
  }
  await waitFor(closed);
  expect(await nextData(stream, frame(Buffer.from([0x0a, 0x01, 0x31])))).toBeGreaterThan(0);
});

test('garbage instead of TLS or HTTP/2 ends that connection alone', async () => {
  const plain = connectTcp(endpoint.port, endpoint.host);
  plain.on('error', () => {}).resume();
  plain.write(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
  await new Promise((resolve) => plain.once('close', resolve));
  const secured = connectTls({ ...endpoint, ca: authority.root, ALPNProtocols: ['h2'] });
  secured.on('error', () => {}).resume();
  await new Promise((resolve) => secured.once('secureConnect', resolve));
  secured.write(Buffer.alloc(4_096, 0x41));
  await new Promise((resolve) => secured.once('close', resolve));
  expect(await converse(trustOf(agent))).toBe(agent.agentId);
});

test('more streams on one connection than allowed are refused', async () => {
  const session = await rawSession(agent);
  expect(session.remoteSettings.maxConcurrentStreams).toBe(4);
});

test('a full house drops the next connection', async () => {
  const small = new AgentLinkServer(await authority.issueServer(), { connectionsMax: 2 });
  serve(small);
  const to = { host: '127.0.0.1', port: await small.listen(0, '127.0.0.1') };
  try {
    expect(await converse(trustOf(agent), to)).toBe(agent.agentId);
    expect(await converse(trustOf(agent), to)).toBe(agent.agentId);
    expect(await converse(trustOf(agent), to)).toBe(status.UNAVAILABLE);
  } finally {
    await small.close(0);
  }
});

test('an endpoint and a fingerprint are read in their usual spellings', () => {
  expect(parseEndpoint('[::1]:8443')).toEqual({ host: '::1', port: 8443 });
  expect(parseEndpoint('a-b.example:1')).toEqual({ host: 'a-b.example', port: 1 });
  for (const bad of ['', 'x', 'x:0', 'x:70000', 'http://x:1', '::1:8443', 'x y:1', '[zz]:1']) {
    expect(() => parseEndpoint(bad)).toThrow(TypeError);
  }
  const digits = 'ab'.repeat(32);
  for (const spelling of [
    digits,
    digits.toUpperCase(),
    `SHA256:${digits}`,
    digits.replace(/..(?=.)/g, '$&:'),
  ]) {
    expect(parseFingerprint(spelling)).toBe(digits);
  }
  expect(() => parseFingerprint('ab')).toThrow(TypeError);
});

const sessionPath = '/keystead.agent.v1.SessionService/Session';

function request(): EnrollRequest {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    version: '1.0',
    token: 'token',
    certificateRequest: publicKey.export({ type: 'spki', format: 'der' }),
    vaultName: 'v',
    agentName: 'a',
    agentVersion: '0.1.0',
    host: undefined,
  };
}

function handshake(options: ConnectionOptions): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      ...endpoint,
      ca: authority.root,
      ALPNProtocols: ['h2'],
      ...options,
    });
    socket.once('error', reject);
    socket.once('secureConnect', () => {
      resolve(socket.getProtocol());
      socket.destroy();
    });
  });
}

function rawSession(identity: Issued): Promise<ClientHttp2Session> {
  return new Promise((resolve, reject) => {
    const session = connectHttp2(`https://${endpoint.host}:${endpoint.port}`, {
      ca: authority.root,
      cert: identity.certificateChain,
      key: identity.privateKey,
    });
    session.on('error', () => {});
    open.push({ close: () => session.destroy() });
    session.once('remoteSettings', () => resolve(session));
    session.once('close', () => reject(new Error('closed')));
  });
}

function openStream(session: ClientHttp2Session): ClientHttp2Stream {
  const stream = session.request({
    ':method': 'POST',
    ':path': sessionPath,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.on('error', () => {});
  return stream;
}

function nextData(stream: ClientHttp2Stream, bytes: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    stream.once('data', (data: Buffer) => resolve(data.length));
    stream.once('close', () => reject(new Error('the stream was closed')));
    stream.write(bytes);
  });
}

function rawCall(
  session: ClientHttp2Session,
  path: string,
  body: Buffer,
  headers: Record<string, string> = {},
): Promise<{ status: number | undefined }> {
  return new Promise((resolve) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    });
    let code: number | undefined;
    const note = (fields: Record<string, unknown>) => {
      if (fields['grpc-status'] !== undefined) code = Number(fields['grpc-status']);
    };
    stream.on('error', () => {});
    stream.on('response', note);
    stream.on('trailers', note);
    stream.on('close', () => resolve({ status: code }));
    stream.resume();
    stream.write(body);
    stream.end();
  });
}

function frame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

async function waitFor(condition: () => boolean, withinMs = 8_000): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('not within the deadline');
    await new Promise((resolve) => setImmediate(resolve));
  }
}

import net from 'node:net';
import { gzipSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import { AddressGuard, parseAllowList } from './address-guard.ts';
import {
  GuardedTransport,
  type GuardedTransportOptions,
  type TransportFailure,
} from './guarded-transport.ts';
import { insideAddresses, insideHosts } from './inside-spellings.fixture.ts';
import { rawReceiver, receiver, type TestAuthority, testAuthority } from './receivers.fixture.ts';

const organizationId = 'org_01h455vb4pex5vsknk084sn02q';
const timeoutMs = 700;
let authority: TestAuthority;
beforeAll(async () => {
  authority = await testAuthority();
});

function transport(options: Partial<GuardedTransportOptions> = {}) {
  return new GuardedTransport({
    guard: new AddressGuard(parseAllowList('127.0.0.1')),
    resolveHost: async () => ['127.0.0.1'],
    timeoutMs,
    answerKeepBytes: 1_024,
    additionalRoots: [authority.rootPem],
    ...options,
  });
}

function post(url: string, options: Partial<GuardedTransportOptions> = {}, signal?: AbortSignal) {
  return transport(options).post({
    url,
    organizationId,
    headers: { 'content-type': 'application/json' },
    body: Buffer.from('{"a":1}'),
    ...(signal && { signal }),
  });
}

/** Judges loopback as if it were public, so that what holds for public receivers can be seen. */
class LoopbackIsPublic extends AddressGuard {
  override judge(text: string, id: string) {
    if (text === '127.0.0.1') return { verdict: 'public', address: text, family: 4 } as const;
    return super.judge(text, id);
  }
}

describe('the way to a receiver', () => {
  it('delivers the exact bytes with the name in Host and SNI', async () => {
    const certificate = await authority.issue([{ type: 'dns', value: 'hooks.example' }]);
    const server = await receiver(undefined, certificate);
    const answer = await post(`https://hooks.example:${server.port}/a/b?c=d%20e`);
    expect(answer).toMatchObject({ result: 'answered', status: 200 });
    expect(server.seen).toMatchObject([
      {
        method: 'POST',
        url: '/a/b?c=d%20e',
        body: '{"a":1}',
        servername: 'hooks.example',
        headers: { host: `hooks.example:${server.port}`, 'accept-encoding': 'identity' },
      },
    ]);
  });

  it('resolves a name once, connects to the judged address, and tries the next that is judged', async () => {
    const server = await receiver();
    const asked: string[] = [];
    const answer = await post(`http://hooks.example:${server.port}/`, {
      guard: new AddressGuard(parseAllowList('127.0.0.0/8')),
      resolveHost: async (name) => {
        asked.push(name);
        return ['127.0.0.99', '127.0.0.1'];
      },
    });
    expect(answer.result).toBe('answered');
    expect(asked).toEqual(['hooks.example']);
  });

  it('takes localhost for the one of its two addresses that the installer allows', async () => {
    const server = await receiver();
    const url = `http://localhost:${server.port}/`;
    const allowed = { guard: new AddressGuard(parseAllowList('127.0.0.1/32')) };
    expect(await post(url, allowed)).toMatchObject({ result: 'answered' });
    const elsewhere = { guard: new AddressGuard(parseAllowList('10.0.0.0/8')) };
    expect(await post(url, elsewhere)).not.toMatchObject({ result: 'answered' });
  });

  it('records the start of the answer, but none of a receiver reached through the allow list', async () => {
    const server = await receiver((response) => response.end(`\u0000${'ä'.repeat(5_000)}`));
    const url = `http://127.0.0.1:${server.port}/`;
    const certificate = await authority.issue([{ type: 'ip', value: '127.0.0.1' }]);
    const secure = await receiver(
      (response) => response.end(`\u0000${'ä'.repeat(5_000)}`),
      certificate,
    );
    const publicAnswer = await post(`https://127.0.0.1:${secure.port}/`, {
      guard: new LoopbackIsPublic([]),
    });
    expect(publicAnswer).toMatchObject({ result: 'answered', status: 200 });
    const text = publicAnswer.result === 'answered' ? (publicAnswer.answer ?? '') : '';
    expect(text).not.toContain('\u0000');
    expect(text).toContain('ääää');
    expect(text.length).toBeLessThanOrEqual(1_024);
    expect(await post(url)).toMatchObject({ result: 'answered', answer: undefined });
  });
});

describe('inside', () => {
  it('is never connected to, in none of more than 400 spellings', async () => {
    const probe = await rawReceiver(() => undefined, 'connect');
    const resolving: string[] = [];
    const guarded = transport({
      guard: new AddressGuard([]),
      resolveHost: async (name) => {
        resolving.push(name);
        return ['127.0.0.1'];
      },
    });
    for (const host of insideHosts) {
      const answer = await guarded.post({
        url: `https://${host}:${probe.port}/`,
        organizationId,
        headers: {},
        body: Buffer.of(),
      });
      expect([host, answer.result]).toEqual([host, 'failed']);
    }
    expect(probe.connections()).toBe(0);
  });

  it('is never connected to when a name leads there, alone or among public addresses', async () => {
    const probe = await rawReceiver(() => undefined, 'connect');
    let resolved: string[] = [];
    const guarded = transport({ guard: new AddressGuard([]), resolveHost: async () => resolved });
    for (const address of insideAddresses) {
      for (const addresses of [[address], ['93.184.215.14', address], [address, '93.184.215.14']]) {
        resolved = addresses;
        const answer = await guarded.post({
          url: `https://hooks.example:${probe.port}/`,
          organizationId,
          headers: {},
          body: Buffer.of(),
        });
        expect(answer).toMatchObject({
          result: 'failed',
          reason: 'refused_address',
          permanent: false,
        });
      }
    }
    expect(probe.connections()).toBe(0);
  });

  it('is not reached by a name that changes its answer between look and leap', async () => {
    const probe = await rawReceiver(() => undefined, 'connect');
    let asked = 0;
    // The public address is one that no packet reaches, so that the leap itself cannot succeed.
    const rebinding = async () => {
      asked += 1;
      return asked === 1 ? ['2001:4860:4860::8888'] : ['127.0.0.1'];
    };
    const answer = await post(`https://rebinding.example:${probe.port}/`, {
      guard: new AddressGuard([]),
      resolveHost: rebinding,
    });
    expect(answer.result).toBe('failed');
    expect(asked).toBe(1);
    const second = await post(`https://rebinding.example:${probe.port}/`, {
      guard: new AddressGuard([]),
      resolveHost: rebinding,
    });
    expect(second).toMatchObject({ result: 'failed', reason: 'refused_address' });
    expect(probe.connections()).toBe(0);
  });

  it('is not written to when the peer of the open socket is not the judged one', async () => {
    const server = await receiver();
    let judged = 0;
    class Changing extends AddressGuard {
      override judge(text: string, id: string) {
        judged += 1;
        return judged > 1 ? new AddressGuard([]).judge(text, id) : super.judge(text, id);
      }
    }
    const answer = await post(`http://hooks.example:${server.port}/`, {
      guard: new Changing(parseAllowList('127.0.0.1')),
    });
    expect(answer).toMatchObject({ result: 'failed', reason: 'refused_address' });
    expect(server.seen).toEqual([]);
  });

  it('is open to the organizations of the allow list alone', async () => {
    const server = await receiver();
    const guard = new AddressGuard(parseAllowList(`127.0.0.1@${organizationId}`));
    const url = `http://127.0.0.1:${server.port}/`;
    expect(await post(url, { guard })).toMatchObject({ result: 'answered' });
    const foreign = await transport({ guard }).post({
      url,
      organizationId: 'org_01h455vb4pex5vsknk084sn02r',
      headers: {},
      body: Buffer.of(),
    });
    expect(foreign).toMatchObject({ reason: 'refused_address', permanent: true });
    expect(server.seen).toHaveLength(1);
  });

  it('is not reached by http when the name leads outside the allow list', async () => {
    const answer = await post('http://hooks.example/', {
      resolveHost: async () => ['93.184.215.14'],
    });
    expect(answer).toMatchObject({ result: 'failed', reason: 'insecure', permanent: true });
  });
});

describe('TLS', () => {
  const cases: [string, x509Names, { fromDays: number; toDays: number } | undefined][] = [
    ['of another name', [{ type: 'dns', value: 'other.example' }], undefined],
    ['of the address instead of the name', [{ type: 'ip', value: '127.0.0.1' }], undefined],
    ['that has expired', [{ type: 'dns', value: 'hooks.example' }], { fromDays: -9, toDays: -2 }],
    [
      'that is not valid yet',
      [{ type: 'dns', value: 'hooks.example' }],
      { fromDays: 0.5, toDays: 1 },
    ],
  ];
  it.each(cases)(
    'refuses a certificate %s, also through the allow list',
    async (_what, names, validity) => {
      const server = await receiver(undefined, await authority.issue(names, validity));
      const answer = await post(`https://hooks.example:${server.port}/`);
      expect(answer).toMatchObject({ result: 'failed', reason: 'tls', permanent: false });
      expect(server.seen).toEqual([]);
    },
  );

  it('refuses a certificate of an unknown authority', async () => {
    const stranger = await testAuthority();
    const certificate = await stranger.issue([{ type: 'dns', value: 'hooks.example' }]);
    const server = await receiver(undefined, certificate);
    const answer = await post(`https://hooks.example:${server.port}/`);
    expect(answer).toMatchObject({ result: 'failed', reason: 'tls' });
    expect(server.seen).toEqual([]);
  });

  it('refuses a receiver that does not speak TLS', async () => {
    const server = await receiver();
    const answer = await post(`https://hooks.example:${server.port}/`);
    expect(answer).toMatchObject({ result: 'failed', reason: 'tls' });
    expect(server.seen).toEqual([]);
  });
});

type x509Names = Parameters<TestAuthority['issue']>[0];

describe('a hostile receiver', () => {
  const head = 'HTTP/1.1 200 OK\r\n';
  const every = (socket: net.Socket, text: string, first = '') => {
    socket.write(first);
    const timer = setInterval(() => socket.write(text), 20);
    socket.on('close', () => clearInterval(timer));
  };
  const flood = (socket: net.Socket, first: string, chunk: string) => {
    socket.write(first);
    const more = () => {
      while (!socket.destroyed && socket.write(chunk));
      if (!socket.destroyed) socket.once('drain', more);
    };
    more();
  };

  const failing: [string, Parameters<typeof rawReceiver>, TransportFailure[]][] = [
    ['never answers', [() => undefined], ['timeout']],
    ['never reads', [(socket) => socket.pause(), 'connect'], ['timeout']],
    ['drips its status line', [(socket) => every(socket, 'H')], ['bad_answer']],
    ['drips headers', [(socket) => every(socket, 'a: b\r\n', head)], ['timeout', 'bad_answer']],
    [
      'sends endless headers',
      [(socket) => flood(socket, head, `x: ${'y'.repeat(1_000)}\r\n`)],
      ['bad_answer'],
    ],
    [
      'sends one endless header',
      [(socket) => flood(socket, `${head}x: `, 'y'.repeat(1_000))],
      ['bad_answer'],
    ],
    ['resets the connection', [(socket) => socket.resetAndDestroy()], ['disconnected']],
    [
      'resets it at once',
      [(socket) => socket.resetAndDestroy(), 'connect'],
      ['disconnected', 'not_connected'],
    ],
    ['closes without a word', [(socket) => socket.end()], ['disconnected']],
    ['speaks no HTTP', [(socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n')], ['bad_answer']],
    [
      'answers 100-continue for ever',
      [(socket) => flood(socket, '', 'HTTP/1.1 100 Continue\r\n\r\n')],
      ['timeout', 'bad_answer', 'disconnected'],
    ],
    [
      'answers early hints for ever',
      [(socket) => every(socket, 'HTTP/1.1 103 Early Hints\r\n\r\n')],
      ['timeout', 'bad_answer', 'disconnected'],
    ],
    [
      'switches protocols',
      [
        (socket) =>
          socket.write(
            'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n',
          ),
      ],
      ['bad_answer', 'disconnected', 'timeout'],
    ],
    [
      'contradicts itself about the length',
      [
        (socket) =>
          socket.end(`${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`),
      ],
      ['bad_answer', 'disconnected'],
    ],
  ];
  it.each(failing)(
    'that %s ends as a typed failure within the timeout',
    async (_what, args, reasons) => {
      const server = await rawReceiver(...args);
      const startedMs = performance.now();
      const answer = await post(`http://127.0.0.1:${server.port}/`);
      expect(performance.now() - startedMs).toBeLessThan(timeoutMs + 2_000);
      expect(answer.result).toBe('failed');
      expect(reasons).toContain(answer.result === 'failed' && answer.reason);
      expect(answer).toMatchObject({ permanent: false });
    },
  );

  const answering: [string, (socket: net.Socket) => unknown][] = [
    [
      'sends a huge body',
      (socket) => flood(socket, `${head}Content-Length: 99999999999\r\n\r\n`, 'z'.repeat(65_536)),
    ],
    [
      'sends an endless chunked body',
      (socket) =>
        flood(
          socket,
          `${head}Transfer-Encoding: chunked\r\n\r\n`,
          `400\r\n${'z'.repeat(1_024)}\r\n`,
        ),
    ],
    ['drips its body', (socket) => every(socket, 'z', `${head}Content-Length: 1000\r\n\r\n`)],
    ['stops within its body', (socket) => socket.end(`${head}Content-Length: 1000\r\n\r\nzz`)],
    [
      'announces a body and sends none',
      (socket) => socket.write(`${head}Content-Length: 1000\r\n\r\n`),
    ],
  ];
  it.each(answering)('that %s has answered all the same and is let go', async (_what, act) => {
    const server = await rawReceiver(act);
    const startedMs = performance.now();
    const answer = await post(`http://127.0.0.1:${server.port}/`);
    expect(performance.now() - startedMs).toBeLessThan(timeoutMs + 2_000);
    expect(answer).toMatchObject({ result: 'answered', status: 200 });
  });

  it('that sends a gzip bomb makes nothing swell', async () => {
    const bomb = gzipSync(Buffer.alloc(20_000_000));
    const certificate = await authority.issue([{ type: 'ip', value: '127.0.0.1' }]);
    const server = await receiver(
      (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb),
      certificate,
    );
    const answer = await post(`https://127.0.0.1:${server.port}/`, {
      guard: new LoopbackIsPublic([]),
    });
    expect(answer).toMatchObject({ status: 200, answer: '(an encoded answer)' });
  });

  it('that redirects inside is not followed', async () => {
    const inside = await receiver();
    const server = await receiver((response) =>
      response.writeHead(307, { location: `http://127.0.0.1:${inside.port}/secret` }).end(),
    );
    const answer = await post(`http://127.0.0.1:${server.port}/`);
    expect(answer).toMatchObject({ result: 'answered', status: 307 });
    expect(inside.connections()).toBe(0);
  });

  it('that never finishes a TLS handshake is left within the timeout', async () => {
    const server = await rawReceiver(() => undefined, 'connect');
    const answer = await post(`https://127.0.0.1:${server.port}/`);
    expect(answer).toMatchObject({ result: 'failed', reason: 'timeout' });
    expect(answer.durationMs).toBeLessThan(timeoutMs + 2_000);
  });

  it('whose name server never answers is left within the timeout', async () => {
    const answer = await post('https://hooks.example/', {
      resolveHost: () => new Promise(() => undefined),
    });
    expect(answer).toMatchObject({ result: 'failed', reason: 'timeout' });
  });

  it('whose name has no address, or a nonsensical one, fails for now', async () => {
    for (const resolveHost of [
      async () => [],
      async () => {
        throw Object.assign(new Error('no'), { code: 'ENOTFOUND' });
      },
    ]) {
      const answer = await post('https://hooks.example/', { resolveHost });
      expect(answer).toMatchObject({ result: 'failed', reason: 'not_resolved', permanent: false });
    }
    const odd = await post('https://hooks.example/', { resolveHost: async () => ['127.1'] });
    expect(odd).toMatchObject({ result: 'failed', reason: 'refused_address' });
  });

  it('does not hold up a shutdown', async () => {
    const server = await rawReceiver(() => undefined);
    const stop = new AbortController();
    const sent = post(`http://127.0.0.1:${server.port}/`, { timeoutMs: 10_000 }, stop.signal);
    await expect.poll(() => server.connections()).toBe(1);
    stop.abort();
    const answer = await sent;
    expect(answer).toMatchObject({ result: 'failed', reason: 'stopped' });
    expect(await post('http://127.0.0.1:9/', {}, stop.signal)).toMatchObject({ reason: 'stopped' });
  });

  it('leaves no socket open behind it', async () => {
    const sockets = new Set<net.Socket>();
    const server = await rawReceiver((socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      socket.write(`${head}Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok`);
    });
    for (let index = 0; index < 20; index += 1) {
      expect(await post(`http://127.0.0.1:${server.port}/`)).toMatchObject({ status: 200 });
    }
    expect(server.connections()).toBe(20);
    await expect.poll(() => sockets.size).toBe(0);
  });
});

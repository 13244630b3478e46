/** Bytes that are hardly a request, sent to a server by themselves. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { problem } from '@keystead/contracts/errors';
import fc from 'fast-check';
import { expect, test } from 'vitest';

/** What the server says until it closes or falls silent. */
async function say(port: number, bytes: string | Buffer): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  let heard = '';
  socket.on('data', (chunk) => {
    heard += chunk;
    if (heard.includes('\r\n\r\n')) socket.end();
  });
  socket.on('error', () => {});
  socket.end(bytes);
  await once(socket, 'close');
  return heard;
}

/** Tests of a server that listens on `port()` and knows `path`; `isWell` is asked after all bytes. */
export function checkRawBytes(server: {
  port: () => number;
  path: string;
  runs: number;
  isWell: () => Promise<void>;
}): void {
  const { port, path, runs, isWell } = server;

  test.each([
    ['garbage', '\x16\x03\x01\x02\x00', 400, 'invalid_request'],
    ['an unknown method', `BREW ${path} HTTP/1.1\r\nhost: x\r\n\r\n`, 400, 'invalid_request'],
    ['no host', `GET ${path} HTTP/1.1\r\nconnection: close\r\n\r\n`, 400, 'invalid_request'],
    [
      'two lengths',
      `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na`,
      400,
      'invalid_request',
    ],
    [
      'a length and chunks',
      `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
      'invalid_request',
    ],
    [
      'headers too large',
      `GET ${path} HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`,
      431,
      'headers_too_large',
    ],
    [
      'an address too long',
      `GET ${path}?name=${'a'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`,
      431,
      'headers_too_large',
    ],
  ])('%s: a problem document and the end of the connection', async (_, bytes, status, code) => {
    const [head = '', text = ''] = (await say(port(), bytes)).split('\r\n\r\n');
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(problem.parse(JSON.parse(text))).toMatchObject({ code, status });
  });

  test('no bytes at all bring the server down', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 2_000 }), async (bytes) => {
        expect(await say(port(), Buffer.from(bytes))).not.toMatch(/^HTTP\/1\.1 5/);
      }),
      { numRuns: runs },
    );
    await isWell();
  });
}

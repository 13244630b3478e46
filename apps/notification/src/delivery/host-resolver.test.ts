import dgram from 'node:dgram';
import { describe, expect, it, onTestFinished } from 'vitest';
import { hostResolver } from './host-resolver.ts';

/** A name server that gives each question the answers of a table, or none at all. */
async function nameServer(table: { A?: string[]; AAAA?: number[][] } | 'silent'): Promise<string> {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (question, peer) => {
    if (table === 'silent') return;
    const type = question.readUInt16BE(question.indexOf(0, 12) + 1);
    const end = question.indexOf(0, 12) + 5;
    const data =
      type === 1
        ? (table.A ?? []).map((address) => Buffer.from(address.split('.').map(Number)))
        : (table.AAAA ?? []).map((bytes) => Buffer.from(bytes));
    const head = Buffer.from(question.subarray(0, 12));
    head.writeUInt16BE(0x8180, 2);
    head.writeUInt16BE(data.length, 6);
    head.fill(0, 8, 12);
    const records = data.map((bytes) =>
      Buffer.concat([Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, bytes.length]), bytes]),
    );
    socket.send(Buffer.concat([head, question.subarray(12, end), ...records]), peer.port);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  onTestFinished(() => void socket.close());
  return `127.0.0.1:${socket.address().port}`;
}

const signal = new AbortController().signal;

describe('resolving a receiver', () => {
  it('gives every address of both families', async () => {
    const server = await nameServer({
      A: ['93.184.215.14', '10.0.0.1'],
      AAAA: [[0x20, 1, 0x48, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
    });
    expect(await hostResolver([server])('hooks.example', signal)).toEqual([
      '93.184.215.14',
      '10.0.0.1',
      '2001:4860::1',
    ]);
  });

  it('is content with one family and rejects where there is none', async () => {
    const four = await nameServer({ A: ['93.184.215.14'] });
    expect(await hostResolver([four])('hooks.example', signal)).toEqual(['93.184.215.14']);
    const none = await nameServer({});
    await expect(hostResolver([none])('hooks.example', signal)).rejects.toThrow('ENODATA');
  });

  it('ends at once when the attempt ends, also if the name server is silent', async () => {
    const server = await nameServer('silent');
    const ended = new AbortController();
    const resolving = hostResolver([server])('hooks.example', ended.signal);
    ended.abort();
    await expect(resolving).rejects.toThrow('ECANCELLED');
  });
});

/** Receivers of every kind: they note what arrived, and can be away, break off or fall silent. */
import { createSocket } from 'node:dgram';
import { existsSync, mkdtempSync, readFileSync, renameSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import { TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { parseLine } from '../audit-entry.ts';
import type { Destination } from './destination.ts';
import { FileDestination } from './file-destination.ts';
import { HttpDestination } from './http-destination.ts';
import { SyslogDatagrams, SyslogStream } from './syslog-destination.ts';

export interface Receiver {
  destination: () => Destination;
  /** Lines as they were logged, in the order of their arrival. */
  lines: () => string[];
  /** Takes nothing more until `comeBack`. */
  goAway: () => Promise<void>;
  comeBack: () => Promise<void>;
  /** Whether it tells that something did not arrive. */
  isReliable: boolean;
  close: () => Promise<void>;
}

const origin = { hostname: 'vault-1.example.com', processId: 42 };

/** Takes octet-counted messages apart; throws where they are none. */
function readMessages(socket: Socket, onMessage: (message: string) => void): void {
  let bytes = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    bytes = Buffer.concat([bytes, chunk]);
    for (;;) {
      const space = bytes.indexOf(0x20);
      if (space < 0) return;
      const length = Number(bytes.toString('latin1', 0, space));
      if (!Number.isSafeInteger(length)) throw new Error('not octet-counted');
      if (bytes.length < space + 1 + length) return;
      onMessage(bytes.toString('utf8', space + 1, space + 1 + length));
      bytes = bytes.subarray(space + 1 + length);
    }
  });
}

/** The line in a message of RFC 5424, whose header must be whole. */
export function lineOf(message: string): string {
  const header =
    /^<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) \[audit@32473 sequence="(\d+)" hash="([0-9a-f]{64})"\] /;
  const match = header.exec(message);
  if (match === null) throw new Error(`not RFC 5424: ${message.slice(0, 200)}`);
  const line = message.slice(match[0].length);
  const parsed = parseLine(line);
  const [, , at, hostname, , processId, , sequence, hash] = match;
  if (at !== parsed?.at || hash !== parsed?.hash || Number(sequence) !== parsed?.sequence) {
    throw new Error('the header is not that of its line');
  }
  if (hostname !== origin.hostname || processId !== '42') throw new Error('not the origin');
  return line;
}

async function syslogStream(protocol: 'tcp' | 'tls'): Promise<Receiver> {
  const authority = await TestAuthority.create();
  const issued = await authority.issueServer();
  const lines: string[] = [];
  const sockets = new Set<Socket>();
  const onSocket = (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    readMessages(socket, (message) => lines.push(lineOf(message)));
  };
  const make = () =>
    protocol === 'tcp'
      ? createServer(onSocket)
      : createTlsServer({ cert: issued.certificateChain, key: issued.privateKey }, onSocket);
  let server = make();
  const listen = (port: number) =>
    new Promise<number>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, '127.0.0.1', () => resolve((server.address() as { port: number }).port));
    });
  const port = await listen(0);
  const goAway = async () => {
    for (const socket of sockets) socket.destroy();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  };
  return {
    destination: () =>
      new SyslogStream({ protocol, host: 'localhost', port, ca: authority.root, ...origin }),
    lines: () => lines,
    goAway,
    comeBack: async () => {
      server = make();
      await listen(port);
    },
    isReliable: true,
    close: goAway,
  };
}

async function syslogDatagrams(): Promise<Receiver> {
  const lines: string[] = [];
  const socket = createSocket('udp4');
  socket.on('message', (message) => lines.push(lineOf(message.toString())));
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  return {
    destination: () => new SyslogDatagrams({ host: '127.0.0.1', port, ...origin }),
    lines: () => lines,
    goAway: async () => undefined,
    comeBack: async () => undefined,
    isReliable: false,
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

async function http(): Promise<Receiver> {
  const lines: string[] = [];
  let isAway = false;
  const server = createHttpServer((request, answer) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      if (request.headers.authorization !== 'Bearer token-of-the-test') {
        answer.writeHead(401).end();
        return;
      }
      if (isAway) {
        answer.writeHead(503).end('not now');
        return;
      }
      lines.push(...Buffer.concat(chunks).toString().split('\n').slice(0, -1));
      answer.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  return {
    destination: () =>
      new HttpDestination({
        source: 'agent',
        url: `http://127.0.0.1:${port}/audit`,
        authorization: () => 'Bearer token-of-the-test',
      }),
    lines: () => lines,
    goAway: async () => {
      isAway = true;
    },
    comeBack: async () => {
      isAway = false;
    },
    isReliable: true,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

async function file(): Promise<Receiver> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-forward-'));
  const path = join(folder, 'share', 'audit.jsonl');
  const { mkdirSync } = await import('node:fs');
  mkdirSync(join(folder, 'share'));
  return {
    destination: () => new FileDestination(path),
    lines: () => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []),
    goAway: async () => renameSync(join(folder, 'share'), join(folder, 'away')),
    comeBack: async () => renameSync(join(folder, 'away'), join(folder, 'share')),
    isReliable: true,
    close: async () => undefined,
  };
}

export const receivers: Record<string, () => Promise<Receiver>> = {
  'syslog over TCP': () => syslogStream('tcp'),
  'syslog over TLS': () => syslogStream('tls'),
  'syslog over UDP': syslogDatagrams,
  HTTP: http,
  'a file': file,
};

/** Real receivers on loopback, good and hostile, and a certificate authority for those with TLS. */
// The certificate library needs it before it loads.
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import * as x509 from '@peculiar/x509';
import { onTestFinished } from 'vitest';

x509.cryptoProvider.set(webcrypto as never);
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const day = 24 * 3_600_000;

export interface TestCertificate {
  cert: string;
  key: string;
}

export interface TestAuthority {
  rootPem: string;
  issue(
    names: x509.JsonGeneralNames,
    validity?: { fromDays: number; toDays: number },
  ): Promise<TestCertificate>;
}

export async function testAuthority(): Promise<TestAuthority> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: 'CN=Receivers of the tests',
    notBefore: new Date(Date.now() - day),
    notAfter: new Date(Date.now() + day),
    keys: keys as never,
    signingAlgorithm: algorithm,
    extensions: [new x509.BasicConstraintsExtension(true, 0, true)],
  });
  let serial = 1;
  return {
    rootPem: root.toString('pem'),
    async issue(names, validity = { fromDays: -1, toDays: 1 }) {
      const own = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
      serial += 1;
      const certificate = await x509.X509CertificateGenerator.create({
        serialNumber: serial.toString(16).padStart(2, '0'),
        issuer: root.subject,
        subject: 'CN=receiver',
        notBefore: new Date(Date.now() + validity.fromDays * day),
        notAfter: new Date(Date.now() + validity.toDays * day),
        publicKey: own.publicKey as never,
        signingKey: keys.privateKey as never,
        signingAlgorithm: algorithm,
        extensions: [new x509.SubjectAlternativeNameExtension(names)],
      });
      const pkcs8 = Buffer.from(await crypto.subtle.exportKey('pkcs8', own.privateKey));
      const lines = pkcs8.toString('base64').replace(/(.{64})/g, '$1\n');
      return {
        cert: certificate.toString('pem'),
        key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`,
      };
    },
  };
}

export interface Seen {
  method: string;
  url: string;
  headers: http.IncomingHttpHeaders;
  body: string;
  servername?: string;
}

export interface Receiver {
  port: number;
  seen: Seen[];
  connections(): number;
}

export type Answer = (response: http.ServerResponse, seen: Seen) => unknown;

/** A receiver that reads the whole request, keeps it, and answers. */
export function receiver(
  answer: Answer = (response) => response.end('ok'),
  certificate?: TestCertificate,
): Promise<Receiver> {
  const seen: Seen[] = [];
  const onRequest: http.RequestListener = (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      const { servername } = request.socket as unknown as { servername?: string };
      const one: Seen = {
        method: request.method ?? '',
        url: request.url ?? '',
        headers: request.headers,
        body: Buffer.concat(chunks).toString(),
        ...(servername && { servername }),
      };
      seen.push(one);
      answer(response, one);
    });
  };
  const server = certificate
    ? https.createServer(certificate, onRequest)
    : http.createServer(onRequest);
  return open(server, seen);
}

/** A receiver that does with the bare socket what it likes, once the request arrived. */
export function rawReceiver(act: (socket: net.Socket) => unknown, at = 'data'): Promise<Receiver> {
  return open(
    net.createServer((socket) => {
      if (at === 'connect') act(socket);
      else socket.once('data', () => act(socket));
    }),
    [],
  );
}

async function open(server: net.Server, seen: Seen[]): Promise<Receiver> {
  const sockets = new Set<net.Socket>();
  let connections = 0;
  server.on('connection', (socket: net.Socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    port: (server.address() as net.AddressInfo).port,
    seen,
    connections: () => connections,
  };
}

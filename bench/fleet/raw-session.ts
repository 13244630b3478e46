/**
 * One mTLS connection with one session stream, straight on node:http2: lighter than a gRPC client,
 * so that thousands fit into one process and the measured side is the server. The frames on the wire
 * are those of gRPC.
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import { isIP } from 'node:net';

export interface RawSessionOptions {
  host: string;
  port: number;
  /** PEM. */
  root: string;
  certificateChain: string;
  privateKey: string;
  onMessage: (bytes: Buffer) => void;
  /** Once: the gRPC status, or undefined where the connection ended without one. */
  onEnd: (status: number | undefined) => void;
}

export class RawSession {
  readonly #session: ClientHttp2Session;
  readonly #stream: ClientHttp2Stream;
  #partial: Buffer | undefined;
  #ended = false;

  constructor(options: RawSessionOptions, path = '/keystead.agent.v1.SessionService/Session') {
    this.#session = connect(`https://${options.host}:${options.port}`, {
      ca: options.root,
      cert: options.certificateChain,
      key: options.privateKey,
      minVersion: 'TLSv1.3',
      ...(isIP(options.host) === 0 ? { servername: options.host } : {}),
    });
    let status: number | undefined;
    const end = () => {
      if (this.#ended) return;
      this.#ended = true;
      options.onEnd(status);
      this.#session.destroy();
    };
    const note = (headers: Record<string, unknown>) => {
      const told = headers['grpc-status'];
      if (told !== undefined) status = Number(told);
    };
    this.#session.on('error', ignore);
    this.#session.on('close', end);
    this.#stream = this.#session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    this.#stream.on('error', ignore);
    this.#stream.on('response', note);
    this.#stream.on('trailers', note);
    this.#stream.on('data', (data: Buffer) => this.#read(data, options.onMessage));
    this.#stream.on('close', end);
  }

  /** Sends one message: the frame's five bytes in front of it. */
  send(message: Uint8Array): void {
    if (this.#ended) return;
    const frame = Buffer.allocUnsafe(5 + message.length);
    frame.writeUInt8(0, 0);
    frame.writeUInt32BE(message.length, 1);
    frame.set(message, 5);
    this.#stream.write(frame);
  }

  halfClose(): void {
    this.#stream.end();
  }

  /** As kill -9 would: no goodbye, no end of stream. */
  destroy(): void {
    this.#session.destroy();
  }

  #read(data: Buffer, onMessage: (bytes: Buffer) => void): void {
    let bytes = this.#partial === undefined ? data : Buffer.concat([this.#partial, data]);
    while (bytes.length >= 5) {
      const end = 5 + bytes.readUInt32BE(1);
      if (bytes.length < end) break;
      onMessage(bytes.subarray(5, end));
      bytes = bytes.subarray(end);
    }
    this.#partial = bytes.length === 0 ? undefined : bytes;
  }
}

function ignore(): void {}

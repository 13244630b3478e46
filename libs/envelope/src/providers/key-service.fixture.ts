/** What the fakes of the clouds' key services have in common: a server, and faults on demand. */
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

export type Fault =
  | 'throttled'
  | 'denied'
  | 'disabled'
  | 'not_found'
  | 'unavailable'
  /** Answers after the caller has given up. */
  | 'slow'
  /** Closes the connection without an answer. */
  | 'reset'
  /** Answers 200 with what is no answer. */
  | 'garbage';

export interface Answer {
  status: number;
  body: unknown;
  headers?: Record<string, string>;
}

export interface FakeRequest {
  method: string;
  path: string;
  query: string;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

export abstract class FakeKeyService {
  #server: ReturnType<typeof createHttpServer> | ReturnType<typeof createHttpsServer> | undefined;
  #faults: { fault: Fault; times: number } | undefined;
  readonly #held = new Set<ServerResponse>();
  /** How often an operation on a key was asked for. */
  calls = 0;

  protected abstract answer(request: FakeRequest): Answer | Promise<Answer>;
  protected abstract answerFault(fault: Fault, request: FakeRequest): Answer;
  /** Sign-in and the like have no faults of the key. */
  protected abstract isKeyOperation(request: FakeRequest): boolean;

  /** @returns the address, without a path */
  async start(tls?: { key: string; cert: string }): Promise<string> {
    const listener = (incoming: IncomingMessage, response: ServerResponse) => {
      void this.#handle(incoming, response);
    };
    const server = tls ? createHttpsServer(tls, listener) : createHttpServer(listener);
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    return `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  }

  async stop(): Promise<void> {
    for (const response of this.#held) response.destroy();
    const server = this.#server;
    if (server === undefined) return;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    this.#server = undefined;
  }

  /** The next operations on keys fail, that many times. */
  fail(fault: Fault, times = Number.POSITIVE_INFINITY): void {
    this.#faults = { fault, times };
    this.calls = 0;
  }

  recover(): void {
    this.#faults = undefined;
    this.calls = 0;
  }

  async #handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const url = new URL(incoming.url ?? '/', 'http://fake');
    const request: FakeRequest = {
      method: incoming.method ?? 'GET',
      path: url.pathname,
      query: url.search.slice(1),
      headers: incoming.headers,
      body: Buffer.concat(chunks),
    };
    let answer: Answer;
    if (this.isKeyOperation(request)) {
      this.calls += 1;
      const fault = this.#nextFault();
      if (fault === 'slow') {
        this.#held.add(response);
        return;
      }
      if (fault === 'reset') {
        incoming.socket.destroy();
        return;
      }
      answer = fault ? this.answerFault(fault, request) : await this.answer(request);
    } else {
      answer = await this.answer(request);
    }
    response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers });
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
  }

  #nextFault(): Fault | undefined {
    if (this.#faults === undefined || this.#faults.times < 1) return undefined;
    this.#faults.times -= 1;
    return this.#faults.fault;
  }
}

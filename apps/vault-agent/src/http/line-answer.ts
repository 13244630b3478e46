/** An answer in lines of JSON: how far something is that takes long, and at last what came of it. */
import { problemAnswer } from '@keystead/contracts/http/problem-answer';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { httpLimits } from './http-limits.ts';
import type { HttpServer } from './http-server.ts';

const linesType = 'application/x-ndjson';

export function wantsLines({ headers }: FastifyRequest): boolean {
  return (headers.accept ?? '')
    .split(',')
    .some((range) => range.split(';', 1)[0]?.trim().toLowerCase() === linesType);
}

export class LineAnswer {
  readonly #request: FastifyRequest;
  readonly #reply: FastifyReply;
  readonly #server: HttpServer;
  #isBegun = false;
  #phase: unknown;
  #toldAtMs = 0;

  constructor(request: FastifyRequest, reply: FastifyReply, server: HttpServer) {
    this.#request = request;
    this.#reply = reply;
    this.#server = server;
  }

  /** The status is told by then: what goes wrong later is a line. */
  get isBegun(): boolean {
    return this.#isBegun;
  }

  /** Some of the lines in between are left out; the first one of each phase is told. */
  readonly tell = (line: Record<string, unknown>): void => {
    const nowMs = performance.now();
    if (line.phase === this.#phase && nowMs - this.#toldAtMs < httpLimits.linesEveryMs) return;
    this.#phase = line.phase;
    this.#toldAtMs = nowMs;
    this.#write(line);
  };

  end(result: unknown): void {
    this.#write({ result });
    this.#reply.raw.end();
  }

  fail(error: unknown): void {
    const known = this.#server.explain(error, this.#request);
    this.#write({ problem: problemAnswer(known, this.#request.id, new Date()).body });
    this.#reply.raw.end();
  }

  #write(line: Record<string, unknown>): void {
    if (!this.#isBegun) {
      this.#isBegun = true;
      this.#reply.hijack();
      this.#reply.raw.writeHead(200, {
        'x-request-id': this.#request.id,
        'x-content-type-options': 'nosniff',
        'cache-control': 'no-store',
        'content-type': linesType,
      });
    }
    this.#reply.raw.write(`${JSON.stringify(line)}\n`);
  }
}

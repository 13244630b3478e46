/**
 * `/healthz`, `/readyz` and the metrics: without credentials, because what asks for them has none. Names
 * of the vault are told to this machine alone.
 */
import { headersOfEarlyAnswers } from '@keystead/contracts/http/problem-answer';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Registry } from 'prom-client';
import { isLoopback } from '../configuration.ts';
import type { HttpServer } from './http-server.ts';

export interface HealthSource {
  health(): { status: string; version: string; degradations: string[] } & Record<string, unknown>;
  /** Why requests would be refused, in words for people; empty when they are not. */
  obstacles(): string[];
}

export interface HealthOptions {
  source: HealthSource;
  registry: Registry;
  /** Undefined: not served. */
  metricsPath: string | undefined;
}

export function serveHealth(server: HttpServer, options: HealthOptions): void {
  const { source, registry, metricsPath } = options;
  const { app } = server;
  app.get('/healthz', { exposeHeadRoute: false }, (request, reply) => {
    const health = source.health();
    const { status, version } = health;
    send(request, reply, 200, isLocal(request) ? health : { status, version });
  });
  app.get('/readyz', { exposeHeadRoute: false }, (request, reply) => {
    const obstacles = source.obstacles();
    const ready = obstacles.length === 0;
    // What is open stays open without these; they are told, so that somebody looks before a restart needs them.
    const { degradations } = source.health();
    send(request, reply, ready ? 200 : 503, { ready, obstacles, degradations });
  });
  if (metricsPath === undefined) return;
  app.get(metricsPath, { exposeHeadRoute: false }, async (request, reply) => {
    const text = await registry.metrics();
    return reply
      .headers({ ...headersOfEarlyAnswers(request.id), 'content-type': registry.contentType })
      .send(text);
  });
}

const isLocal = ({ raw }: FastifyRequest) =>
  isLoopback((raw.socket.remoteAddress ?? '').replace(/^::ffff:/, ''));

function send(request: FastifyRequest, reply: FastifyReply, status: number, body: object): void {
  reply
    .code(status)
    .headers({
      ...headersOfEarlyAnswers(request.id),
      'content-type': 'application/json; charset=utf-8',
      'cache-control': 'no-store',
    })
    .send(JSON.stringify(body));
}

/** `/openapi.json`, and `/docs`: a page to read and try it, with nothing fetched from elsewhere. */
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import fastifyStatic from '@fastify/static';
import {
  documentationAssets,
  documentationPage,
  documentationScript,
  documentationSecurityPolicy,
} from '@keystead/contracts/http/documentation-page';
import type { FastifyInstance } from 'fastify';
import { openApiDocument } from './openapi.ts';

const page = documentationPage('Keystead API');

export function serveDocs(server: FastifyInstance): void {
  const document = JSON.stringify(openApiDocument());
  const etag = `"${createHash('sha256').update(document).digest('base64url').slice(0, 22)}"`;
  server.get('/openapi.json', async (request, reply) => {
    reply.headers({ etag, 'cache-control': 'no-cache', 'content-type': 'application/json' });
    if (request.headers['if-none-match'] === etag) return reply.code(304).send();
    return reply.send(document);
  });
  void server.register(fastifyStatic, {
    root: dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json')),
    serve: false,
  });
  server.get('/docs', async (_request, reply) => {
    reply.headers({
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': documentationSecurityPolicy,
      'cache-control': 'no-cache',
    });
    return reply.send(page);
  });
  server.get('/docs/start.js', async (_request, reply) => {
    reply.header('content-type', 'text/javascript; charset=utf-8');
    return reply.send(documentationScript);
  });
  for (const name of Object.keys(documentationAssets)) {
    server.get(`/docs/${name}`, (_request, reply) => {
      reply.sendFile(name);
    });
  }
}

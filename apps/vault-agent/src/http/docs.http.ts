/** `/openapi.json`, and `/docs`: a page to read and try it, with nothing fetched from elsewhere. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import {
  documentationAssets,
  documentationPage,
  documentationScript,
  documentationSecurityPolicy,
} from '@keystead/contracts/http/documentation-page';
import { headersOfEarlyAnswers } from '@keystead/contracts/http/problem-answer';
import type { FastifyRequest } from 'fastify';
import type { HttpServer } from './http-server.ts';
import { agentOpenApiDocument } from './openapi.ts';

const page = documentationPage('Keystead agent API');

export function serveDocs({ app }: HttpServer): void {
  // Made when somebody asks: most agents are never read about on themselves.
  let document: { text: string; etag: string } | undefined;
  const headersOf = (request: FastifyRequest, contentType: string, cacheControl: string) => ({
    ...headersOfEarlyAnswers(request.id),
    'content-security-policy': documentationSecurityPolicy,
    'content-type': contentType,
    'cache-control': cacheControl,
  });
  const quiet = { exposeHeadRoute: false };
  app.get('/openapi.json', quiet, async (request, reply) => {
    document ??= described();
    reply.headers({ ...headersOf(request, 'application/json', 'no-cache'), etag: document.etag });
    if (request.headers['if-none-match'] === document.etag) return reply.code(304).send();
    return reply.send(document.text);
  });
  app.get('/docs', quiet, async (request, reply) =>
    reply.headers(headersOf(request, 'text/html; charset=utf-8', 'no-cache')).send(page),
  );
  app.get('/docs/start.js', quiet, async (request, reply) =>
    reply
      .headers(headersOf(request, 'text/javascript; charset=utf-8', 'no-cache'))
      .send(documentationScript),
  );
  const folder = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
  for (const [name, type] of Object.entries(documentationAssets)) {
    app.get(`/docs/${name}`, quiet, async (request, reply) =>
      reply
        .headers(headersOf(request, type, 'public, max-age=3600'))
        .send(await readFile(join(folder, name))),
    );
  }
}

function described() {
  const text = JSON.stringify(agentOpenApiDocument());
  return {
    text,
    etag: `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`,
  };
}

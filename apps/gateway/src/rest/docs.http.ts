/** `/openapi.json`, and `/docs`: a page to read and try it, with nothing fetched from elsewhere. */
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import fastifyStatic from '@fastify/static';
import type { FastifyInstance } from 'fastify';
import { openApiDocument } from './openapi.ts';

const assets = ['swagger-ui.css', 'swagger-ui-bundle.js'] as const;

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Keystead API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<main id="documentation"></main>
<noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

const startScript = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#documentation',
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
`;

// The page styles elements in place; scripts come from files of ours alone.
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

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
      'content-security-policy': contentSecurityPolicy,
      'cache-control': 'no-cache',
    });
    return reply.send(page);
  });
  server.get('/docs/start.js', async (_request, reply) => {
    reply.header('content-type', 'text/javascript; charset=utf-8');
    return reply.send(startScript);
  });
  for (const name of assets) {
    server.get(`/docs/${name}`, (_request, reply) => {
      reply.sendFile(name);
    });
  }
}

/**
 * What HTTP itself costs: a bare Fastify, with TLS or without, that answers the bytes it is given as they
 * are. Everything the agent does besides is what the ratio shows.
 */
import { readFileSync } from 'node:fs';
import Fastify, { type FastifyInstance } from 'fastify';

const [answer = '{}', certificate, key] = process.argv.slice(2);
const http = { logger: false as const };
const app = (
  certificate && key
    ? Fastify({ ...http, https: { cert: readFileSync(certificate), key: readFileSync(key) } })
    : Fastify(http)
) as FastifyInstance;
app.removeAllContentTypeParsers();
app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) =>
  done(null, body),
);
app.all('/v1/namespaces/:namespace/secrets/:name/value', async (_request, reply) => {
  reply.header('content-type', 'application/json; charset=utf-8');
  return answer;
});
app.all('/v1/namespaces/:namespace/secrets', async (_request, reply) => {
  reply.header('content-type', 'application/json; charset=utf-8');
  return answer;
});
await app.listen({ host: '127.0.0.1', port: 0 });
const address = app.server.address();
process.stdout.write(
  `${JSON.stringify({ port: typeof address === 'object' ? address?.port : 0 })}\n`,
);

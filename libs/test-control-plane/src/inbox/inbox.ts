/**
 * Where alerts arrive on a developer's machine and in tests: a real SMTP server, a webhook receiver
 * that checks Standard Webhooks signatures with a library that is not ours, a receiver shaped like
 * Slack's incoming webhooks, and one page that shows what came.
 *
 *   POST /webhooks/NAME              a webhook channel's url; checked once NAME's secret is known
 *   PUT  /webhooks/NAME/secret       {"secret": "whsec_…"}
 *   POST /slack/NAME                 a Slack channel's url
 *   GET  /                           the page, kept up to date by GET /stream
 *   GET  /messages.json              the same for programs, oldest first; DELETE empties it
 *
 * It remembers the last few hundred messages, in memory, and listens on loopback alone.
 */
import { EventEmitter } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import PostalMime from 'postal-mime';
import { SMTPServer } from 'smtp-server';
import { Webhook } from 'standardwebhooks';
import type { Behavior, InboxMessage, Verdict } from './message.ts';
import { messageRow, page } from './page.ts';
import { slackMessageTitle, whatSlackRefuses } from './slack-message.ts';

export type { Behavior, InboxMessage } from './message.ts';

export interface InboxOptions {
  readonly httpPort?: number;
  readonly smtpPort?: number;
  readonly host?: string;
  /** How many messages are remembered. */
  readonly capacity?: number;
  /** What the page says while nothing has arrived, in plain text. */
  readonly hint?: string;
}

const bodyMaxBytes = 1024 * 1024;

export class Inbox {
  readonly #capacity: number;
  readonly #host: string;
  #hint: string;
  readonly #messages: InboxMessage[] = [];
  readonly #secrets = new Map<string, string[]>();
  readonly #behaviors = new Map<string, Behavior>();
  readonly #arrivals = new EventEmitter().setMaxListeners(0);
  readonly #sockets = new Set<Socket>();
  #refuseMail: { code: number; text: string } | undefined;
  #http: Server | undefined;
  #smtp: SMTPServer | undefined;
  #nextId = 1;

  private constructor(options: InboxOptions) {
    this.#capacity = options.capacity ?? 500;
    this.#host = options.host ?? '127.0.0.1';
    this.#hint = options.hint ?? '';
  }

  static async start(options: InboxOptions = {}): Promise<Inbox> {
    const inbox = new Inbox(options);
    try {
      await inbox.#startHttp(options.httpPort ?? 0);
      await inbox.#startSmtp(options.smtpPort ?? 0);
    } catch (error) {
      await inbox.stop();
      throw error;
    }
    return inbox;
  }

  get url(): string {
    return `http://${this.#host}:${portOf(this.#http)}`;
  }

  get smtpUrl(): string {
    return `smtp://${this.#host}:${portOf(this.#smtp?.server)}`;
  }

  webhookUrl(name: string): string {
    return `${this.url}/webhooks/${name}`;
  }

  slackUrl(name: string): string {
    return `${this.url}/slack/${name}`;
  }

  set hint(text: string) {
    this.#hint = text;
  }

  /** From now on the webhooks of this name are checked; during a rotation there are two secrets. */
  expectSignature(name: string, ...secrets: string[]): void {
    this.#secrets.set(name, secrets);
  }

  /** Makes a receiver (`/webhooks/NAME` or `/slack/NAME`) misbehave; undefined mends it. */
  behave(path: string, behavior: Behavior | undefined): void {
    if (behavior === undefined) this.#behaviors.delete(path);
    else this.#behaviors.set(path, behavior);
  }

  /** Makes the mail server refuse every recipient; undefined mends it. */
  refuseMail(refusal: { code: number; text: string } | undefined): void {
    this.#refuseMail = refusal;
  }

  get messages(): readonly InboxMessage[] {
    return this.#messages;
  }

  clear(): void {
    this.#messages.length = 0;
  }

  /** The first message, arrived or still to arrive, that the test accepts. */
  waitFor(accepts: (message: InboxMessage) => boolean, timeoutMs: number): Promise<InboxMessage> {
    const arrived = this.#messages.find(accepts);
    if (arrived !== undefined) return Promise.resolve(arrived);
    return new Promise((resolve, reject) => {
      const onArrival = (message: InboxMessage) => {
        if (!accepts(message)) return;
        clearTimeout(timer);
        this.#arrivals.off('message', onArrival);
        resolve(message);
      };
      const timer = setTimeout(() => {
        this.#arrivals.off('message', onArrival);
        const have = this.#messages.map(({ kind, subject }) => `${kind}: ${subject}`).join('\n  ');
        reject(new Error(`nothing fitting came within ${timeoutMs} ms; there is:\n  ${have}`));
      }, timeoutMs);
      this.#arrivals.on('message', onArrival);
    });
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all([
      new Promise<void>((resolve) => (this.#http ? this.#http.close(() => resolve()) : resolve())),
      new Promise<void>((resolve) => (this.#smtp ? this.#smtp.close(() => resolve()) : resolve())),
    ]);
  }

  #keep(message: Omit<InboxMessage, 'id' | 'receivedAt'>): void {
    const kept = { id: this.#nextId++, receivedAt: new Date().toISOString(), ...message };
    this.#messages.push(kept);
    if (this.#messages.length > this.#capacity) this.#messages.shift();
    this.#arrivals.emit('message', kept);
  }

  // The HTTP half

  #startHttp(port: number): Promise<void> {
    const server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        if (!response.headersSent) response.writeHead(500, { 'content-type': 'text/plain' });
        response.end(String(error));
      });
    });
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.#http = server;
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, this.#host, () => resolve());
    });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? '/', 'http://inbox').pathname;
    const [, area, name, rest] = path.split('/');
    const { method } = request;
    if (method === 'GET' || method === 'HEAD') {
      if (path === '/') return this.#sendPage(response);
      if (path === '/messages.json') return sendJson(response, 200, { items: this.#messages });
      if (path === '/stream') return this.#stream(request, response);
      if (area === 'messages' && rest === 'mail.html') {
        return this.#sendMailHtml(response, Number(name));
      }
    }
    if (method === 'DELETE' && path === '/messages.json') {
      this.clear();
      response.writeHead(204).end();
      return;
    }
    if (area === 'webhooks' && name && rest === 'secret' && method === 'PUT') {
      const { secret } = JSON.parse(await readBody(request));
      if (typeof secret !== 'string' || !secret.startsWith('whsec_')) {
        return sendJson(response, 400, { error: 'expected {"secret": "whsec_…"}' });
      }
      this.expectSignature(name, secret);
      response.writeHead(204).end();
      return;
    }
    if (method === 'POST' && name && rest === undefined) {
      if (area === 'webhooks') return this.#receiveWebhook(request, response, path, name);
      if (area === 'slack') return this.#receiveSlack(request, response, path, name);
    }
    sendJson(response, 404, { error: `nothing here: ${method} ${path}` });
  }

  async #receiveWebhook(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    name: string,
  ): Promise<void> {
    const body = await readBody(request);
    const headers = plainHeaders(request);
    const verdict = this.#check(name, body, headers);
    const behavior = this.#behaviors.get(path) ?? {};
    const status = behavior.status ?? (verdict.result === 'invalid' ? 401 : 204);
    let type = '';
    try {
      type = String(JSON.parse(body)?.type ?? '');
    } catch {
      type = '';
    }
    this.#keep({
      kind: 'webhook',
      channel: name,
      subject: type || '(no type)',
      verdict,
      webhook: { path, headers, body, status: behavior.hangUp ? 0 : status },
    });
    await this.#respond(response, behavior, status, '');
  }

  #check(name: string, body: string, headers: Record<string, string>): Verdict {
    const secrets = this.#secrets.get(name);
    if (secrets === undefined || secrets.length === 0) {
      return { result: 'unchecked', reason: `no secret is known for ${name}` };
    }
    let reason = '';
    for (const secret of secrets) {
      try {
        new Webhook(secret).verify(body, headers);
        return { result: 'valid', reason: 'signature and timestamp are right' };
      } catch (error) {
        reason = error instanceof Error ? error.message : String(error);
      }
    }
    return { result: 'invalid', reason };
  }

  async #receiveSlack(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    name: string,
  ): Promise<void> {
    const body = await readBody(request);
    const behavior = this.#behaviors.get(path) ?? {};
    let payload: unknown;
    let problem: string | undefined;
    try {
      payload = JSON.parse(body);
      problem = whatSlackRefuses(payload);
    } catch {
      problem = 'the body is not JSON';
    }
    this.#keep({
      kind: 'slack',
      channel: name,
      subject: slackMessageTitle(payload),
      verdict:
        problem === undefined
          ? { result: 'valid', reason: 'a message Slack would take' }
          : { result: 'invalid', reason: problem },
      slack: payload ?? body,
    });
    const ordinary = problem === undefined ? 200 : 400;
    const text = problem === undefined ? 'ok' : 'invalid_payload';
    await this.#respond(response, behavior, behavior.status ?? ordinary, text);
  }

  async #respond(
    response: ServerResponse,
    behavior: Behavior,
    status: number,
    body: string,
  ): Promise<void> {
    if (behavior.delayMs !== undefined) {
      await new Promise((resolve) => setTimeout(resolve, behavior.delayMs).unref());
    }
    if (behavior.hangUp) {
      response.socket?.destroy();
      return;
    }
    response.writeHead(status, { 'content-type': 'text/plain', ...behavior.headers });
    response.end(behavior.body ?? body);
  }

  #sendPage(response: ServerResponse): void {
    const { html, contentSecurityPolicy } = page(this.#messages, this.#hint);
    response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': contentSecurityPolicy,
      'cache-control': 'no-store',
    });
    response.end(html);
  }

  #sendMailHtml(response: ServerResponse, id: number): void {
    const html = this.#messages.find((message) => message.id === id)?.email?.html;
    if (!html) {
      sendJson(response, 404, { error: 'no such mail' });
      return;
    }
    response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      // A mail may show itself and nothing else: no script, no request to anywhere.
      'content-security-policy':
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'",
    });
    response.end(html);
  }

  #stream(request: IncomingMessage, response: ServerResponse): void {
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
    response.write('retry: 1000\n\n');
    const send = (message: InboxMessage) => {
      response.write(`id: ${message.id}\nevent: message\n`);
      response.write(`data: ${JSON.stringify({ id: message.id, html: messageRow(message) })}\n\n`);
    };
    const seen = Number(request.headers['last-event-id'] ?? Number.NaN);
    if (!Number.isNaN(seen)) {
      for (const message of this.#messages) if (message.id > seen) send(message);
    }
    this.#arrivals.on('message', send);
    request.once('close', () => this.#arrivals.off('message', send));
  }

  // The mail half

  #startSmtp(port: number): Promise<void> {
    const server = new SMTPServer({
      banner: 'Keystead inbox',
      authOptional: true,
      // Loopback needs no TLS, and a certificate nobody trusts would teach the wrong habit.
      hideSTARTTLS: true,
      disabledCommands: ['STARTTLS'],
      allowInsecureAuth: true,
      size: 10 * bodyMaxBytes,
      disableReverseLookup: true,
      onAuth: (auth, _session, done) => done(null, { user: auth.username ?? 'anyone' }),
      onRcptTo: (_address, _session, done) => {
        const refusal = this.#refuseMail;
        if (refusal === undefined) return done();
        done(Object.assign(new Error(refusal.text), { responseCode: refusal.code }));
      },
      onData: (stream, session, done) => {
        const chunks: Buffer[] = [];
        stream.on('data', (chunk: Buffer) => chunks.push(chunk));
        stream.on('end', () => {
          const recipients = session.envelope.rcptTo.map(({ address }) => address);
          const from = session.envelope.mailFrom;
          this.#receiveMail(
            Buffer.concat(chunks),
            from ? from.address : '',
            recipients,
            session.secure,
          ).then(
            () => done(),
            (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
          );
        });
      },
    });
    server.on('error', () => undefined);
    this.#smtp = server;
    return new Promise((resolve, reject) => {
      server.server.once('error', reject);
      server.listen(port, this.#host, () => resolve());
    });
  }

  async #receiveMail(raw: Buffer, from: string, to: string[], secure: boolean): Promise<void> {
    const mail = await PostalMime.parse(raw);
    this.#keep({
      kind: 'email',
      channel: to.join(', '),
      subject: mail.subject ?? '(no subject)',
      verdict: { result: 'unchecked', reason: 'a mail to a local mail server is not signed' },
      email: {
        from: mail.from?.address ?? from,
        to,
        headers: Object.fromEntries(mail.headers.map(({ key, value }) => [key, value])),
        text: mail.text ?? '',
        html: mail.html ?? '',
        secure,
      },
    });
  }
}

function portOf(server: { address(): AddressInfo | string | null } | undefined): number {
  const address = server?.address();
  if (typeof address !== 'object' || address === null) throw new Error('the inbox is not open');
  return address.port;
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(`${JSON.stringify(body, null, 2)}\n`);
}

function plainHeaders(request: IncomingMessage): Record<string, string> {
  return Object.fromEntries(
    Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
  );
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bodyMaxBytes) throw new Error('the body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

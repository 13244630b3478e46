/**
 * Sends one mail through the installation's mail server and says what became of it, recipient by
 * recipient. The Message-ID is the delivery's, so that a mail which had to be sent again (the
 * connection broke after the data) can be recognised as the same.
 */
import { createTransport, type Transporter } from 'nodemailer';
import type { SendOutcome, UndeliveredRecipient } from './send-outcome.ts';

export interface MailServer {
  host: string;
  port: number;
  /** TLS from the first byte. */
  secure: boolean;
  /** STARTTLS or nothing is sent. */
  requireTls: boolean;
  ignoreTls: boolean;
  auth: { user: string; pass: string } | undefined;
}

export interface EmailDelivery {
  /** The delivery's public id, the same in every attempt. */
  id: string;
  to: readonly string[];
  subject: string;
  text: string;
  html: string;
  signal?: AbortSignal;
}

export interface EmailSenderOptions {
  server: MailServer;
  from: { name: string; address: string };
  timeoutMs: number;
  answerKeepBytes: number;
  connections: number;
  /** PEM roots for a mail server with a private certificate authority. */
  roots?: string[];
}

/**
 * Reads `KEYSTEAD_SMTP_URL`: `smtps://user:password@host:465` is TLS from the first byte,
 * `smtp://user:password@host:587` demands STARTTLS. `?tls=off` allows plain text, as a mail
 * server on this machine needs, and is the default on a loopback address.
 * @throws TypeError that never shows the password
 */
export function parseMailServer(text: string): MailServer {
  const wrong = (why: string) => new TypeError(`KEYSTEAD_SMTP_URL ${why}`);
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw wrong('is not a URL such as smtps://user:password@mail.example.com');
  }
  const secure = url.protocol === 'smtps:';
  if (!secure && url.protocol !== 'smtp:') throw wrong('must start with smtps:// or smtp://');
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (host === '') throw wrong('names no host');
  if (!['', '/'].includes(url.pathname) || url.hash !== '') throw wrong('has a path or a fragment');
  const unknown = [...url.searchParams.keys()].find((key) => key !== 'tls');
  if (unknown !== undefined) throw wrong(`has an unknown setting "${unknown}"`);
  const setting = url.searchParams.get('tls');
  if (setting !== null && setting !== 'required' && setting !== 'off') {
    throw wrong('must have tls=required or tls=off');
  }
  if (secure && setting === 'off') throw wrong('contradicts itself: smtps with tls=off');
  const loopback = /^(localhost|127\.\d+\.\d+\.\d+|::1)$/.test(host);
  const plain = !secure && (setting ?? (loopback ? 'off' : 'required')) === 'off';
  const user = decodeURIComponent(url.username);
  if (user !== '' && plain && !loopback) {
    throw wrong('would send the password in plain text: use smtps:// or tls=required');
  }
  return {
    host,
    port: url.port === '' ? (secure ? 465 : loopback ? 25 : 587) : Number(url.port),
    secure,
    requireTls: !secure && !plain,
    ignoreTls: plain,
    auth: user === '' ? undefined : { user, pass: decodeURIComponent(url.password) },
  };
}

interface MailError extends Error {
  code?: string;
  command?: string;
  response?: string;
  responseCode?: number;
  recipient?: string;
  rejectedErrors?: MailError[];
}

export class EmailSender {
  readonly #options: EmailSenderOptions;
  readonly #transporter: Transporter;
  readonly #domain: string;

  constructor(options: EmailSenderOptions) {
    const { server, timeoutMs, roots } = options;
    this.#options = options;
    this.#domain = options.from.address.split('@').at(-1) ?? 'localhost';
    this.#transporter = createTransport({
      pool: true,
      host: server.host,
      port: server.port,
      secure: server.secure,
      requireTLS: server.requireTls,
      ignoreTLS: server.ignoreTls,
      ...(server.auth && { auth: server.auth }),
      tls: { minVersion: 'TLSv1.2', rejectUnauthorized: true, ...(roots && { ca: roots }) },
      maxConnections: options.connections,
      // A mail whose connection broke may have been taken: whether to send it again is decided
      // by the caller, who records it, not behind its back.
      maxRequeues: 0,
      dnsTimeout: timeoutMs,
      connectionTimeout: timeoutMs,
      greetingTimeout: timeoutMs,
      socketTimeout: timeoutMs,
      disableFileAccess: true,
      disableUrlAccess: true,
    });
    // A pool reports what its idle connections suffer; each mail has its own answer.
    this.#transporter.on('error', () => undefined);
  }

  async send(delivery: EmailDelivery): Promise<SendOutcome> {
    const startedMs = performance.now();
    const ended = new AbortController();
    const end = () => ended.abort();
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      end();
    }, this.#options.timeoutMs);
    delivery.signal?.addEventListener('abort', end, { once: true });
    if (delivery.signal?.aborted) end();
    try {
      const info = (await this.#transporter.sendMail({
        ...this.#message(delivery),
        signal: ended.signal,
      })) as { response?: string; rejectedErrors?: MailError[] };
      const undelivered = (info.rejectedErrors ?? []).map((error) => this.#undelivered(error));
      const answer = this.#clip(info.response ?? '');
      const status = Number(answer.slice(0, 3));
      return {
        result: 'delivered',
        durationMs: performance.now() - startedMs,
        answer,
        ...(Number.isInteger(status) && status > 0 && { status }),
        ...(undelivered.length > 0 && { undelivered }),
      };
    } catch (error) {
      const durationMs = performance.now() - startedMs;
      if (late || delivery.signal?.aborted) {
        const detail = late
          ? `the mail server did not finish within ${this.#options.timeoutMs / 1_000} s`
          : 'the attempt was ended by a shutdown';
        const reason = late ? 'timeout' : 'stopped';
        return { result: 'temporary', reason, detail, blame: 'installation', durationMs };
      }
      return { ...this.#failure(error as MailError), durationMs };
    } finally {
      clearTimeout(timer);
      delivery.signal?.removeEventListener('abort', end);
    }
  }

  close(): void {
    this.#transporter.close();
  }

  #message(delivery: EmailDelivery) {
    const { from } = this.#options;
    for (const address of delivery.to) {
      if (!isPlainAddress(address)) throw notAnAddress(address);
    }
    return {
      // The envelope is given apart, so that no header is ever parsed for recipients.
      envelope: { from: from.address, to: [...delivery.to] },
      from: { name: oneLine(from.name), address: from.address },
      to: delivery.to.map((address) => ({ name: '', address })),
      subject: oneLine(delivery.subject),
      text: delivery.text,
      html: delivery.html,
      messageId: `<${delivery.id.replace(/[^A-Za-z0-9_-]/g, '')}@${this.#domain}>`,
      headers: { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' },
    };
  }

  #failure(
    error: MailError,
  ): Omit<Extract<SendOutcome, { result: 'temporary' | 'permanent' }>, 'durationMs'> {
    const status = error.responseCode;
    const seen = {
      ...(status !== undefined && { status }),
      ...(error.response && { answer: this.#clip(error.response) }),
    };
    if (error.code === 'EADDRESS') {
      return {
        result: 'permanent',
        reason: 'bad_address',
        detail: error.message,
        blame: 'receiver',
      };
    }
    const command = error.command ?? '';
    // Only what is said about recipients and about the mail itself is the receiver's word.
    // A refused sign-in or sender is for the installer to mend: it is tried again.
    const receivers = status !== undefined && /^(RCPT TO|DATA)/.test(command);
    if (!receivers) {
      return {
        result: 'temporary',
        reason: reasonOf(error),
        detail: `the mail server could not be used (${error.code ?? 'unknown'}${status ? ` ${status}` : ''})`,
        blame: 'installation',
        ...seen,
      };
    }
    const refusals = error.rejectedErrors ?? [];
    const permanent =
      refusals.length > 0 ? refusals.every((one) => isPermanent(one)) : isPermanent(error);
    return {
      result: permanent ? 'permanent' : 'temporary',
      reason: 'refused',
      detail: `the mail server refused the ${command.startsWith('RCPT') ? 'recipient' : 'mail'} (${status})`,
      blame: 'receiver',
      ...seen,
    };
  }

  #undelivered(error: MailError): UndeliveredRecipient {
    return {
      address: error.recipient ?? '',
      ...(error.responseCode !== undefined && { status: error.responseCode }),
      answer: this.#clip(error.response ?? error.message),
      permanent: isPermanent(error),
    };
  }

  #clip(text: string): string {
    return text.replace(/[^\P{Cc}\n]/gu, ' ').slice(0, this.#options.answerKeepBytes);
  }
}

function isPermanent({ responseCode = 0 }: MailError): boolean {
  return responseCode >= 500 && responseCode !== 503;
}

function reasonOf({ code }: MailError): string {
  switch (code) {
    case 'EAUTH':
    case 'ENOAUTH':
      return 'sign_in';
    case 'ETLS':
      return 'tls';
    case 'ETIMEDOUT':
      return 'timeout';
    case 'EDNS':
      return 'not_resolved';
    case 'ESOCKET':
      return 'not_connected';
    case 'EENVELOPE':
      return 'sender_refused';
    default:
      return 'disconnected';
  }
}

/**
 * The plain form that contracts admit: no quoted local part, no comment, no route, nothing that
 * a header or a mail server could read as more than one address.
 */
function isPlainAddress(address: string): boolean {
  return (
    address.length <= 254 &&
    /^[^\s"(),:;<>@[\\\]\p{Cc}]{1,64}@[^\s"(),:;<>@[\\\]\p{Cc}]{1,253}$/u.test(address)
  );
}

function notAnAddress(address: string): MailError {
  const error: MailError = new Error(`"${oneLine(address).slice(0, 100)}" is not a mail address`);
  error.code = 'EADDRESS';
  return error;
}

/** What becomes part of a header is one line, whatever it held. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
}

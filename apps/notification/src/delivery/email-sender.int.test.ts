import type { AddressInfo } from 'node:net';
import PostalMime from 'postal-mime';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { EmailSender, parseMailServer } from './email-sender.ts';
import { rawReceiver, type TestAuthority, testAuthority } from './receivers.fixture.ts';

const id = 'dlv_01h455vb4pex5vsknk084sn02q';
const timeoutMs = 800;
let authority: TestAuthority;
let certificate: { cert: string; key: string };
beforeAll(async () => {
  authority = await testAuthority();
  certificate = await authority.issue([{ type: 'dns', value: 'localhost' }]);
});

interface Mail {
  from: string;
  to: string[];
  raw: string;
  secure: boolean;
  user: string | undefined;
}

/** An error as smtp-server turns it into an answer. */
const refusal = (responseCode: number, text: string) =>
  Object.assign(new Error(text), { responseCode });

async function mailServer(options: SMTPServerOptions = {}) {
  const mails: Mail[] = [];
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    logger: false,
    closeTimeout: 1,
    onData(stream, session, done) {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope;
        mails.push({
          from: mailFrom ? mailFrom.address : '',
          to: rcptTo.map(({ address }) => address),
          raw: Buffer.concat(chunks).toString(),
          secure: session.secure,
          user: session.user as string | undefined,
        });
        done(null);
      });
    },
    ...options,
  });
  server.on('error', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  onTestFinished(() => new Promise<void>((resolve) => server.close(() => resolve())));
  return { mails, port: (server.server.address() as AddressInfo).port };
}

function sender(url: string, changes: { roots?: string[] } = {}) {
  const made = new EmailSender({
    server: parseMailServer(url),
    from: { name: 'Keystead', address: 'alerts@keystead.example' },
    timeoutMs,
    answerKeepBytes: 1_024,
    connections: 3,
    ...changes,
  });
  onTestFinished(() => made.close());
  return made;
}

const mail = {
  id,
  to: ['ops@acme.example'],
  subject: 'payments is offline',
  text: 'Silent since 06:24 UTC',
  html: '<p>Silent since 06:24 UTC</p>',
};

describe('a mail', () => {
  it('arrives with text, HTML, and an id that is the same in every attempt', async () => {
    const { mails, port } = await mailServer();
    const from = sender(`smtp://127.0.0.1:${port}`);
    for (const _attempt of [1, 2]) {
      expect(await from.send(mail)).toMatchObject({ result: 'delivered', status: 250 });
    }
    expect(mails).toHaveLength(2);
    for (const { raw, to, from: envelopeFrom } of mails) {
      const parsed = await PostalMime.parse(raw);
      expect(parsed.subject).toBe('payments is offline');
      expect(parsed.text?.trim()).toBe('Silent since 06:24 UTC');
      expect(parsed.html?.trim()).toBe('<p>Silent since 06:24 UTC</p>');
      expect(parsed.messageId).toBe(`<${id}@keystead.example>`);
      expect(parsed.headers.find(({ key }) => key === 'auto-submitted')?.value).toBe(
        'auto-generated',
      );
      expect(parsed.from).toMatchObject({ name: 'Keystead', address: 'alerts@keystead.example' });
      expect([envelopeFrom, to]).toEqual(['alerts@keystead.example', ['ops@acme.example']]);
    }
  });

  it('keeps Unicode in subject and body', async () => {
    const { mails, port } = await mailServer();
    const subject = 'Tresor „Süd“ 🗝 \u2068خزنة\u2069 is offline';
    await sender(`smtp://127.0.0.1:${port}`).send({ ...mail, subject, text: subject });
    const parsed = await PostalMime.parse(mails[0]?.raw ?? '');
    expect(parsed.subject).toBe(subject);
    expect(parsed.text?.trim()).toBe(subject);
  });

  it('takes no header, recipient or command from what a tenant wrote', async () => {
    const { mails, port } = await mailServer();
    const from = sender(`smtp://127.0.0.1:${port}`);
    for (const naughty of [
      'x\r\nBcc: evil@evil.example',
      'x\nX-Evil: 1\n\nbody',
      'x\r\n.\r\nMAIL FROM:<evil@evil.example>',
      'x\u2028Bcc: evil@evil.example',
      'x\u0000\u000b\u0085Bcc: evil@evil.example',
    ]) {
      const sent = await from.send({ ...mail, subject: naughty, text: naughty, html: naughty });
      expect(sent.result).toBe('delivered');
      const last = mails.at(-1);
      const parsed = await PostalMime.parse(last?.raw ?? '');
      expect(last?.to).toEqual(['ops@acme.example']);
      expect(parsed.bcc ?? []).toEqual([]);
      expect(parsed.headers.map(({ key }) => key)).not.toContain('x-evil');
      expect(parsed.subject).not.toMatch(/[\r\n]/);
    }
    const count = mails.length;
    for (const address of [
      'ops@acme.example\r\nRCPT TO:<evil@evil.example>',
      'ops@acme.example, evil@evil.example',
      '"evil@evil.example> x"@acme.example',
      'ops@acme.example>',
      'Ops <ops@acme.example>',
      '@evil.example:ops@acme.example',
      'group: ops@acme.example;',
      '',
    ]) {
      const sent = await from.send({ ...mail, to: [address] });
      expect([address, sent]).toMatchObject([
        address,
        { result: 'permanent', reason: 'bad_address' },
      ]);
    }
    expect(mails).toHaveLength(count);
  });

  it('reads no file and fetches no URL, whatever it says', async () => {
    const { mails, port } = await mailServer();
    const html = '<img src="file:///etc/passwd"><link href="http://127.0.0.1:1/x">';
    const sent = await sender(`smtp://127.0.0.1:${port}`).send({ ...mail, html });
    expect(sent.result).toBe('delivered');
    expect(mails[0]?.raw).not.toContain('root:');
  });
});

describe('the mail server', () => {
  it('is used with TLS and a password, verified by name', async () => {
    const options: SMTPServerOptions = {
      ...certificate,
      secure: true,
      authOptional: false,
      onAuth: ({ username, password }, _session, done) =>
        username === 'keystead' && password === 'p@ss:w/rd'
          ? done(null, { user: username })
          : done(refusal(535, 'no')),
    };
    const { mails, port } = await mailServer(options);
    const url = `smtps://keystead:${encodeURIComponent('p@ss:w/rd')}@localhost:${port}`;
    const sent = await sender(url, { roots: [authority.rootPem] }).send(mail);
    expect(sent).toMatchObject({ result: 'delivered' });
    expect(mails[0]).toMatchObject({ secure: true, user: 'keystead' });
    const stranger = await sender(url).send(mail);
    expect(stranger).toMatchObject({ result: 'temporary', blame: 'installation' });
    const wrong = await sender(`smtps://keystead:no@localhost:${port}`, {
      roots: [authority.rootPem],
    }).send(mail);
    expect(wrong).toMatchObject({
      result: 'temporary',
      reason: 'sign_in',
      blame: 'installation',
      status: 535,
    });
    expect(mails).toHaveLength(1);
  });

  it('is used by STARTTLS where TLS is required, and not at all without it', async () => {
    const { mails, port } = await mailServer({ ...certificate, disabledCommands: [] });
    const url = (at: number) => `smtp://localhost:${at}?tls=required`;
    const sent = await sender(url(port), { roots: [authority.rootPem] }).send(mail);
    expect(sent.result).toBe('delivered');
    expect(mails[0]?.secure).toBe(true);
    const plain = await mailServer();
    const refused = await sender(url(plain.port), { roots: [authority.rootPem] }).send(mail);
    expect(refused).toMatchObject({ result: 'temporary', blame: 'installation' });
    expect(plain.mails).toEqual([]);
  });

  it.each([
    [450, 'temporary'],
    [451, 'temporary'],
    [550, 'permanent'],
    [553, 'permanent'],
  ] as const)('that refuses the recipient with %i is believed: %s', async (code, result) => {
    const { port } = await mailServer({
      onRcptTo: (_address, _session, done) => done(refusal(code, 'mailbox')),
    });
    const sent = await sender(`smtp://127.0.0.1:${port}`).send(mail);
    expect(sent).toMatchObject({ result, status: code, blame: 'receiver', reason: 'refused' });
    expect(sent.answer).toContain('mailbox');
  });

  it.each([
    [452, 'temporary'],
    [554, 'permanent'],
  ] as const)('that refuses the data with %i is believed: %s', async (code, result) => {
    const { port } = await mailServer({
      onData: (stream, _session, done) => {
        stream.resume();
        stream.on('end', () => done(refusal(code, 'no')));
      },
    });
    const sent = await sender(`smtp://127.0.0.1:${port}`).send(mail);
    expect(sent).toMatchObject({ result, status: code, blame: 'receiver' });
  });

  it('that refuses the sender is for the installer to mend: tried again', async () => {
    const { port } = await mailServer({
      onMailFrom: (_address, _session, done) => done(refusal(550, 'who?')),
    });
    expect(await sender(`smtp://127.0.0.1:${port}`).send(mail)).toMatchObject({
      result: 'temporary',
      blame: 'installation',
      status: 550,
    });
  });

  it('that takes the mail for some recipients only is reported one by one', async () => {
    const { mails, port } = await mailServer({
      onRcptTo: ({ address }, _session, done) => {
        if (address.startsWith('gone')) return done(refusal(550, 'unknown'));
        if (address.startsWith('full')) return done(refusal(452, 'full'));
        return done();
      },
    });
    const to = ['ops@acme.example', 'gone@acme.example', 'full@acme.example'];
    const sent = await sender(`smtp://127.0.0.1:${port}`).send({ ...mail, to });
    expect(sent).toMatchObject({
      result: 'delivered',
      undelivered: [
        { address: 'gone@acme.example', status: 550, permanent: true },
        { address: 'full@acme.example', status: 452, permanent: false },
      ],
    });
    expect(mails[0]?.to).toEqual(['ops@acme.example']);
  });

  const hostile: [string, Parameters<typeof rawReceiver>][] = [
    ['is not there', [(socket) => socket.resetAndDestroy(), 'connect']],
    ['hangs before its greeting', [() => undefined, 'connect']],
    [
      'drips its greeting',
      [
        (socket) => {
          const timer = setInterval(() => socket.write('220-x\r\n'), 20);
          socket.on('close', () => clearInterval(timer));
        },
        'connect',
      ],
    ],
    ['speaks HTTP', [(socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'), 'connect']],
    ['closes after its greeting', [(socket) => socket.end('220 hello\r\n'), 'connect']],
    ['greets with 554', [(socket) => socket.end('554 go away\r\n'), 'connect']],
  ];
  it.each(hostile)(
    'that %s is the failure of the installation, within the timeout',
    async (_what, args) => {
      const server = await rawReceiver(...args);
      const startedMs = performance.now();
      const sent = await sender(`smtp://127.0.0.1:${server.port}`).send(mail);
      expect(performance.now() - startedMs).toBeLessThan(timeoutMs + 2_000);
      expect(sent).toMatchObject({ result: 'temporary', blame: 'installation' });
    },
  );

  it('that breaks off within the data gets the mail once per attempt, not behind our back', async () => {
    let datas = 0;
    const server = await rawReceiver((socket) => {
      let inData = false;
      socket.write('220 mail ready\r\n');
      socket.on('data', (bytes) => {
        if (inData) return void socket.end();
        for (const line of bytes.toString().split('\r\n').filter(Boolean)) {
          inData = line === 'DATA';
          if (inData) datas += 1;
          socket.write(inData ? '354 go on\r\n' : '250 yes\r\n');
        }
      });
    }, 'connect');
    const sent = await sender(`smtp://127.0.0.1:${server.port}`).send(mail);
    expect(sent).toMatchObject({ result: 'temporary', blame: 'installation' });
    expect(datas).toBe(1);
    expect(server.connections()).toBe(1);
  });

  it('that hangs after the data is left within the timeout, and the next mail goes its way', async () => {
    let first = true;
    const { port, mails } = await mailServer({
      onData: (stream, _session, done) => {
        stream.resume();
        stream.on('end', () => {
          if (!first) done(null);
          first = false;
        });
      },
    });
    const from = sender(`smtp://127.0.0.1:${port}`);
    expect(await from.send(mail)).toMatchObject({ result: 'temporary', reason: 'timeout' });
    expect(await from.send(mail)).toMatchObject({ result: 'delivered' });
    expect(mails).toEqual([]);
  });

  it('does not hold up a shutdown', async () => {
    const server = await rawReceiver(() => undefined, 'connect');
    const stop = new AbortController();
    const sent = sender(`smtp://127.0.0.1:${server.port}`).send({ ...mail, signal: stop.signal });
    await expect.poll(() => server.connections()).toBe(1);
    stop.abort();
    expect(await sent).toMatchObject({ result: 'temporary', reason: 'stopped' });
  });
});

describe('KEYSTEAD_SMTP_URL', () => {
  it('demands TLS everywhere but on this machine', () => {
    expect(parseMailServer('smtp://mail.example')).toMatchObject({
      port: 587,
      secure: false,
      requireTls: true,
      ignoreTls: false,
      auth: undefined,
    });
    expect(parseMailServer('smtps://u:p@mail.example')).toMatchObject({
      port: 465,
      secure: true,
      auth: { user: 'u', pass: 'p' },
    });
    expect(parseMailServer('smtp://127.0.0.1:1025')).toMatchObject({
      port: 1025,
      requireTls: false,
      ignoreTls: true,
    });
    expect(parseMailServer('smtp://[::1]:25')).toMatchObject({ host: '::1', ignoreTls: true });
    expect(parseMailServer('smtp://relay.inside:25?tls=off')).toMatchObject({ ignoreTls: true });
  });

  it('that cannot be read stops the start without showing the password', () => {
    for (const text of [
      '',
      'mail.example',
      'http://u:geheim@mail.example',
      'smtp://u:geheim@mail.example/path',
      'smtp://u:geheim@mail.example?tls=maybe',
      'smtp://u:geheim@mail.example?verify=no',
      'smtps://u:geheim@mail.example?tls=off',
      'smtp://u:geheim@mail.example?tls=off',
    ]) {
      expect(() => parseMailServer(text)).toThrow(/^KEYSTEAD_SMTP_URL (?!.*geheim)/);
    }
  });
});

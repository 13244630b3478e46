import { createTransport } from 'nodemailer';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Inbox } from './inbox.ts';

const secret = `whsec_${Buffer.from('a secret of the receiver, 32 long').toString('base64')}`;
const otherSecret = `whsec_${Buffer.from('another secret of that receiver..').toString('base64')}`;

let inbox: Inbox;
beforeAll(async () => {
  inbox = await Inbox.start({ capacity: 20, hint: 'Stop an agent and wait.' });
});
afterAll(() => inbox.stop());

function send(name: string, body: string, headers: Record<string, string>): Promise<Response> {
  return fetch(inbox.webhookUrl(name), { method: 'POST', body, headers });
}

function signed(body: string, id: string, by: string): Record<string, string> {
  const at = new Date();
  return {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
    'webhook-signature': new Webhook(by).sign(id, at, body),
  };
}

describe('webhooks', () => {
  test('a signature is judged over the exact bytes, with each secret of the receiver', async () => {
    inbox.expectSignature('rotating', secret, otherSecret);
    const body = '{"type":"vault.offline","data":{"n": 1}}';
    expect((await send('rotating', body, signed(body, 'msg_1', secret))).status).toBe(204);
    expect((await send('rotating', body, signed(body, 'msg_2', otherSecret))).status).toBe(204);
    const changed = body.replace('"n": 1', '"n": 2');
    expect((await send('rotating', changed, signed(body, 'msg_3', secret))).status).toBe(401);
    const verdicts = inbox.messages
      .filter(({ channel }) => channel === 'rotating')
      .map(({ subject, verdict }) => `${subject} ${verdict.result}`);
    expect(verdicts).toEqual([
      'vault.offline valid',
      'vault.offline valid',
      'vault.offline invalid',
    ]);
  });

  test('without a known secret a webhook is shown as unchecked, with it as checked', async () => {
    const body = '{"type":"vault.recovered"}';
    await send('late', body, signed(body, 'msg_4', secret));
    await fetch(`${inbox.webhookUrl('late')}/secret`, {
      method: 'PUT',
      body: JSON.stringify({ secret }),
    });
    await send('late', body, signed(body, 'msg_5', secret));
    const verdicts = inbox.messages
      .filter(({ channel }) => channel === 'late')
      .map(({ verdict }) => verdict.result);
    expect(verdicts).toEqual(['unchecked', 'valid']);
  });

  test('a receiver told to misbehave does so until it is mended', async () => {
    inbox.behave('/webhooks/bad', { status: 503, headers: { 'retry-after': '7' }, body: 'later' });
    const refused = await send('bad', '{}', {});
    expect([refused.status, refused.headers.get('retry-after'), await refused.text()]).toEqual([
      503,
      '7',
      'later',
    ]);
    inbox.behave('/webhooks/bad', { hangUp: true });
    await expect(send('bad', '{}', {})).rejects.toThrow();
    inbox.behave('/webhooks/bad', undefined);
    expect((await send('bad', '{}', {})).status).toBe(204);
  });
});

describe('Slack', () => {
  const post = (name: string, body: string) =>
    fetch(inbox.slackUrl(name), { method: 'POST', body });

  test('a message with blocks is taken as Slack takes it', async () => {
    const payload = {
      text: 'Vault payments is offline',
      blocks: [
        { type: 'header', text: { type: 'plain_text', text: 'Vault payments is offline' } },
        { type: 'section', text: { type: 'mrkdwn', text: '*Silent since* 10:00' } },
      ],
    };
    const answer = await post('ops', JSON.stringify(payload));
    expect([answer.status, await answer.text()]).toEqual([200, 'ok']);
    expect(inbox.messages.at(-1)).toMatchObject({
      kind: 'slack',
      channel: 'ops',
      subject: 'Vault payments is offline',
    });
  });

  test.each([
    ['no JSON', 'hello'],
    ['neither text nor blocks', '{}'],
    ['an unknown block', '{"blocks":[{"type":"marquee"}]}'],
    ['an empty section', '{"blocks":[{"type":"section"}]}'],
    ['a header of mrkdwn', '{"blocks":[{"type":"header","text":{"type":"mrkdwn","text":"a"}}]}'],
  ])('a message Slack would refuse is refused: %s', async (_what, body) => {
    const answer = await post('ops', body);
    expect([answer.status, await answer.text()]).toEqual([400, 'invalid_payload']);
  });
});

describe('mail', () => {
  const transport = () => createTransport({ url: inbox.smtpUrl, ignoreTLS: true });

  test('a mail arrives with both its forms and its envelope', async () => {
    await transport().sendMail({
      from: 'keystead@example.com',
      to: 'owner@example.com',
      subject: 'Vault payments is offline',
      text: 'Silent since 10:00.',
      html: '<p>Silent since <b>10:00</b>.</p>',
    });
    const mail = await inbox.waitFor(({ kind }) => kind === 'email', 2_000);
    expect(mail).toMatchObject({
      channel: 'owner@example.com',
      subject: 'Vault payments is offline',
      email: { from: 'keystead@example.com' },
    });
    expect(mail.email?.text).toContain('Silent since 10:00.');
    const shown = await fetch(`${inbox.url}/messages/${mail.id}/mail.html`);
    expect(await shown.text()).toContain('<b>10:00</b>');
    expect(shown.headers.get('content-security-policy')).toContain('sandbox');
  });

  test('a mail server told to refuse does so', async () => {
    inbox.refuseMail({ code: 550, text: 'no such mailbox' });
    await expect(
      transport().sendMail({ from: 'a@example.com', to: 'b@example.com', text: 'x' }),
    ).rejects.toThrow(/no such mailbox/);
    inbox.refuseMail(undefined);
  });
});

describe('the page', () => {
  test('what arrived is shown as text, never as markup of the page', async () => {
    await send('<i>', '{"type":"<script>alert(1)</script>"}', {});
    const html = await (await fetch(inbox.url)).text();
    expect(html).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(html).not.toContain('<script>alert(1)');
  });

  test('a page that is open is told about what arrives, and again after a lost connection', async () => {
    const before = inbox.messages.at(-1)?.id ?? 0;
    await send('first', '{"type":"one"}', {});
    const stopping = new AbortController();
    const stream = await fetch(`${inbox.url}/stream`, {
      headers: { 'last-event-id': String(before) },
      signal: stopping.signal,
    });
    await send('second', '{"type":"two"}', {});
    let text = '';
    for await (const chunk of stream.body ?? []) {
      text += Buffer.from(chunk).toString();
      if (text.includes('two')) break;
    }
    stopping.abort();
    expect(text).toContain('one');
  });

  test('only the newest messages are remembered', async () => {
    for (let n = 0; n < 25; n++) await send('many', `{"type":"number ${n}"}`, {});
    const { items } = (await (await fetch(`${inbox.url}/messages.json`)).json()) as {
      items: { subject: string }[];
    };
    expect(items).toHaveLength(20);
    expect(items.at(-1)?.subject).toBe('number 24');
  });

  test('an empty inbox says what to do', async () => {
    await fetch(`${inbox.url}/messages.json`, { method: 'DELETE' });
    expect(await (await fetch(inbox.url)).text()).toContain('Stop an agent and wait.');
  });
});

import { createHash } from 'node:crypto';
import type { InboxMessage } from './message.ts';
import { slackMessageAsText } from './slack-message.ts';

const names = { email: 'Mail', slack: 'Slack', webhook: 'Webhook' } as const;

const style = `
:root {
  color-scheme: light dark;
  --paper: light-dark(#f6f7f9, #11141a);
  --card: light-dark(#ffffff, #1a1f28);
  --line: light-dark(#dfe3ea, #2b3240);
  --ink: light-dark(#18202c, #e6eaf1);
  --soft: light-dark(#5c6879, #94a0b3);
  --accent: light-dark(#2456d6, #86a8ff);
  --good: light-dark(#0d7a3f, #5cd08d);
  --good-paper: light-dark(#e2f5ea, #143524);
  --bad: light-dark(#b3261e, #ff9b94);
  --bad-paper: light-dark(#fde7e5, #43191a);
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: baseline; }
h1 { font-size: 1.5rem; margin: 0; letter-spacing: -.01em; }
#live { color: var(--soft); font-size: .85rem; margin-left: auto; }
#live::before { content: "●"; margin-right: .4em; color: var(--soft); }
#live.on::before { color: var(--good); }
fieldset { border: 0; padding: 0; margin: 1.25rem 0 .75rem; display: flex; gap: .4rem; flex-wrap: wrap; }
fieldset label { cursor: pointer; }
fieldset input { position: absolute; opacity: 0; }
fieldset span {
  display: inline-block; padding: .2rem .8rem; border: 1px solid var(--line);
  border-radius: 99px; background: var(--card); color: var(--soft); font-size: .9rem;
}
fieldset input:checked + span { border-color: var(--accent); color: var(--accent); font-weight: 600; }
fieldset input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
details {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: .5rem 0;
}
details[open] { box-shadow: 0 6px 24px rgb(0 0 0 / .08); }
summary {
  display: grid; grid-template-columns: 5.2rem 5.6rem 1fr auto; gap: .75rem; align-items: center;
  padding: .7rem 1rem; cursor: pointer; list-style: none; border-radius: 10px;
}
summary::-webkit-details-marker { display: none; }
summary:focus-visible { outline: 2px solid var(--accent); }
time { color: var(--soft); font-variant-numeric: tabular-nums; font-size: .9rem; }
.kind { font-size: .8rem; font-weight: 600; text-align: center; padding: .1rem .5rem; border-radius: 6px; }
.kind.email { background: light-dark(#e5ecff, #1d2c55); color: light-dark(#2043a5, #a9c0ff); }
.kind.slack { background: light-dark(#f6e7fb, #3a1d45); color: light-dark(#77208f, #e2a5f5); }
.kind.webhook { background: light-dark(#fff0d6, #40300f); color: light-dark(#7d5200, #ffcf7d); }
.subject { font-weight: 600; overflow-wrap: anywhere; }
.channel { display: block; font-weight: 400; color: var(--soft); font-size: .85rem; }
.verdict { font-size: .8rem; padding: .1rem .6rem; border-radius: 99px; white-space: nowrap; }
.verdict.valid { background: var(--good-paper); color: var(--good); }
.verdict.invalid { background: var(--bad-paper); color: var(--bad); }
.verdict.unchecked { border: 1px solid var(--line); color: var(--soft); }
.body { border-top: 1px solid var(--line); padding: 1rem; }
.body h2 { font-size: .8rem; color: var(--soft); margin: 1rem 0 .3rem; font-weight: 600; }
.body h2:first-child { margin-top: 0; }
pre {
  margin: 0; padding: .8rem; background: var(--paper); border-radius: 8px; overflow: auto;
  max-height: 26rem; font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
iframe { width: 100%; height: 24rem; border: 1px solid var(--line); border-radius: 8px; background: #fff; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
#empty { text-align: center; color: var(--soft); padding: 4rem 1rem; white-space: pre-line; }
#empty strong { display: block; color: var(--ink); font-size: 1.1rem; }
#list:has(details) ~ #empty { display: none; }
body:has(#show-email:checked) details:not([data-kind="email"]),
body:has(#show-slack:checked) details:not([data-kind="slack"]),
body:has(#show-webhook:checked) details:not([data-kind="webhook"]) { display: none; }
@media (max-width: 40rem) {
  summary { grid-template-columns: auto 1fr auto; }
  .kind { justify-self: start; } .subject { grid-column: 1 / -1; grid-row: 2; }
}
`;

const script = `
const list = document.getElementById('list');
const live = document.getElementById('live');
const localTime = (element) => {
  element.textContent = new Date(element.dateTime).toLocaleTimeString();
};
list.querySelectorAll('time').forEach(localTime);
const stream = new EventSource('/stream');
stream.onopen = () => { live.textContent = 'live'; live.className = 'on'; };
stream.onerror = () => { live.textContent = 'not connected'; live.className = ''; };
stream.addEventListener('message', (event) => {
  const { id, html } = JSON.parse(event.data);
  if (document.getElementById('message-' + id)) return;
  list.insertAdjacentHTML('afterbegin', html);
  localTime(list.querySelector('time'));
  document.title = '(' + list.children.length + ') Keystead inbox';
});
`;

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** The whole page, newest message first. */
export function page(
  messages: readonly InboxMessage[],
  hint: string,
): { html: string; contentSecurityPolicy: string } {
  const filters = ['all', 'email', 'slack', 'webhook'] as const;
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Keystead inbox</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<main>
<header><h1>Keystead inbox</h1><span id="live">connecting</span></header>
<fieldset aria-label="Show">
${filters
  .map(
    (filter) =>
      `<label><input type="radio" name="show" id="show-${filter}"${filter === 'all' ? ' checked' : ''}><span>${filter === 'all' ? 'Everything' : names[filter]}</span></label>`,
  )
  .join('\n')}
</fieldset>
<div id="list">${[...messages].reverse().map(messageRow).join('')}</div>
<p id="empty"><strong>Nothing has arrived yet</strong>${escapeHtml(hint)}</p>
</main>
<script>${script}</script>
</body>
</html>
`;
  const contentSecurityPolicy = [
    "default-src 'none'",
    `style-src ${hashOf(style)}`,
    `script-src ${hashOf(script)}`,
    "connect-src 'self'",
    "frame-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  return { html, contentSecurityPolicy };
}

/** One message: a line, and what is behind it. */
export function messageRow(message: InboxMessage): string {
  const { id, kind, channel, subject, receivedAt, verdict } = message;
  const badge =
    kind === 'email'
      ? ''
      : `<span class="verdict ${verdict.result}" title="${escapeHtml(verdict.reason)}">${escapeHtml(verdictWords(message))}</span>`;
  return `<details id="message-${id}" data-kind="${kind}">
<summary>
<time datetime="${receivedAt}">${receivedAt.slice(11, 19)}</time>
<span class="kind ${kind}">${names[kind]}</span>
<span class="subject">${escapeHtml(subject)}<span class="channel">${escapeHtml(channel)}</span></span>
${badge}
</summary>
<div class="body">${body(message)}</div>
</details>`;
}

function verdictWords({ kind, verdict }: InboxMessage): string {
  if (kind === 'slack') return verdict.result === 'valid' ? 'well formed' : 'refused';
  if (verdict.result === 'valid') return 'signature valid';
  return verdict.result === 'invalid' ? 'signature invalid' : 'not checked';
}

function body({ id, email, slack, webhook, verdict, receivedAt }: InboxMessage): string {
  if (email !== undefined) {
    return [
      facts({ From: email.from, To: email.to.join(', '), Received: receivedAt }),
      email.html
        ? `<h2>HTML</h2><iframe sandbox loading="lazy" src="/messages/${id}/mail.html" title="The mail as HTML"></iframe>`
        : '',
      `<h2>Text</h2><pre>${escapeHtml(email.text)}</pre>`,
    ].join('');
  }
  if (webhook !== undefined) {
    const shown = [
      'content-type',
      'user-agent',
      'webhook-id',
      'webhook-timestamp',
      'webhook-signature',
    ];
    const headers = Object.fromEntries(
      shown.flatMap((name) => (webhook.headers[name] ? [[name, webhook.headers[name]]] : [])),
    );
    return [
      facts({ Signature: verdict.reason, Answered: String(webhook.status), ...headers }),
      `<h2>Body</h2><pre>${escapeHtml(prettyJson(webhook.body))}</pre>`,
    ].join('');
  }
  return [
    facts({ Format: verdict.reason, Received: receivedAt }),
    `<h2>Message</h2><pre>${escapeHtml(slackMessageAsText(slack))}</pre>`,
    `<h2>Payload</h2><pre>${escapeHtml(JSON.stringify(slack, null, 2))}</pre>`,
  ].join('');
}

function facts(entries: Record<string, string>): string {
  const rows = Object.entries(entries).map(
    ([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`,
  );
  return `<dl>${rows.join('')}</dl>`;
}

function prettyJson(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character);
}

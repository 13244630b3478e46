/**
 * The pages that links in mails and alerts lead to. Opening one changes nothing, since programs
 * open the links of mails too: a button does. Everything the pages need comes from here.
 */
import type { FastifyInstance } from 'fastify';

const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

function page(title: string, content: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${title} · Keystead</title>
<link rel="stylesheet" href="/pages/page.css">
</head>
<body>
<main>
<h1>${title}</h1>
${content}
</main>
</body>
</html>
`;
}

const act = (fields: string, button: string, done: string) => `<form data-done="${done}">
${fields}<button type="submit">${button}</button>
</form>
<p role="status" aria-live="polite"></p>
<noscript><p>This page needs JavaScript to send your answer.</p></noscript>
<script src="/pages/act.js"></script>`;

const confirmation = page(
  'Confirm this address',
  `<p>An organization wants to send alerts of its vaults to your address. Nothing is sent until you confirm.</p>
${act('', 'Confirm this address', 'Confirmed. Alerts may be sent to this address.')}`,
);

const invitation = page(
  'Accept the invitation',
  `<p>Choose a password of at least ten characters. If you have an account already, give the password of that.</p>
${act(
  '<label>Password <input name="password" type="password" autocomplete="new-password" required minlength="10" maxlength="256"></label>\n',
  'Accept the invitation',
  'Accepted. You can sign in now.',
)}`,
);

/** What an alert is about, as the API shows it. */
const shown = page(
  'Keystead',
  `<p>You followed a link to something this control plane looks after. The API shows it:</p>
<pre id="command">curl -H "Authorization: Bearer $TOKEN" /v1/me</pre>
<p>Sign in with <code>POST /v1/sessions</code>, or use an API key. <a href="/docs">Every operation is described here.</a></p>
<script src="/pages/show.js"></script>`,
);

// The token leaves the address bar at once: it works once, and belongs to no history.
const actScript = `const parameters = new URLSearchParams(location.hash.slice(1) || location.search);
const token = parameters.get('token') ?? '';
history.replaceState(null, '', location.pathname);
const form = document.querySelector('form');
const status = document.querySelector('[role=status]');
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = form.querySelector('button');
  button.disabled = true;
  status.textContent = 'One moment.';
  try {
    const answer = await fetch(location.pathname, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token, ...Object.fromEntries(new FormData(form)) }),
    });
    if (answer.ok) {
      form.remove();
      status.textContent = form.dataset.done;
      return;
    }
    const problem = await answer.json();
    status.textContent = problem.detail ?? problem.title;
  } catch {
    status.textContent = 'That did not get through. Please try again.';
  }
  button.disabled = false;
});
`;

const showScript = `const path = location.pathname === '/' ? '/me' : location.pathname;
document.getElementById('command').textContent =
  'curl -H "Authorization: Bearer $TOKEN" ' + location.origin + '/v1' + path;
`;

const style = `:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; }
main { max-width: 36rem; margin: 4rem auto; padding: 0 1rem; }
label { display: block; margin-bottom: 1rem; }
input, button { font: inherit; padding: 0.4rem 0.8rem; }
pre { overflow-x: auto; padding: 0.8rem; border: 1px solid; }
`;

export function servePages(server: FastifyInstance): void {
  const serve = (path: string, type: string, content: string) => {
    server.get(path, async (_request, reply) => {
      reply.headers({
        'content-type': `${type}; charset=utf-8`,
        'content-security-policy': contentSecurityPolicy,
        'cache-control': 'no-cache',
      });
      return reply.send(content);
    });
  };
  serve('/v1/channels/confirm', 'text/html', confirmation);
  serve('/v1/invitations/accept', 'text/html', invitation);
  for (const path of ['/', '/alerts', '/vaults/:id', '/channels', '/channels/:id']) {
    serve(path, 'text/html', shown);
  }
  serve('/pages/page.css', 'text/css', style);
  serve('/pages/act.js', 'text/javascript', actScript);
  serve('/pages/show.js', 'text/javascript', showScript);
}

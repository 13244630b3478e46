/** Gives a message the form of its channel. Pure; everything a tenant wrote is escaped here. */
import { isAlerts, type Message } from './message.ts';
import type { SlackMessage } from './slack-sender.ts';
import { type Card, type WordingOptions, wordMessage } from './wording.ts';

export interface RenderOptions {
  publicUrl: string;
}

export interface RenderedEmail {
  subject: string;
  text: string;
  html: string;
}

const emailEntriesMax = 50;
const slackEntriesMax = 30;
const subjectMax = 150;
const webhookAlertsMax = 500;
const webhookAgentsMax = 2_000;

/** Slack's own limits: characters of a section's text, blocks of a message. */
export const slackSectionMax = 3_000;
export const slackBlocksMax = 50;

export function renderEmail(message: Message, options: RenderOptions): RenderedEmail {
  const card = wordMessage(message, { ...options, entriesMax: emailEntriesMax });
  return {
    subject: clipLine(card.subject, subjectMax),
    text: emailText(card),
    html: emailHtml(card),
  };
}

function emailText(card: Card): string {
  const entries = card.entries.map(({ title, lines }) =>
    [`* ${title}`, ...lines.map((line) => `    ${line}`)].join('\n'),
  );
  return [
    card.headline,
    card.lead,
    ...entries,
    card.more,
    card.advice,
    card.action ? `${card.action.label}:\n${card.action.url}` : '',
    `-- \n${card.footer}`,
  ]
    .filter((part) => part !== '')
    .join('\n\n')
    .concat('\n');
}

const colours: Record<Card['tone'], string> = {
  critical: '#b42318',
  warning: '#b54708',
  good: '#067647',
  neutral: '#344054',
};

const font =
  "-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,Helvetica,Arial,sans-serif,'Apple Color Emoji','Segoe UI Emoji'";

/** Tables and inline styles: what mail programs from Outlook to Gmail draw alike. */
function emailHtml(card: Card): string {
  const colour = colours[card.tone];
  const paragraph = (html: string, style = '') =>
    `<p style="margin:0 0 16px;font-size:15px;line-height:22px;${style}">${html}</p>`;
  const entries = card.entries
    .map(
      ({ title, lines }) =>
        `<tr><td style="padding:12px 16px;border-top:1px solid #e4e7ec;font-size:14px;line-height:20px">` +
        `<strong><bdi>${escapeHtml(title)}</bdi></strong>` +
        lines.map((line) => `<br><span style="color:#475467">${escapeHtml(line)}</span>`).join('') +
        '</td></tr>',
    )
    .join('');
  const more = card.more
    ? `<tr><td style="padding:12px 16px;border-top:1px solid #e4e7ec;font-size:14px;color:#475467">${escapeHtml(card.more)}</td></tr>`
    : '';
  const list =
    entries || more
      ? `<table role="presentation" width="100%" cellpadding="0" cellspacing="0" style="margin:0 0 16px;border:1px solid #e4e7ec;border-top:0;border-collapse:separate;border-radius:6px">${entries}${more}</table>`
      : '';
  const action = card.action
    ? `<table role="presentation" cellpadding="0" cellspacing="0" style="margin:0 0 16px"><tr><td style="background:#175cd3;border-radius:6px"><a href="${escapeHtml(card.action.url)}" style="display:inline-block;padding:10px 18px;font-size:15px;font-weight:600;color:#ffffff;text-decoration:none">${escapeHtml(card.action.label)}</a></td></tr></table>`
    : '';
  return `<!DOCTYPE html>
<html lang="en" dir="ltr">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light">
<title>${escapeHtml(card.subject)}</title>
</head>
<body style="margin:0;padding:0;background:#f2f4f7;font-family:${font};color:#101828">
<div style="display:none;max-height:0;overflow:hidden">${escapeHtml(card.lead)}</div>
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" style="background:#f2f4f7"><tr><td align="center" style="padding:24px 12px">
<table role="presentation" width="600" cellpadding="0" cellspacing="0" style="width:100%;max-width:600px;background:#ffffff;border-radius:8px;border-top:4px solid ${colour}"><tr><td style="padding:24px">
<h1 style="margin:0 0 12px;font-size:20px;line-height:28px;color:${colour}">${escapeHtml(card.headline)}</h1>
${paragraph(escapeHtml(card.lead))}
${list}
${card.advice ? paragraph(escapeHtml(card.advice)) : ''}
${action}
${paragraph(escapeHtml(card.footer), 'margin:0;font-size:12px;line-height:18px;color:#667085')}
</td></tr></table>
</td></tr></table>
</body>
</html>
`;
}

export function renderSlack(message: Message, options: RenderOptions): SlackMessage {
  const card = wordMessage(message, { ...options, entriesMax: slackEntriesMax } as WordingOptions);
  const entries = card.entries.map(({ title, lines }) =>
    [`*${escapeSlack(title)}*`, ...lines.map(escapeSlack)].join('\n'),
  );
  const action =
    card.action && `<${encodeSlackUrl(card.action.url)}|${escapeSlack(card.action.label)}>`;
  const paragraphs = [
    `${symbols[card.tone]} *${escapeSlack(card.headline)}*\n${escapeSlack(card.lead)}`,
    ...entries,
    card.more && escapeSlack(card.more),
    card.advice && escapeSlack(card.advice),
    action,
  ].filter((part): part is string => Boolean(part));
  const blocks: object[] = packed(paragraphs, slackSectionMax)
    .slice(0, slackBlocksMax - 1)
    .map((text) => ({ type: 'section', text: { type: 'mrkdwn', verbatim: true, text } }));
  blocks.push({
    type: 'context',
    elements: [{ type: 'mrkdwn', verbatim: true, text: escapeSlack(card.footer) }],
  });
  return { text: escapeSlack(clipLine(card.subject, subjectMax)), blocks };
}

const symbols: Record<Card['tone'], string> = {
  critical: ':red_circle:',
  warning: ':large_orange_circle:',
  good: ':large_green_circle:',
  neutral: ':white_circle:',
};

/** Joins paragraphs into as few texts of at most `most` characters as their order allows. */
function packed(paragraphs: readonly string[], most: number): string[] {
  const texts: string[] = [];
  let current = '';
  for (const paragraph of paragraphs.map((text) => clipEscaped(text, most))) {
    const joined = current === '' ? paragraph : `${current}\n\n${paragraph}`;
    if (joined.length > most) {
      texts.push(current);
      current = paragraph;
    } else {
      current = joined;
    }
  }
  if (current !== '') texts.push(current);
  return texts;
}

/** The body of a webhook: the exact text that is signed and sent. */
export function renderWebhook(message: Message): string {
  if (!isAlerts(message)) {
    const { type, at, ...rest } = message;
    const { organization, ...data } = rest as { organization?: { id: string } };
    return JSON.stringify({
      type,
      timestamp: at,
      data: { ...(organization && { organizationId: organization.id }), ...data },
    });
  }
  const alerts = message.alerts.slice(0, webhookAlertsMax);
  const agentsMax = Math.max(1, Math.floor(webhookAgentsMax / Math.max(1, alerts.length)));
  return JSON.stringify({
    type: message.type,
    timestamp: message.at,
    data: {
      organizationId: message.organization.id,
      alerts: alerts.map((alert) => ({
        id: alert.id,
        kind: alert.kind,
        severity: alert.severity,
        vault: { id: alert.vault.id, name: alert.vault.name, tags: alert.vault.tags },
        agents: alert.agents.slice(0, agentsMax).map(({ id, name }) => ({ id, name })),
        agentCount: alert.agentCount,
        openedAt: alert.openedAt,
        silentSince: alert.silentSince,
        ...(alert.outageSeconds !== null && { outageSeconds: alert.outageSeconds }),
        flapping: alert.flapping,
        ...(alert.reasons.length > 0 && { reasons: alert.reasons }),
      })),
      /** How many alerts of the group are not in the list. */
      truncated: Math.max(0, message.alertCount - alerts.length),
    },
  });
}

export function escapeHtml(text: string): string {
  return text
    .toWellFormed()
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}

/** Slack's three control characters; with them, no mention, link or date can be made. */
export function escapeSlack(text: string): string {
  return text
    .toWellFormed()
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;');
}

function encodeSlackUrl(url: string): string {
  return escapeSlack(url).replaceAll('|', '%7C');
}

/** Cuts an escaped text, not inside an entity and not inside a surrogate pair. */
function clipEscaped(text: string, most: number): string {
  if (text.length <= most) return text;
  return `${text.slice(0, most - 1).replace(/&[a-z]{0,4}$|[\ud800-\udbff]$/, '')}…`;
}

function clipLine(text: string, most: number): string {
  const line = text.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
  return clipEscaped(line, most);
}

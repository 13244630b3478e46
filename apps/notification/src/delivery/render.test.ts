import { alertKinds } from '@keystead/contracts/monitoring';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AlertsMessage, AlertView, Message } from './message.ts';
import {
  escapeHtml,
  escapeSlack,
  renderEmail,
  renderSlack,
  renderWebhook,
  slackBlocksMax,
  slackSectionMax,
} from './render.ts';
import { humanDuration, shortTime, shownName } from './wording.ts';

const options = { publicUrl: 'https://keystead.example/' };
const at = '2026-11-21T06:28:40.000Z';
const organization = { id: 'org_01h455vb4pex5vsknk084sn02q', name: 'Acme' };

function alert(changes: Partial<AlertView> = {}): AlertView {
  return {
    id: 'alr_01h455vb4pex5vsknk084sn02q',
    kind: 'vault.offline',
    severity: 'critical',
    vault: { id: 'vlt_01h455vb4pex5vsknk084sn02q', name: 'payments', tags: ['env=production'] },
    agents: [{ id: 'agt_01h455vb4pex5vsknk084sn02q', name: 'web-1' }],
    agentCount: 1,
    openedAt: '2026-11-21T06:28:30.000Z',
    silentSince: '2026-11-21T06:24:10.000Z',
    outageSeconds: null,
    flapping: false,
    reasons: [],
    ...changes,
  };
}

function about(changes: Partial<AlertView> = {}): AlertsMessage {
  const one = alert(changes);
  return { type: one.kind, at, organization, alerts: [one], alertCount: 1 };
}

function many(count: number, listed = count): AlertsMessage {
  const alerts = Array.from({ length: listed }, (_, index) =>
    alert({ id: `alr_${index}`, vault: { id: `vlt_${index}`, name: `vault ${index}`, tags: [] } }),
  );
  return { type: 'vault.offline', at, organization, alerts, alertCount: count };
}

const channel = { id: 'chn_01h455vb4pex5vsknk084sn02q', name: 'Night shift' };
const notices = (text: string): Message[] => [
  {
    type: 'channel.test',
    at,
    organization: { ...organization, name: text },
    channel: { ...channel, name: text },
    requestedBy: text,
  },
  {
    type: 'channel.disabled',
    at,
    organization: { ...organization, name: text },
    channel: { ...channel, name: text },
    reason: 'failing',
    failingSince: '2026-11-16T06:28:40.000Z',
    lastAnswer: text,
  },
  {
    type: 'email.confirmation',
    at,
    organizationName: text,
    channelName: text,
    confirmUrl: 'https://keystead.example/v1/channels/confirm?token=abc',
  },
  {
    type: 'member.invitation',
    at,
    organizationName: text,
    invitedBy: text,
    role: text,
    acceptUrl: 'https://keystead.example/accept?token=abc',
  },
  {
    type: 'installation.deaf',
    at,
    gatewayId: text,
    startedAt: '2026-11-21T06:20:00.000Z',
    endedAt: null,
  },
];
const everything = (text: string): Message[] => [
  ...alertKinds.map((kind) =>
    about({
      kind,
      vault: { id: 'vlt_1', name: text, tags: [text] },
      agents: [{ id: 'agt_1', name: text }],
      outageSeconds: kind === 'vault.recovered' ? 725 : null,
    }),
  ),
  ...notices(text),
];

const naughty = [
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "'onmouseover='alert(1)",
  '&lt;b&gt; &amp; <b>',
  '<!channel> <@U123> <https://evil.example|click>',
  '<!--',
  ']]>',
  '{{7*7}} %s %n',
  'a\r\nBcc: evil@evil.example',
  'a\u0000b\u0007c',
  '\u202egnp.exe\u2066',
  'خزنة المدفوعات',
  'כספת',
  '👩‍👩‍👧‍👦🏳️‍🌈🗝️',
  'Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘',
  '\ud800 lone',
  ' ',
  '',
  '*bold* _it_ `code` ~x~',
  'x'.repeat(5_000),
  '&'.repeat(5_000),
  '🗝'.repeat(2_000),
];

/** What is left of our HTML when the tags we write are taken away. */
function withoutOurTags(html: string): string {
  return html.replace(
    /<\/?(?:!DOCTYPE html|html|head|meta|title|body|div|table|tr|td|p|h1|strong|bdi|br|span|a)(?: [a-z-]+="[^"<>]*")*>/g,
    '',
  );
}

describe('every message', () => {
  it.each(naughty)('is safe and well-formed with the name %j', (text) => {
    for (const message of everything(text)) {
      const email = renderEmail(message, options);
      expect(email.subject).not.toMatch(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066\u2067]/u);
      expect(email.subject.length).toBeLessThanOrEqual(150);
      expect(email.subject.isWellFormed()).toBe(true);
      expect(email.html.isWellFormed() && email.text.isWellFormed()).toBe(true);
      expect(withoutOurTags(email.html)).not.toMatch(/[<>]/);
      expect(email.html).not.toMatch(/<[^>]*\son[a-z]+=/);
      expect(email.html).not.toMatch(/(?!\n)[\p{Cc}\u202a-\u202e]/u);

      const slack = renderSlack(message, options);
      const texts = JSON.stringify(slack).match(/<[^>]*>/g) ?? [];
      for (const link of texts) expect(link).toMatch(/^<https:\/\/keystead\.example\//);
      expect(slack.text).not.toContain('<');
      checkSlackLimits(slack);

      const webhook = JSON.parse(renderWebhook(message));
      expect(webhook).toMatchObject({ type: message.type, timestamp: at });
    }
  });

  it('is safe for any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        for (const message of everything(text)) {
          expect(withoutOurTags(renderEmail(message, options).html)).not.toMatch(/[<>]/);
          checkSlackLimits(renderSlack(message, options));
        }
      }),
      { numRuns: 50 },
    );
  });

  it('links to the public URL alone', () => {
    for (const message of everything('payments')) {
      const links = renderEmail(message, options).html.match(/href="[^"]*"/g) ?? [];
      for (const href of links) expect(href).toMatch(/^href="https:\/\/keystead\.example\/[a-z]/);
    }
  });
});

function checkSlackLimits(slack: { text: string; blocks: readonly object[] }) {
  expect(slack.blocks.length).toBeLessThanOrEqual(slackBlocksMax);
  for (const block of slack.blocks as { text?: { text: string } }[]) {
    const text = block.text?.text ?? 'context';
    expect(text.length).toBeGreaterThan(0);
    expect(text.length).toBeLessThanOrEqual(slackSectionMax);
    expect(text).not.toMatch(/&(?!(?:amp|lt|gt);)/);
  }
}

describe('a message about one vault', () => {
  const subject = (changes: Partial<AlertView>) => renderEmail(about(changes), options).subject;

  it('says what happened, to what, since when and for how long', () => {
    expect(subject({})).toBe('payments is offline: silent since 06:24 UTC (4 min 30 s)');
    expect(subject({ silentSince: '2026-11-20T06:24:10.000Z' })).toBe(
      'payments is offline: silent since 20 Nov 06:24 UTC (1 day)',
    );
    expect(subject({ kind: 'vault.degraded', severity: 'warning', agentCount: 2 })).toBe(
      'payments is degraded: 2 agents silent since 06:24 UTC',
    );
    expect(subject({ kind: 'vault.recovered', outageSeconds: 725 })).toBe(
      'payments is back after 12 min 5 s',
    );
    expect(subject({ kind: 'vault.stopped' })).toBe('payments was stopped at 06:28 UTC');
    expect(subject({ kind: 'agent.duplicated' })).toBe('Agent web-1 of payments runs twice');
    expect(subject({ kind: 'agent.audit_blocked' })).toBe('payments cannot write its audit');
  });

  it('says what an agent reported, in words', () => {
    const { text } = renderEmail(
      about({ kind: 'agent.security', silentSince: null, reasons: ['guessing', 'new_network'] }),
      options,
    );
    expect(text).toContain(
      'web-1 reported it at 2026-11-21 06:28:30 UTC: somebody is guessing credentials; an identity came from a network that it never used.',
    );
  });

  it('names the agents, the times in UTC, what to look at, and links to the vault', () => {
    const { text, html } = renderEmail(about(), options);
    for (const part of [
      'Agent: web-1',
      'Silent since 2026-11-21 06:24:10 UTC (4 min 30 s)',
      'Tags: env=production',
      'Look at:',
      'https://keystead.example/vaults/vlt_01h455vb4pex5vsknk084sn02q',
      'Sent by Keystead for Acme.',
    ]) {
      expect(text).toContain(part);
      expect(html).toContain(part);
    }
    expect(JSON.stringify(renderSlack(about(), options))).toContain(
      '<https://keystead.example/vaults/vlt_01h455vb4pex5vsknk084sn02q|Open the vault>',
    );
  });

  it('names the agents and the length of a recovery', () => {
    const { text } = renderEmail(about({ kind: 'vault.recovered', outageSeconds: 725 }), options);
    expect(text).toContain('Agent: web-1');
    expect(text).toContain('Away for 12 min 5 s');
  });

  it('counts the agents it does not name', () => {
    const agents = Array.from({ length: 50 }, (_, index) => ({
      id: `a${index}`,
      name: `web-${index}`,
    }));
    const { text } = renderEmail(about({ agents, agentCount: 120 }), options);
    expect(text).toContain('Agents: web-0, web-1, web-2, web-3, web-4 and 115 more');
  });
});

describe('one message for 200 vaults', () => {
  it('counts them all, lists the first and counts the rest', () => {
    const email = renderEmail(many(200), options);
    expect(email.subject).toBe('200 vaults are offline, the first since 06:24 UTC');
    expect(email.text).toContain('* vault 49\n');
    expect(email.text).not.toContain('* vault 50\n');
    expect(email.text).toContain('and 150 more vaults');
    const slack = renderSlack(many(200), options);
    checkSlackLimits(slack);
    expect(slack.text).toBe(email.subject);
    expect(JSON.stringify(slack)).toContain('and 170 more vaults');
  });

  it('carries them all as JSON, and up to 500 of more, with the count of the rest', () => {
    expect(JSON.parse(renderWebhook(many(200))).data).toMatchObject({ truncated: 0 });
    expect(JSON.parse(renderWebhook(many(200))).data.alerts).toHaveLength(200);
    const large = JSON.parse(renderWebhook(many(1_234, 600)));
    expect(large.data.alerts).toHaveLength(500);
    expect(large.data.truncated).toBe(734);
  });

  it('stays within half a megabyte as JSON however many agents there are', () => {
    const agents = Array.from({ length: 50 }, (_, index) => ({
      id: `agt_01h455vb4pex5vsknk084sn0${index}`,
      name: 'n'.repeat(120),
    }));
    const message = many(500);
    const full = {
      ...message,
      alerts: message.alerts.map((one) => ({ ...one, agents, agentCount: 50 })),
    };
    expect(renderWebhook(full).length).toBeLessThan(600_000);
  });
});

describe('the body of a webhook', () => {
  it('has the documented shape', () => {
    expect(
      JSON.parse(renderWebhook(about({ kind: 'vault.recovered', outageSeconds: 725 }))),
    ).toEqual({
      type: 'vault.recovered',
      timestamp: at,
      data: {
        organizationId: organization.id,
        alerts: [
          {
            id: 'alr_01h455vb4pex5vsknk084sn02q',
            kind: 'vault.recovered',
            severity: 'critical',
            vault: {
              id: 'vlt_01h455vb4pex5vsknk084sn02q',
              name: 'payments',
              tags: ['env=production'],
            },
            agents: [{ id: 'agt_01h455vb4pex5vsknk084sn02q', name: 'web-1' }],
            agentCount: 1,
            openedAt: '2026-11-21T06:28:30.000Z',
            silentSince: '2026-11-21T06:24:10.000Z',
            outageSeconds: 725,
            flapping: false,
          },
        ],
        truncated: 0,
      },
    });
    expect(JSON.parse(renderWebhook(notices('x')[0] as Message))).toEqual({
      type: 'channel.test',
      timestamp: at,
      data: {
        organizationId: organization.id,
        channel: { id: channel.id, name: 'x' },
        requestedBy: 'x',
      },
    });
  });
});

describe('escaping', () => {
  it('leaves nothing with which text could leave its place', () => {
    expect(escapeHtml(`<a href="x" id='y'>&`)).toBe(
      '&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;',
    );
    expect(escapeSlack('<!here> & <@U1>')).toBe('&lt;!here&gt; &amp; &lt;@U1&gt;');
  });
});

describe('words', () => {
  it.each([
    [0, '0 s'],
    [0.4, '0 s'],
    [-5, '0 s'],
    [59, '59 s'],
    [60, '1 min'],
    [270, '4 min 30 s'],
    [3_600, '1 h'],
    [7_500, '2 h 5 min'],
    [86_400, '1 day'],
    [273_600, '3 days 4 h'],
    [86_400 * 400, '400 days'],
  ])('say %d seconds as "%s"', (seconds, words) => {
    expect(humanDuration(seconds)).toBe(words);
  });

  it('say the day only where it is another', () => {
    expect(shortTime('2026-11-21T00:00:00Z', at)).toBe('00:00 UTC');
    expect(shortTime('2026-11-20T23:59:59Z', at)).toBe('20 Nov 23:59 UTC');
    expect(shortTime('2026-11-21T01:30:00+03:00', at)).toBe('20 Nov 22:30 UTC');
  });

  it('isolate right-to-left names and cut between characters as people see them', () => {
    expect(shownName('خزنة')).toBe('\u2068خزنة\u2069');
    expect(shownName('👩‍👩‍👧‍👦'.repeat(20))).toMatch(/^(👩‍👩‍👧‍👦)+…$/u);
    expect(shownName('\u202e\u0007')).toBe('(no name)');
  });
});

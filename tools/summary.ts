/** What people read once everything runs. */
import { join, relative } from 'node:path';
import { type Demo, offlineAfterSeconds } from './demo.ts';
import type { Installation } from './installation.ts';
import { bold, cyan, dim, green, root, seconds } from './terminal.ts';

export function summary(
  installation: Installation,
  demo: Demo | undefined,
  startedAt: number,
): string {
  const { apiUrl, inboxUrl, agentEndpoint } = installation;
  const lines = [
    '',
    `${green(bold('Keystead is ready'))} after ${seconds(startedAt)}. Ctrl-C stops everything; the data is kept.`,
    '',
    ...table([
      ['API', cyan(apiUrl), ''],
      ['Docs', cyan(`${apiUrl}/docs`), ''],
      ['Inbox', cyan(inboxUrl), 'mail, Slack messages and webhooks arrive here'],
      ['Agents dial', agentEndpoint, ''],
      ['Logs', relative(root, join(installation.stateDir, 'logs')), ''],
    ]),
    '',
  ];
  return [
    ...lines,
    ...(demo === undefined ? withoutDemo(apiUrl) : withDemo(demo, apiUrl, inboxUrl)),
  ].join('\n');
}

function withDemo(demo: Demo, apiUrl: string, inboxUrl: string): string[] {
  const { owner } = demo.main;
  const [first] = demo.agents;
  return [
    bold('Sign in'),
    ...table([
      [demo.main.name, owner.email, owner.password, 'three vaults, one agent each'],
      [demo.other.name, demo.other.owner.email, demo.other.owner.password, 'sees none of them'],
    ]),
    '',
    ...commands([
      `TOKEN=$(${signInCommand(apiUrl, owner)})`,
      `curl -s ${apiUrl}/v1/agents -H "authorization: Bearer $TOKEN"`,
    ]),
    '',
    bold('Stop an agent'),
    ...table(
      demo.agents.map(({ name, process }) => [
        name,
        `kill -9 ${process.pid}`,
        process === first?.process ? dim('goes silent, as a machine that lost its power') : '',
      ]),
    ),
    '',
    bold('What to expect'),
    `  After ${offlineAfterSeconds} s of silence its vault is offline; about 10 s later, the time in which alerts are`,
    `  gathered into one message, a mail, a Slack message and a signed webhook are in the`,
    `  inbox: ${cyan(inboxUrl)}`,
    `  A plain kill (without -9) lets the agent say goodbye: that is vault.stopped, told sooner.`,
    '',
  ];
}

function withoutDemo(apiUrl: string): string[] {
  const organization = {
    name: 'My organization',
    owner: { name: 'Me', email: 'me@example.com', password: 'choose-a-long-one' },
  };
  return [
    bold('Sign up and in'),
    ...commands([
      `curl -s ${apiUrl}/v1/organizations -H 'content-type: application/json' -d '${JSON.stringify(organization)}'`,
      `TOKEN=$(${signInCommand(apiUrl, organization.owner)})`,
      `curl -s ${apiUrl}/v1/me -H "authorization: Bearer $TOKEN"`,
    ]),
    '',
  ];
}

function signInCommand(apiUrl: string, owner: { email: string; password: string }): string {
  const body = JSON.stringify({ email: owner.email, password: owner.password });
  return (
    `curl -s ${apiUrl}/v1/sessions -H 'content-type: application/json' -d '${body}'` +
    ` | sed 's/.*"accessToken":"\\([^"]*\\)".*/\\1/'`
  );
}

const commands = (lines: string[]) => lines.map((line) => `  ${line}`);

/** Columns that line up, colour or not. */
function table(rows: string[][]): string[] {
  const widths = rows.reduce<number[]>(
    (widest, row) => row.map((cell, column) => Math.max(widest[column] ?? 0, visibleLength(cell))),
    [],
  );
  return rows.map((row) => {
    const cells = row.map(
      (cell, column) => cell + ' '.repeat((widths[column] ?? 0) - visibleLength(cell)),
    );
    return `  ${cells.join('   ')}`.trimEnd();
  });
}

function visibleLength(text: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colour is made of control characters
  return text.replace(/\u001b\[\d+m/g, '').length;
}

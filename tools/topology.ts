/**
 * Who asks whom, who wakes whom, who owes whom, and who touches which table: read out of
 * libs/contracts and the sources of the apps, printed into docs/topology.md.
 *
 *   npm run topology               writes the file
 *   node tools/topology.ts --check fails when the file is not what the sources say, or when a
 *                                  declared subject has no handler, a nudge no listener, a table a
 *                                  writer that does not own it
 */
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as agentLink from '@keystead/contracts/agent-link';
import * as analytics from '@keystead/contracts/analytics';
import * as approvals from '@keystead/contracts/approvals';
import * as auth from '@keystead/contracts/auth';
import * as monitoring from '@keystead/contracts/monitoring';
import * as notification from '@keystead/contracts/notification';
import { nudges } from '@keystead/contracts/nudges';
import {
  type InternalCall,
  type Operation,
  type ServiceName,
  services,
} from '@keystead/contracts/operation';
import { operations } from '@keystead/contracts/operations';
import { outboxTopics } from '@keystead/contracts/outbox';
import * as policy from '@keystead/contracts/policy';
import * as policyReplays from '@keystead/contracts/policy-replays';
import * as registry from '@keystead/contracts/registry';

const root = join(import.meta.dirname, '..');
const page = join(root, 'docs', 'topology.md');

/** Which PostgreSQL schema a service owns. The gateway owns none. */
const schemaOf: Partial<Record<ServiceName, string>> = {
  auth: 'auth',
  'vault-registry': 'registry',
  monitoring: 'monitoring',
  policy: 'policy',
  analytics: 'analytics',
  notification: 'notification',
};

/**
 * Tables that a service writes although another owns them, with the reason. This list may only
 * shrink: a new entry wants a decision record.
 */
const foreignWrites: Record<string, string> = {};

export interface Table {
  schema: string;
  name: string;
  /** The property of the Prisma client. */
  property: string;
}

export interface Facts {
  /** What an app answers, by the name of the contract's export. */
  answers: Map<ServiceName, string[]>;
  mentions: Map<ServiceName, Set<string>>;
  nudgesSaid: Map<string, Set<ServiceName>>;
  nudgesHeard: Map<string, Set<ServiceName>>;
  topicsWritten: Map<string, Set<ServiceName>>;
  topicsTaken: Map<string, Set<ServiceName>>;
  /** `schema.table` → apps. */
  written: Map<string, Set<ServiceName>>;
  read: Map<string, Set<ServiceName>>;
  duties: { service: ServiceName; name: string; file: string }[];
  purposes: Map<string, Set<ServiceName>>;
}

function note<K>(map: Map<K, Set<ServiceName>>, key: K, service: ServiceName): void {
  const set = map.get(key) ?? new Set();
  set.add(service);
  map.set(key, set);
}

const all = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match);

/** Reads the facts out of source texts; keys are paths from the root of the repository. */
export function readFacts(sources: ReadonlyMap<string, string>, tables: readonly Table[]): Facts {
  const facts: Facts = {
    answers: new Map(services.map((service) => [service, []])),
    mentions: new Map(services.map((service) => [service, new Set()])),
    nudgesSaid: new Map(),
    nudgesHeard: new Map(),
    topicsWritten: new Map(),
    topicsTaken: new Map(),
    written: new Map(),
    read: new Map(),
    duties: [],
    purposes: new Map(),
  };
  const byProperty = new Map(tables.map((table) => [table.property, table]));
  const known = new Set(tables.map((table) => `${table.schema}.${table.name}`));
  for (const [file, source] of sources) {
    const service = services.find((name) => file.startsWith(`apps/${name}/`));
    if (!service) continue;
    const text = source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
    for (const [, name = ''] of all(text, /@Answers\(\s*(?:\w+\.)?(\w+)\s*,?\s*\)/g)) {
      facts.answers.get(service)?.push(name);
    }
    for (const [word] of all(text, /\b[a-z]\w+\b/g)) facts.mentions.get(service)?.add(word);
    for (const [, name = ''] of all(text, /\.nudge\(\s*'([\w-]+)'/g)) {
      note(facts.nudgesSaid, name, service);
    }
    for (const [, name = ''] of all(text, /@OnNudge\(\s*'([\w-]+)'/g)) {
      note(facts.nudgesHeard, name, service);
    }
    for (const [, name = ''] of all(text, /\benqueue(?:Many)?\(\s*[^;]*?'(\w+\.\w+)'/g)) {
      note(facts.topicsWritten, name, service);
    }
    for (const [, name = ''] of all(text, /\btake\(\s*\w+,\s*'(\w+\.\w+)'/g)) {
      note(facts.topicsTaken, name, service);
    }
    for (const [, name = ''] of all(text, /acrossTenants(?:<[^(]*>)?\(\s*'([\w-]+)'/g)) {
      note(facts.purposes, name, service);
    }
    for (const [, name = ''] of all(text, /\.every\(\{\s*name:\s*'([\w-]+)'/g)) {
      facts.duties.push({ service, name, file });
    }
    for (const [, property = '', verb = ''] of all(
      text,
      /\.(\w+)\s*\.(create|createMany|createManyAndReturn|update|updateMany|updateManyAndReturn|upsert|delete|deleteMany|findFirst|findFirstOrThrow|findUnique|findUniqueOrThrow|findMany|count|aggregate|groupBy)\(/g,
    )) {
      const table = byProperty.get(property);
      if (!table) continue;
      const writes = /^(create|update|upsert|delete)/.test(verb);
      note(writes ? facts.written : facts.read, `${table.schema}.${table.name}`, service);
    }
    for (const [, verb = '', name = ''] of all(
      text,
      /\b(insert\s+into|update|delete\s+from|from|join|using)\s+(?:only\s+)?"?(\w+"?\."?\w+)"?/gi,
    )) {
      const table = name.replaceAll('"', '');
      if (!known.has(table)) continue;
      const writes = /^(insert|update|delete)/i.test(verb);
      note(writes ? facts.written : facts.read, table, service);
    }
  }
  return facts;
}

/** The tables, out of the Prisma schema files. */
export function readTables(schemas: readonly string[]): Table[] {
  return schemas.flatMap((text) =>
    all(text, /^model (\w+) \{([\s\S]*?)^\}/gm).map(([, model = '', body = '']) => ({
      schema: /@@schema\("(\w+)"\)/.exec(body)?.[1] ?? 'public',
      name: /@@map\("(\w+)"\)/.exec(body)?.[1] ?? model,
      property: model.charAt(0).toLowerCase() + model.slice(1),
    })),
  );
}

export type Declared = Operation | InternalCall;

const isDeclared = (value: unknown): value is Declared =>
  typeof value === 'object' && value !== null && 'subject' in value && 'service' in value;

/** Every declared subject by the name under which the contract exports it. */
export function readDeclared(): Map<string, Declared> {
  const declared = new Map<string, Declared>();
  for (const contract of [
    auth,
    registry,
    monitoring,
    policy,
    approvals,
    policyReplays,
    analytics,
    notification,
    agentLink,
  ] as Record<string, unknown>[]) {
    for (const [name, value] of Object.entries(contract)) {
      if (!isDeclared(value)) continue;
      if (declared.has(name)) throw new Error(`two contracts export ${name}`);
      declared.set(name, value);
    }
  }
  return declared;
}

/** What does not fit together, each with the way to mend it. */
export function findComplaints(declared: ReadonlyMap<string, Declared>, facts: Facts): string[] {
  const complaints: string[] = [];
  for (const [name, { service, subject }] of declared) {
    const answering = services.flatMap((app) =>
      (facts.answers.get(app) ?? []).filter((answered) => answered === name).map(() => app),
    );
    if (answering.length === 0) {
      complaints.push(`${subject} has no handler: add @Answers(${name}) in apps/${service}`);
    } else if (answering.length > 1) {
      complaints.push(`${subject} is answered ${answering.length} times: ${answering.join(', ')}`);
    } else if (answering[0] !== service) {
      complaints.push(`${subject} belongs to ${service}, but ${answering[0]} answers it`);
    }
  }
  for (const [app, names] of facts.answers) {
    for (const name of names) {
      if (!declared.has(name))
        complaints.push(`apps/${app} answers ${name}, which no contract has`);
    }
  }
  for (const [name, call] of declared) {
    if ('method' in call) continue;
    for (const caller of call.callers) {
      if (!facts.mentions.get(caller)?.has(name)) {
        complaints.push(`${call.subject} names ${caller} as caller, which never asks it`);
      }
    }
  }
  for (const [name, nudge] of Object.entries(nudges)) {
    compare(complaints, `${nudge.subject} (said)`, nudge.publishers, facts.nudgesSaid.get(name));
    compare(complaints, `${nudge.subject} (heard)`, nudge.listeners, facts.nudgesHeard.get(name));
  }
  for (const topic of Object.keys(outboxTopics)) {
    if (!facts.topicsWritten.has(topic)) complaints.push(`nobody writes the outbox topic ${topic}`);
    const takers = facts.topicsTaken.get(topic)?.size ?? 0;
    if (takers !== 1) complaints.push(`${takers} services take the outbox topic ${topic}, not one`);
  }
  for (const [table, apps] of facts.written) {
    for (const app of apps) {
      const [schema] = table.split('.');
      // The outbox lies between services: its own section says who writes and takes.
      if (schema === schemaOf[app] || schema === 'messaging') continue;
      if (foreignWrites[`${app} ${table}`]) continue;
      complaints.push(`${app} writes ${table}, which it does not own: ask the owner instead`);
    }
  }
  return complaints;
}

function compare(
  complaints: string[],
  what: string,
  declared: readonly ServiceName[],
  found: ReadonlySet<ServiceName> = new Set(),
): void {
  for (const service of services) {
    if (declared.includes(service) && !found.has(service)) {
      complaints.push(`${what}: the contract names ${service}, whose sources do not`);
    }
    if (!declared.includes(service) && found.has(service)) {
      complaints.push(
        `${what}: ${service} does, but libs/contracts/src/nudges.ts does not name it`,
      );
    }
  }
}

const code = (text: string) => `\`${text}\``;
const list = (names: Iterable<string>) => [...names].sort().map(code).join(', ') || '–';

/** A table with its columns aligned, as the formatter wants it. */
function table(head: string[], rows: string[][]): string[] {
  const widths = head.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: string[], fill = ' ') =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0, fill)).join(' | ')} |`;
  return [
    line(head),
    line(
      head.map(() => ''),
      '-',
    ),
    ...rows.map((row) => line(row)),
  ];
}

export function render(
  declared: ReadonlyMap<string, Declared>,
  tables: readonly Table[],
  facts: Facts,
): string {
  const calls = [...declared.values()].filter((one): one is InternalCall => !('method' in one));
  const answering = services.filter((service) => operations.some((one) => one.service === service));
  const picture: string[] = [];
  for (const service of answering) {
    const count = operations.filter((one) => one.service === service).length;
    picture.push(`  gateway -->|${count} ${count === 1 ? 'operation' : 'operations'}| ${service}`);
  }
  const asked = Map.groupBy(
    calls.flatMap((call) => call.callers.map((caller) => ({ caller, call }))),
    ({ caller, call }) => `${caller} -->|%| ${call.service}`,
  );
  for (const [edge, group] of asked) {
    const names = group.map(({ call }) => call.subject.split('.').at(-1));
    picture.push(`  ${edge.replace('%', names.join('<br>'))}`);
  }
  for (const nudge of Object.values(nudges)) {
    for (const from of nudge.publishers) {
      for (const to of nudge.listeners) picture.push(`  ${from} -.->|${nudge.subject}| ${to}`);
    }
  }
  for (const topic of Object.keys(outboxTopics).sort()) {
    for (const from of facts.topicsWritten.get(topic) ?? []) {
      for (const to of facts.topicsTaken.get(topic) ?? []) {
        picture.push(`  ${from} ==>|${topic}| ${to}`);
      }
    }
  }

  const lines = [
    '# Topology',
    '',
    '<!-- Generated by `npm run topology` from libs/contracts and the sources of the apps. -->',
    '',
    'Who asks whom (solid), who wakes whom (dotted; a lost one costs a moment, never a fact), and who',
    'owes whom through the outbox (thick; a row, committed with the change). Agents and tenants never',
    'speak NATS: they reach the gateway alone.',
    '',
    '```mermaid',
    'flowchart LR',
    '  people([browser, CLI, SDK]) -->|HTTPS| gateway',
    '  agents([agents]) -->|mTLS gRPC| gateway',
    ...picture,
    '```',
    '',
    '## Operations',
    '',
    'Asked by the gateway for a caller; the subject is `<service>.<operation>`.',
  ];
  for (const service of answering) {
    lines.push('', `### ${service}`, '');
    lines.push(
      ...table(
        ['Operation', 'HTTP', 'Asks for'],
        operations
          .filter((one) => one.service === service)
          .toSorted((a, b) => (`${a.path} ${a.method}` < `${b.path} ${b.method}` ? -1 : 1))
          .map((one) => [code(one.id), code(`${one.method} ${one.path}`), code(one.permission)]),
      ),
    );
  }
  lines.push('', '## Calls between services', '');
  lines.push(
    ...table(
      ['Subject', 'Asked by', 'Answered by'],
      calls
        .toSorted((a, b) => (a.subject < b.subject ? -1 : 1))
        .map((call) => [code(call.subject), list(call.callers), code(call.service)]),
    ),
  );
  lines.push('', '## Nudges', '');
  lines.push(
    ...table(
      ['Subject', 'Said by', 'Heard by'],
      Object.values(nudges)
        .toSorted((a, b) => (a.subject < b.subject ? -1 : 1))
        .map((nudge) => [code(nudge.subject), list(nudge.publishers), list(nudge.listeners)]),
    ),
  );
  lines.push('', '## Outbox', '');
  lines.push(
    ...table(
      ['Topic', 'Written by', 'Taken by'],
      Object.keys(outboxTopics)
        .sort()
        .map((topic) => [
          code(topic),
          list(facts.topicsWritten.get(topic) ?? []),
          list(facts.topicsTaken.get(topic) ?? []),
        ]),
    ),
  );
  lines.push(
    '',
    '## Unattended duties',
    '',
    'Paced by BullMQ, by the process itself when Redis is away. Each is safe to run twice.',
    '',
  );
  lines.push(
    ...table(
      ['Duty', 'Service', 'File'],
      facts.duties
        .toSorted((a, b) => (a.name < b.name ? -1 : 1))
        .map((duty) => [code(duty.name), code(duty.service), code(duty.file)]),
    ),
  );
  lines.push(
    '',
    '## Looking across organizations',
    '',
    'Every other query sees the one organization of its transaction.',
    '',
  );
  lines.push(
    ...table(
      ['Purpose', 'Services'],
      [...facts.purposes]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([purpose, apps]) => [code(purpose), list(apps)]),
    ),
  );
  lines.push(
    '',
    '## Tables',
    '',
    'As the sources name them; what Prisma follows through a relation is not in the list. Audit rows,',
    'idempotency records and outbox rows are written by `libs/access` and `libs/database` for everybody.',
    '',
  );
  lines.push(
    ...table(
      ['Table', 'Written by', 'Read by'],
      tables
        .map(({ schema, name }) => `${schema}.${name}`)
        .sort()
        .map((name) => [
          code(name),
          list(facts.written.get(name) ?? []),
          list(facts.read.get(name) ?? []),
        ]),
    ),
  );
  return `${lines.join('\n')}\n`;
}

export function readTopology(): { text: string; complaints: string[] } {
  const read = (pattern: string) =>
    globSync(pattern, { cwd: root })
      .sort()
      .map((file): [string, string] => [file, readFileSync(join(root, file), 'utf8')]);
  const sources = read('apps/*/src/**/*.ts').filter(
    ([file]) => !/\.(test|fixture)\.ts$/.test(file),
  );
  const tables = readTables(read('prisma/schema/*.prisma').map(([, text]) => text));
  const declared = readDeclared();
  const facts = readFacts(new Map(sources), tables);
  return {
    text: render(declared, tables, facts),
    complaints: findComplaints(declared, facts),
  };
}

if (import.meta.main) {
  const { text, complaints } = readTopology();
  const before = existsSync(page) ? readFileSync(page, 'utf8') : '';
  if (process.argv.includes('--check')) {
    if (before !== text) complaints.unshift('docs/topology.md is stale: run npm run topology');
    if (complaints.length === 0) console.log('Topology: every subject is answered.');
    else process.exitCode = 1;
  } else {
    writeFileSync(page, text);
    console.log(`docs/topology.md: ${before === text ? 'unchanged' : 'written'}`);
  }
  if (complaints.length > 0) console.error(complaints.join('\n'));
}

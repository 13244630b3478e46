/** A policy document, written as Cedar: one policy for each rule. */
import { agentActions } from '@keystead/contracts/agent-api/actions';
import type { ObligationKind } from './obligations.ts';
import {
  type Condition,
  canonicalRange,
  type DocumentAction,
  type PolicyDocument,
  type PolicyRule,
} from './policy-document.ts';
import { namedPaths, principalTypes, weekdays } from './vocabulary.ts';

export interface WrittenPolicy {
  id: string;
  text: string;
  /** JSON pointer to the rule in its document. */
  path: string;
}

/** A text as Cedar's literal. */
export function literal(text: string): string {
  let written = '';
  for (const sign of text) {
    const code = sign.codePointAt(0) as number;
    if (sign === '"' || sign === '\\') written += `\\${sign}`;
    else if (code < 0x20 || code === 0x7f) written += `\\u{${code.toString(16)}}`;
    else written += sign;
  }
  return `"${written}"`;
}

/** A text with `*` for anything, as the right side of Cedar's `like`. */
const likeLiteral = (pattern: string) => literal(pattern);
/** A text that stands for itself in Cedar's `like`. */
const likeText = (text: string) => literal(text).slice(1, -1).replaceAll('*', '\\*');

/** A chain as a tree of equal depth: an evaluator's stack grows with the depth. */
function joined(parts: readonly string[], sign: '&&' | '||'): string {
  if (parts.length <= 4) return parts.join(` ${sign} `);
  const half = Math.ceil(parts.length / 2);
  return `(${joined(parts.slice(0, half), sign)}) ${sign} (${joined(parts.slice(half), sign)})`;
}
const all = (parts: readonly string[]) => joined(parts, '&&');
const any = (parts: readonly string[]) =>
  parts.length === 1 ? (parts[0] as string) : `(${joined(parts, '||')})`;

const entity = (type: string, id: string) => `${type}::${literal(id)}`;
const inNamespaces = '(resource is Namespace || resource is Secret)';

/** A selector of principals in the scope of a policy where it fits, else as a condition. */
function principalSelected(selector: string): { scope: string } | { condition: string } {
  const colon = selector.indexOf(':');
  const kind = selector.slice(0, colon);
  const id = selector.slice(colon + 1);
  if (kind === 'role') return { scope: `principal in ${entity('Role', id)}` };
  const type = principalTypes[kind as keyof typeof principalTypes];
  if (id === '*') return { scope: `principal is ${type}` };
  if (!id.includes('*')) return { scope: `principal == ${entity(type, id)}` };
  return { condition: `principal is ${type} && principal.name like ${likeLiteral(id)}` };
}

function resourceSelected(selector: string): { scope: string } | { condition: string } {
  const [kind, first = '', second = ''] = selector.split(':');
  if (kind === 'vault') {
    if (first === '*') return { scope: 'resource is Vault' };
    return first.includes('*')
      ? { condition: `resource is Vault && resource.name like ${likeLiteral(first)}` }
      : { scope: `resource == ${entity('Vault', first)}` };
  }
  if (kind === 'namespace') {
    if (first === '*') return { condition: inNamespaces };
    return first.includes('*')
      ? { condition: `${inNamespaces} && resource.namespace.name like ${likeLiteral(first)}` }
      : { scope: `resource in ${entity('Namespace', first)}` };
  }
  if (first === '*' && second === '*') return { scope: 'resource is Secret' };
  if (second === '*' && !first.includes('*')) {
    return { scope: `resource is Secret in ${entity('Namespace', first)}` };
  }
  if (!first.includes('*') && !second.includes('*')) {
    return { scope: `resource == ${entity('Secret', `${first}:${second}`)}` };
  }
  return {
    condition: all([
      'resource is Secret',
      ...(first === '*'
        ? []
        : [
            first.includes('*')
              ? `resource.namespace.name like ${likeLiteral(first)}`
              : `resource.namespace.name == ${literal(first)}`,
          ]),
      ...(second === '*'
        ? []
        : [
            second.includes('*')
              ? `resource.name like ${likeLiteral(second)}`
              : `resource.name == ${literal(second)}`,
          ]),
    ]),
  };
}

function scopeOf(
  variable: 'principal' | 'resource',
  selectors: readonly string[],
): { scope: string; condition?: string } {
  if (selectors.includes('*')) return { scope: variable };
  const selected = selectors.map(variable === 'principal' ? principalSelected : resourceSelected);
  const [only] = selected;
  if (selected.length === 1 && only && 'scope' in only) return only;
  return {
    scope: variable,
    condition: any(selected.map((one) => ('scope' in one ? one.scope : `(${one.condition})`))),
  };
}

function actionsOf(operations: readonly string[]): string {
  if (operations.includes('*')) return 'action';
  const named = agentActions.filter((action) =>
    operations.some((pattern) =>
      pattern.endsWith('.*') ? action.startsWith(pattern.slice(0, -1)) : pattern === action,
    ),
  );
  const written = named.map((action) => entity('Action', action));
  return written.length === 1 ? `action == ${written[0]}` : `action in [${written.join(', ')}]`;
}

/** What stands before an attribute may be read, and the attribute. */
function attribute(path: string): { guards: string[]; read: string } {
  const key = (prefix: string) => literal(path.slice(prefix.length));
  if (path.startsWith('principal.attributes.')) {
    const name = key('principal.attributes.');
    return { guards: [`principal.hasTag(${name})`], read: `principal.getTag(${name})` };
  }
  if (path.startsWith('resource.metadata.')) {
    const name = key('resource.metadata.');
    return { guards: [`resource.hasTag(${name})`], read: `resource.getTag(${name})` };
  }
  if (path.startsWith('namespace.metadata.')) {
    const name = key('namespace.metadata.');
    return {
      guards: [inNamespaces, `resource.namespace.hasTag(${name})`],
      read: `resource.namespace.getTag(${name})`,
    };
  }
  if (path.startsWith('headers.')) {
    const name = key('headers.');
    return { guards: [`context.headers has ${name}`], read: `context.headers[${name}]` };
  }
  if (path.startsWith('namespace.')) {
    const optional = path === 'namespace.owner';
    return {
      guards: [inNamespaces, ...(optional ? ['resource.namespace has owner'] : [])],
      read: `resource.${path}`,
    };
  }
  if (path.startsWith('vault.')) return { guards: [], read: `resource.${path}` };
  if (path === 'tls.version')
    return { guards: ['context.tls has version'], read: 'context.tls.version' };
  if (/^(?:principal|resource|context)\./.test(path)) return { guards: [], read: path };
  return { guards: [], read: `context.${path}` };
}

const value = (given: string | number | boolean | undefined) =>
  typeof given === 'string' ? literal(given) : String(given);

function attributeTest(condition: Extract<Condition, { type: 'ATTRIBUTE' }>): string {
  const { guards, read } = attribute(condition.attribute);
  const one = value(condition.value);
  const many = `[${(condition.values ?? []).map(value).join(', ')}]`;
  const raw = String(condition.value);
  const when = (test: string) => all([...guards, test]);
  const unless = (test: string) => `!(${all([...guards, test])})`;
  switch (condition.operator) {
    case 'equals':
      return when(`${read} == ${one}`);
    case 'not_equals':
      return unless(`${read} == ${one}`);
    case 'in':
      return when(`${many}.contains(${read})`);
    case 'not_in':
      return unless(`${many}.contains(${read})`);
    case 'starts_with':
      return when(`${read} like "${likeText(raw)}*"`);
    case 'ends_with':
      return when(`${read} like "*${likeText(raw)}"`);
    case 'like':
      return when(`${read} like ${likeLiteral(raw)}`);
    case 'contains':
      return when(`${read}.contains(${one})`);
    case 'not_contains':
      return unless(`${read}.contains(${one})`);
    case 'contains_any':
      return when(`${read}.containsAny(${many})`);
    case 'contains_all':
      return when(`${read}.containsAll(${many})`);
    case 'less_than':
      return when(`${read} < ${one}`);
    case 'less_or_equal':
      return when(`${read} <= ${one}`);
    case 'greater_than':
      return when(`${read} > ${one}`);
    case 'greater_or_equal':
      return when(`${read} >= ${one}`);
    case 'exists': {
      const type = namedPaths[condition.attribute as keyof typeof namedPaths];
      if (type === 'Set') return when(`!(${read}.isEmpty())`);
      return guards.length === 0 ? 'true' : all(guards);
    }
  }
}

const minutes = (time: string) => Number(time.slice(0, 2)) * 60 + Number(time.slice(3));
const instant = (time: string) => `datetime(${literal(new Date(time).toISOString())})`;

function timeTest(condition: Extract<Condition, { type: 'TIME' }>): string {
  const clock =
    condition.zone === undefined ? 'context.time' : `context.clock[${literal(condition.zone)}]`;
  const parts: string[] = [];
  if (condition.weekdays) {
    const days = condition.weekdays.map((day) => weekdays.indexOf(day) + 1);
    parts.push(`[${[...new Set(days)].sort().join(', ')}].contains(${clock}.weekday)`);
  }
  const from = condition.from === undefined ? undefined : minutes(condition.from);
  const until = condition.until === undefined ? undefined : minutes(condition.until);
  const since = from === undefined ? undefined : `${clock}.minuteOfDay >= ${from}`;
  const before = until === undefined ? undefined : `${clock}.minuteOfDay < ${until}`;
  if (from !== undefined && until !== undefined && from > until) {
    parts.push(`(${since} || ${before})`);
  } else {
    if (since !== undefined) parts.push(since);
    if (before !== undefined) parts.push(before);
  }
  if (condition.notBefore) parts.push(`context.time.now >= ${instant(condition.notBefore)}`);
  if (condition.notAfter) parts.push(`context.time.now < ${instant(condition.notAfter)}`);
  return all(parts);
}

function ipTest(condition: Extract<Condition, { type: 'IP' }>): string {
  const tests: string[] = [];
  if (condition.ranges) {
    const ranges = condition.ranges.map(
      (range) => `context.address.isInRange(ip(${literal(canonicalRange(range) ?? range)}))`,
    );
    tests.push(`(context has address && ${any(ranges)})`);
  }
  if (condition.networks) {
    tests.push(`context.networks.containsAny([${condition.networks.map(literal).join(', ')}])`);
  }
  return any(tests);
}

function requestTest(condition: Extract<Condition, { type: 'REQUEST' }>): string {
  const parts: string[] = [];
  if (condition.methods) {
    parts.push(
      `[${condition.methods.map(literal).join(', ')}].contains(context.authentication.method)`,
    );
  }
  if (condition.maxAuthenticationAgeSeconds !== undefined) {
    parts.push(`context.authentication.ageSeconds <= ${condition.maxAuthenticationAgeSeconds}`);
  }
  if (condition.tls !== undefined) parts.push(`context.tls.used == ${condition.tls}`);
  if (condition.clientCertificate !== undefined) {
    parts.push(`context.tls.clientCertificate == ${condition.clientCertificate}`);
  }
  if (condition.maxUseCount !== undefined) {
    parts.push(`context.useCount < ${condition.maxUseCount}`);
  }
  if (condition.header) {
    const name = literal(condition.header.name);
    parts.push(`context.headers has ${name}`);
    if (condition.header.equals !== undefined) {
      parts.push(`context.headers[${name}] == ${literal(condition.header.equals)}`);
    }
    if (condition.header.like !== undefined) {
      parts.push(`context.headers[${name}] like ${likeLiteral(condition.header.like)}`);
    }
  }
  return all(parts);
}

function test(condition: Condition): string {
  const written = (() => {
    switch (condition.type) {
      case 'TIME':
        return timeTest(condition);
      case 'IP':
        return ipTest(condition);
      case 'ATTRIBUTE':
        return attributeTest(condition);
      case 'REGEX':
        return `context.matches.contains(${literal(`${condition.attribute} ~ ${condition.pattern}`)})`;
      case 'REQUEST':
        return requestTest(condition);
    }
  })();
  return condition.negate ? `!(${written})` : written;
}

function annotation(action: DocumentAction): [ObligationKind, string] | undefined {
  const withMessage = (head: string, message: string) =>
    message === '' ? head : `${head}: ${message}`;
  switch (action.type) {
    case 'ALLOW':
    case 'DENY':
      return undefined;
    case 'LOG':
      return ['log', action.message];
    case 'ALERT':
      return ['alert', withMessage(action.severity, action.message)];
    case 'NOTIFY':
      return ['notify', withMessage(action.targets.join(', '), action.message)];
    case 'REQUIRE_APPROVAL':
      return [
        'require_approval',
        `${action.count} of ${action.approvers.join(', ')} within ${action.expiresAfterSeconds} seconds`,
      ];
    case 'THROTTLE':
      return ['throttle', `${action.limit} per ${action.windowSeconds} seconds by ${action.by}`];
  }
}

function writeRule(document: PolicyDocument, rule: PolicyRule, id: string): string {
  const effect = document.actions.some((action) => action.type === 'DENY') ? 'forbid' : 'permit';
  const principal = scopeOf('principal', rule.principals);
  const resource = scopeOf('resource', rule.resources);
  const name = rule.name ?? document.name;
  const annotations: [string, string][] = [
    ['id', id],
    ...(name === '' ? [] : ([['name', name]] as [string, string][])),
    ...(document.priority === 0
      ? []
      : ([['priority', String(document.priority)]] as [string, string][])),
  ];
  for (const action of document.actions) {
    const obligation = annotation(action);
    if (obligation) annotations.push(obligation);
  }
  const conditions = [
    ...(principal.condition === undefined ? [] : [principal.condition]),
    ...(resource.condition === undefined ? [] : [resource.condition]),
    ...[...document.conditions, ...rule.conditions].map(test),
  ];
  return [
    ...annotations.map(([key, text]) => `@${key}(${literal(text)})`),
    `${effect}(${principal.scope}, ${actionsOf(rule.operations)}, ${resource.scope})`,
    ...(conditions.length > 20 ? [all(conditions)] : conditions).map(
      (condition) => `when { ${condition} }`,
    ),
  ]
    .join('\n')
    .concat(';');
}

/** What a document becomes. A single rule bears the document's id; of several each has a number. */
export function documentToCedar(document: PolicyDocument): WrittenPolicy[] {
  return document.rules.map((rule, index) => {
    const id = document.rules.length === 1 ? document.id : `${document.id}#${index + 1}`;
    return { id, text: writeRule(document, rule, id), path: `/rules/${index}` };
  });
}

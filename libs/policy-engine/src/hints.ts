/**
 * What was probably meant, where Cedar can only say what it expected: words and habits of other policy
 * languages, and what our vocabulary calls otherwise.
 */
import { agentActions } from '@keystead/contracts/agent-api/actions';
import { meant } from './problems.ts';

interface Fault {
  what: string;
  /** The text before the place, and from it on. */
  before: string;
  rest: string;
}
type Hint = (fault: Fault) => string | undefined;

const write = (text: string) => `write \`${text}\``;
const tagTest = (holder: string) =>
  write(`${holder}.hasTag("KEY") && ${holder}.getTag("KEY") == "VALUE"`);
const inTime = '`context.time.minuteOfDay` counts from midnight: 8:00 is 480';

const effects: Hint = ({ rest, what }) => {
  if (!what.startsWith('invalid policy effect')) return undefined;
  if (/^(?:allow|permit|grant|accept)\b/i.test(rest)) return write('permit');
  return /^(?:deny|forbid|refuse|reject|block)\b/i.test(rest) ? write('forbid') : undefined;
};

/** In the head: a text, a name without quotes, or another word where something is to be named. */
const heads: Hint = ({ what, before, rest }) => {
  if (what.includes('invalid policy condition')) {
    return /^(?:except|but|not)\b/i.test(rest) ? write('unless { … }') : write('when { … }');
  }
  if (what.includes('policy scope')) {
    if (/^(?:user|subject|who)\b/i.test(rest)) return 'did you mean `principal`?';
    const variables = ['principal', 'action', 'resource'];
    return meant(/^\w+/.exec(rest)?.[0] ?? '', variables)?.replace(/^one of .*/, '') || undefined;
  }
  if (!what.includes('expected an entity uid')) return undefined;
  const named = /^"([^"]*)"/.exec(rest)?.[1] ?? /^(\w+(?:\.[\w-]+)+)/.exec(rest)?.[1];
  const typed = /^(\w+)::([\w-]+)/.exec(rest);
  if (typed) return write(`${typed[1]}::"${typed[2]}"`);
  if (named === undefined) return undefined;
  switch (/(principal|action|resource)\s*(?:==|in)\s*\[?[^,()]*$/.exec(before)?.[1]) {
    case 'principal':
      return `${write(`principal == User::"${named}"`)}, or \`principal in Role::"${named}"\``;
    case 'action':
      return write(`Action::"${named}"`);
    case 'resource':
      return `${write(`resource in Namespace::"${named}"`)}, or \`resource == Secret::"NAMESPACE:${named}"\``;
    default:
      return undefined;
  }
};

const operators: Hint = ({ what, before, rest }) => {
  if (!/unexpected token|invalid token/.test(what)) return undefined;
  if (/^and\b/i.test(rest) || /^&[^&]/.test(rest)) return write('&&');
  if (/^or\b/i.test(rest) || /^\|[^|]/.test(rest)) return write('||');
  if (/\bnot\s+$/i.test(before)) return `${write('!(…)')} for \`not\``;
  if (/<$/.test(before) && rest.startsWith('>')) return write('!=');
  if (/^(?:~|matches\b|=~)/.test(rest)) {
    return write('context.matches.contains("resource.name ~ ^db-[0-9]+$")');
  }
  if (/\blike\s+[^"\s]+\s*$/.test(before))
    return `${write('like "db*"')}: the pattern stands in quotes`;
  if (/\d{1,2}$/.test(before) && /^:\d\d/.test(rest)) return inTime;
  const annotation = /@(\w+)\($/.exec(before)?.[1];
  const value = /^[^\s)"]+/.exec(rest)?.[0];
  if (annotation !== undefined && value !== undefined) return write(`@${annotation}("${value}")`);
  return undefined;
};

const methods = [
  'contains',
  'containsAll',
  'containsAny',
  'isEmpty',
  'hasTag',
  'getTag',
  'isInRange',
  'isIpv4',
  'isIpv6',
  'isLoopback',
];
const calls: Hint = ({ what }) => {
  const method = /`(\w+)` is not a valid method/.exec(what)?.[1];
  if (method === undefined) return undefined;
  if (/^(?:includes?|has|hasElement|in)$/i.test(method)) return write('.contains("…")');
  if (/^starts?_?with$/i.test(method)) return write('like "db*"');
  if (/^ends?_?with$/i.test(method)) return write('like "*db"');
  if (/^(?:match(?:es)?|test|regexp?)$/i.test(method)) {
    return write('context.matches.contains("resource.name ~ ^db-[0-9]+$")');
  }
  if (/^equals?$/i.test(method)) return 'compare with `==`';
  return meant(method, methods);
};

/** By the attribute that is not there: ours has another name, or another way. */
const attributes: [of: RegExp, name: RegExp, suggestion: string][] = [
  [/^principal/, /^(?:roles?|groups?|member_?of)$/i, write('principal in Role::"NAME"')],
  [/^principal/, /^(?:attributes?|claims?|tags?|labels?|metadata)$/i, tagTest('principal')],
  [
    /^principal/,
    /^(?:id|sub|subject|user_?name|login|e?mail)$/i,
    'write `principal.name`, or `principal == User::"ID"`',
  ],
  [/^resource/, /^(?:metadata|labels?|attributes?|annotations?)$/i, tagTest('resource')],
  [/^resource/, /^(?:id|path|key|title)$/i, write('resource.name')],
  [
    /^context/,
    /(?:^|\.)(?:ip|source_?ip|client_?ip|remote_?(?:ip|addr(?:ess)?)|ip_?addr(?:ess)?)$/i,
    write('context has address && context.address.isInRange(ip("10.0.0.0/8"))'),
  ],
  [/^context/, /(?:^|\.)(?:hours?|minutes?|time_?of_?day)$/i, inTime],
  [
    /^context/,
    /(?:^|\.)(?:day_?of_?week|week_?day|dow)$/i,
    `${write('context.time.weekday')}: Monday is 1`,
  ],
  [
    /^context/,
    /^(?:method|auth_?method|authentication_?method)$/i,
    write('context.authentication.method'),
  ],
  [/^context/, /^(?:auth_?age|session_?age)$/i, write('context.authentication.ageSeconds')],
  [/^context/, /^(?:network|net)$/i, write('context.networks.contains("office")')],
  [
    /^context/,
    /^(?:user_?agent|origin|referr?er)$/i,
    'write `context.headers has "user-agent" && context.headers["user-agent"] like "…"`',
  ],
];
const missing: Hint = ({ what, rest }) => {
  const [, attribute] = /attribute `([^`]+)`.* not found/.exec(what) ?? [];
  if (attribute === undefined) return undefined;
  return attributes.find(([of, name]) => of.test(rest) && name.test(attribute))?.[2];
};

const types: Hint = ({ what, rest }) => {
  if (/expected Bool but saw \{clientCertificate/.test(what)) return write('context.tls.used');
  const [, one, other] = /the types (\S+) and (\S+) are not compatible/.exec(what) ?? [];
  if (one === undefined || other === undefined) return undefined;
  const both = [one, other];
  const text = /(?:==|!=)\s*("[^"]*")/.exec(rest)?.[1] ?? '"…"';
  if (!both.includes('String')) return undefined;
  if (both.includes('Namespace')) {
    return `${write(`resource.namespace.name == ${text}`)}, or \`resource in Namespace::${text}\``;
  }
  if (both.includes('Vault')) return write(`resource.vault.name == ${text}`);
  if (both.includes('ipaddr')) return write(`context.address == ip(${text})`);
  if (both.includes('Set<String>')) return write(`.contains(${text})`);
  if (/^(?:User|ApiKey|JwtSubject|Certificate|System)$/.test(one === 'String' ? other : one)) {
    return `${write(`principal == User::${text}`)}, or \`principal.name == ${text}\``;
  }
  if (/^context\S*weekday/.test(rest)) return 'weekdays are numbers: Monday is 1';
  return /^context\S*minuteOfDay/.test(rest) ? inTime : undefined;
};

const roots: Hint = ({ what }) => {
  const root = /invalid member access `(\w+)\./.exec(what)?.[1];
  if (root === undefined) return undefined;
  const ours: Record<string, string> = {
    user: 'principal',
    subject: 'principal',
    identity: 'principal',
    caller: 'principal',
    request: 'context',
    environment: 'context',
    env: 'context',
    secret: 'resource',
    object: 'resource',
    namespace: 'resource.namespace',
    vault: 'resource.vault',
  };
  const word = ours[root.toLowerCase()];
  if (word !== undefined) return `did you mean \`${word}\`?`;
  return meant(root, ['principal', 'action', 'resource', 'context']);
};

const hints: readonly Hint[] = [effects, heads, operators, calls, missing, types, roots];

/** What to write instead; undefined where nothing better is known than what Cedar says. */
export function hintOf(text: string, offset: number, what: string): string | undefined {
  const fault = {
    what,
    before: text.slice(Math.max(0, offset - 80), offset),
    rest: text.slice(offset, offset + 200),
  };
  for (const hint of hints) {
    const found = hint(fault);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** What was meant by something that is no action: a family, or the end of a name. */
export function actionMeant(action: string): string | undefined {
  const family = action.replace(/[.:]?\*?$/, '');
  const some = agentActions.filter(
    (known) => known.startsWith(`${family}.`) || known.endsWith(`.${family}`),
  );
  if (family === '' || some.length === 0) return meant(action, agentActions);
  const named = some.slice(0, 3).map((known) => `Action::"${known}"`);
  if (some.length === 1) return write(named[0] as string);
  const list = `[${named.join(', ')}${some.length > 3 ? ', …' : ''}]`;
  return `actions are named one by one: \`action in ${list}\``;
}

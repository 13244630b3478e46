/**
 * The policy document of the original plan: `rules`, `conditions`, `actions`, `priority`, `enabled`.
 * It is another way of writing Cedar and nothing more: each rule becomes one policy of Cedar's text,
 * and only that is stored, signed and evaluated.
 */
import { agentActions } from '@keystead/contracts/agent-api/actions';
import { inOurWords } from '@keystead/contracts/issue-text';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { limits } from './limits.ts';
import { severities, throttleKeys } from './obligations.ts';
import { compilePattern, isTextPath, textPathExamples } from './pattern.ts';
import { meant, type Problem, problemAt, quoted } from './problems.ts';
import {
  authenticationMethods,
  isTimeZone,
  namedPaths,
  principalTypes,
  readableHeaders,
  timeZones,
  weekdays,
} from './vocabulary.ts';

const actionKinds = [
  ...new Set(agentActions.map((action) => action.slice(0, action.indexOf('.')))),
];
export const actionPatterns: readonly string[] = [
  '*',
  ...agentActions,
  ...actionKinds.map((kind) => `${kind}.*`),
];
const principalKinds = [...Object.keys(principalTypes), 'role'];
const resourceKinds = ['vault', 'namespace', 'secret'];

/** Told with what was meant; zod's own issues are translated to the same shape. */
function known(words: readonly string[], noun: string) {
  return (value: string, context: z.RefinementCtx) => {
    if (words.includes(value)) return;
    context.addIssue({
      code: 'custom',
      message: `${quoted(value)} is no ${noun}`,
      params: { suggestion: meant(value, words) },
    });
  };
}

const complain = (
  context: z.RefinementCtx,
  message: string,
  suggestion?: string,
  path: string[] = [],
) => context.addIssue({ code: 'custom', message, path, params: { suggestion } });

const text = (max: number) => z.string().max(max, `has at most ${max} characters`);
const shortText = text(limits.annotationMaxLength);

const identifier = text(limits.nameMaxLength).regex(
  /^[A-Za-z0-9][A-Za-z0-9._:-]*$/,
  'must be letters, digits and . _ : -',
);

/** `role:admin`, `user:alice`, `api_key:*`, `*`. */
const principalSelector = text(300).superRefine((value, context) => {
  if (value === '*') return;
  const colon = value.indexOf(':');
  const kind = colon < 0 ? value : value.slice(0, colon);
  if (!principalKinds.includes(kind)) {
    complain(context, `${quoted(kind)} is no kind of principal`, meant(kind, principalKinds));
  } else if (colon < 0 || colon === value.length - 1) {
    complain(
      context,
      `${quoted(value)} names nobody`,
      `write \`${kind}:NAME\`${kind === 'role' ? '' : ` or \`${kind}:*\``}`,
    );
  } else if (kind === 'role' && value.includes('*')) {
    complain(context, 'a role is named exactly', 'write `role:NAME`, or `*` for everybody');
  }
});

/** `*`, `vault:*`, `namespace:payments`, `namespace:pay*`, `secret:payments:db/*`, `secret:*:db/*`. */
const resourceSelector = text(500).superRefine((value, context) => {
  if (value === '*') return;
  const parts = value.split(':');
  const [kind = ''] = parts;
  if (!resourceKinds.includes(kind)) {
    complain(context, `${quoted(kind)} is no kind of resource`, meant(kind, resourceKinds));
  } else if (parts.length !== (kind === 'secret' ? 3 : 2) || parts.some((part) => part === '')) {
    complain(
      context,
      `${quoted(value)} names no ${kind}`,
      kind === 'secret' ? 'write `secret:NAMESPACE:NAME`' : `write \`${kind}:NAME\``,
    );
  }
});

const scalar = z.union([text(limits.textMaxLength), z.number().int(), z.boolean()]);
const textOperators = [
  'equals',
  'not_equals',
  'in',
  'not_in',
  'starts_with',
  'ends_with',
  'like',
] as const;
const setOperators = ['contains', 'not_contains', 'contains_any', 'contains_all'] as const;
const numberOperators = ['less_than', 'less_or_equal', 'greater_than', 'greater_or_equal'] as const;
export const operators = [...textOperators, ...setOperators, ...numberOperators, 'exists'] as const;
export type Operator = (typeof operators)[number];
const operator = z
  .string()
  .superRefine(known(operators, 'operator')) as unknown as z.ZodType<Operator>;

const timeOfDay = z
  .string()
  .regex(/^(?:[01]\d|2[0-3]):[0-5]\d$|^24:00$/, 'must be a time of day such as 08:30');
const negate = z.boolean().default(false);

export const timeCondition = z
  .strictObject({
    type: z.literal('TIME'),
    zone: text(64)
      .superRefine((value, context) => {
        if (!isTimeZone(value)) {
          complain(
            context,
            `${quoted(value)} is no time zone`,
            meant(value, timeZones()) ?? 'write a name such as `Europe/Berlin`',
          );
        }
      })
      .optional(),
    weekdays: z
      .array(
        z.string().superRefine(known(weekdays, 'weekday')) as unknown as z.ZodType<
          (typeof weekdays)[number]
        >,
      )
      .min(1)
      .max(7)
      .optional(),
    from: timeOfDay.optional(),
    until: timeOfDay.optional(),
    notBefore: z.iso.datetime({ offset: true }).optional(),
    notAfter: z.iso.datetime({ offset: true }).optional(),
    negate,
  })
  .superRefine((value, context) => {
    if (!value.weekdays && !value.from && !value.until && !value.notBefore && !value.notAfter) {
      complain(
        context,
        'a TIME condition says no time',
        'write `weekdays`, `from` and `until`, `notBefore` or `notAfter`',
      );
    }
    if (value.from !== undefined && value.from === value.until) {
      complain(
        context,
        '`from` and `until` are the same moment',
        'leave both out for the whole day',
      );
    }
    if (
      value.notBefore &&
      value.notAfter &&
      Date.parse(value.notBefore) >= Date.parse(value.notAfter)
    ) {
      complain(context, '`notBefore` is not before `notAfter`', 'exchange them');
    }
  });

/** An address range as Cedar writes it, or undefined. A mapped IPv4 address is written as what it is. */
export function canonicalRange(range: string): string | undefined {
  try {
    if (!range.includes('/')) {
      if (!ipaddr.IPv4.isValidFourPartDecimal(range) && !ipaddr.IPv6.isValid(range))
        return undefined;
      return ipaddr.process(range).toString();
    }
    const [address, bits] = ipaddr.parseCIDR(range);
    if (address.kind() === 'ipv4') {
      return ipaddr.IPv4.isValidFourPartDecimal(range.slice(0, range.indexOf('/')))
        ? `${address}/${bits}`
        : undefined;
    }
    const six = address as ipaddr.IPv6;
    if (six.isIPv4MappedAddress()) {
      return bits >= 96 ? `${six.toIPv4Address()}/${bits - 96}` : undefined;
    }
    return `${address}/${bits}`;
  } catch {
    return undefined;
  }
}

export const addressRange = text(64).superRefine((value, context) => {
  if (canonicalRange(value) === undefined) {
    complain(
      context,
      `${quoted(value)} is no address and no range of addresses`,
      'write `10.0.0.0/8` or `2001:db8::/32`',
    );
  }
});

export const ipCondition = z
  .strictObject({
    type: z.literal('IP'),
    ranges: z.array(addressRange).min(1).max(limits.rangesMax).optional(),
    /** Names of networks of the set, or `loopback`, `private`, `public`. */
    networks: z.array(identifier).min(1).max(limits.valuesMax).optional(),
    negate,
  })
  .superRefine((value, context) => {
    if (!value.ranges && !value.networks) {
      complain(context, 'an IP condition names no address', 'write `ranges` or `networks`');
    }
  });

const attributeRoots = [
  'principal.attributes.KEY',
  'resource.metadata.KEY',
  'namespace.metadata.KEY',
  'headers.NAME',
];
const knownAttributes = [...Object.keys(namedPaths), ...attributeRoots];

function attributeType(path: string): 'String' | 'String?' | 'Set' | 'Long' | 'Bool' | undefined {
  if (path in namedPaths) return namedPaths[path as keyof typeof namedPaths];
  return isTextPath(path) ? 'String?' : undefined;
}

export const attributeCondition = z
  .strictObject({
    type: z.literal('ATTRIBUTE'),
    attribute: text(200),
    operator,
    value: scalar.optional(),
    values: z.array(scalar).min(1).max(limits.valuesMax).optional(),
    negate,
  })
  .superRefine((condition, context) => {
    const type = attributeType(condition.attribute);
    if (type === undefined) {
      const near = condition.attribute.startsWith('headers.')
        ? meant(condition.attribute.slice(8), readableHeaders)
        : meant(condition.attribute, Object.keys(namedPaths));
      complain(
        context,
        `${quoted(condition.attribute)} is no attribute`,
        near ?? `one of ${knownAttributes.map((name) => `\`${name}\``).join(', ')}`,
        ['attribute'],
      );
      return;
    }
    const needsMany = ['in', 'not_in', 'contains_any', 'contains_all'].includes(condition.operator);
    if (condition.operator === 'exists') {
      if (condition.value !== undefined || condition.values !== undefined) {
        complain(context, '`exists` takes no value', 'leave `value` out');
      }
      return;
    }
    if (needsMany ? !condition.values : condition.value === undefined) {
      complain(context, `\`${condition.operator}\` needs ${needsMany ? '`values`' : '`value`'}`);
      return;
    }
    if (needsMany ? condition.value !== undefined : condition.values !== undefined) {
      complain(
        context,
        `\`${condition.operator}\` takes ${needsMany ? '`values`, not `value`' : '`value`, not `values`'}`,
      );
      return;
    }
    const fitting: readonly string[] =
      type === 'Set'
        ? setOperators
        : type === 'Long'
          ? ['equals', 'not_equals', 'in', 'not_in', ...numberOperators]
          : type === 'Bool'
            ? ['equals', 'not_equals']
            : textOperators;
    if (!fitting.includes(condition.operator)) {
      complain(
        context,
        `\`${condition.operator}\` cannot be asked of \`${condition.attribute}\``,
        `one of ${fitting.map((name) => `\`${name}\``).join(', ')}`,
        ['operator'],
      );
      return;
    }
    const wanted = type === 'Long' ? 'number' : type === 'Bool' ? 'boolean' : 'string';
    for (const value of condition.values ?? [condition.value]) {
      if (typeof value !== wanted) {
        complain(
          context,
          `\`${condition.attribute}\` is compared with a ${wanted}, not with ${quoted(JSON.stringify(value))}`,
        );
      }
    }
  });

export const regexCondition = z.strictObject({
  type: z.literal('REGEX'),
  attribute: text(200).superRefine((value, context) => {
    if (!isTextPath(value)) {
      complain(
        context,
        `${quoted(value)} is no text that a pattern can be matched with`,
        meant(value, textPathExamples) ?? `for example \`${textPathExamples.join('`, `')}\``,
      );
    }
  }),
  pattern: z.string().superRefine((value, context) => {
    const checked = compilePattern(value);
    if (!checked.ok) complain(context, checked.what, checked.suggestion);
  }),
  negate,
});

export const requestCondition = z
  .strictObject({
    type: z.literal('REQUEST'),
    methods: z
      .array(z.string().superRefine(known(authenticationMethods, 'way to authenticate')))
      .min(1)
      .max(10)
      .optional(),
    maxAuthenticationAgeSeconds: z.number().int().min(0).max(31_536_000).optional(),
    tls: z.boolean().optional(),
    clientCertificate: z.boolean().optional(),
    maxUseCount: z.number().int().min(0).max(1_000_000_000).optional(),
    header: z
      .strictObject({
        name: z.string().superRefine(known(readableHeaders, 'header that policies may read')),
        equals: shortText.optional(),
        like: shortText.optional(),
      })
      .optional(),
    negate,
  })
  .superRefine((value, context) => {
    if (
      Object.keys(value).length <= 2 &&
      Object.values(value).filter((field) => field !== undefined).length <= 2
    ) {
      complain(
        context,
        'a REQUEST condition asks nothing',
        'write `methods`, `maxAuthenticationAgeSeconds`, `tls`, `clientCertificate`, `maxUseCount` or `header`',
      );
    }
  });

export const conditionTypes = ['TIME', 'IP', 'ATTRIBUTE', 'REGEX', 'REQUEST'] as const;
const condition = z.discriminatedUnion('type', [
  timeCondition,
  ipCondition,
  attributeCondition,
  regexCondition,
  requestCondition,
]);
export type Condition = z.output<typeof condition>;

export const actionTypes = [
  'ALLOW',
  'DENY',
  'LOG',
  'ALERT',
  'NOTIFY',
  'REQUIRE_APPROVAL',
  'THROTTLE',
] as const;
const targetName = text(64).regex(
  /^[A-Za-z0-9][A-Za-z0-9._@-]*$/,
  'must be letters, digits and . _ @ -',
);
const message = text(200).regex(/^[^\p{Cc}]*$/u, 'must not hold control characters');
const documentAction = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('ALLOW') }),
  z.strictObject({ type: z.literal('DENY') }),
  z.strictObject({ type: z.literal('LOG'), message: message.default('') }),
  z.strictObject({
    type: z.literal('ALERT'),
    severity: (
      z.string().superRefine(known(severities, 'severity')) as unknown as z.ZodType<
        (typeof severities)[number]
      >
    ).default('medium'),
    message: message.default(''),
  }),
  z.strictObject({
    type: z.literal('NOTIFY'),
    targets: z.array(targetName).min(1).max(10),
    message: message.default(''),
  }),
  z.strictObject({
    type: z.literal('REQUIRE_APPROVAL'),
    approvers: z.array(targetName).min(1).max(5),
    count: z.number().int().min(1).max(10).default(1),
    expiresAfterSeconds: z.number().int().min(60).max(999_999).default(3_600),
  }),
  z.strictObject({
    type: z.literal('THROTTLE'),
    limit: z.number().int().min(1).max(9_999_999),
    windowSeconds: z.number().int().min(1).max(86_400),
    by: (
      z.string().superRefine(known(throttleKeys, 'thing to count by')) as unknown as z.ZodType<
        (typeof throttleKeys)[number]
      >
    ).default('identity'),
  }),
]);
export type DocumentAction = z.output<typeof documentAction>;

export const policyRule = z.strictObject({
  name: text(limits.nameMaxLength).optional(),
  principals: z.array(principalSelector).min(1).max(limits.selectorsMax).default(['*']),
  operations: z
    .array(z.string().superRefine(known(actionPatterns, 'action')))
    .min(1)
    .max(limits.selectorsMax)
    .default(['*']),
  resources: z.array(resourceSelector).min(1).max(limits.selectorsMax).default(['*']),
  conditions: z.array(condition).max(limits.conditionsMax).default([]),
});
export type PolicyRule = z.output<typeof policyRule>;

export const policyDocument = z
  .strictObject({
    id: identifier,
    name: text(limits.nameMaxLength).default(''),
    description: text(limits.descriptionMaxLength).default(''),
    rules: z.array(policyRule).min(1, 'has at least one rule').max(limits.rulesMax),
    /** Of all rules. */
    conditions: z.array(condition).max(limits.conditionsMax).default([]),
    actions: z.array(documentAction).min(1, 'says at least ALLOW or DENY').max(actionTypes.length),
    priority: z.number().int().min(-limits.priorityMax).max(limits.priorityMax).default(0),
    enabled: z.boolean().default(true),
    created_at: z.string().max(64).optional(),
    updated_at: z.string().max(64).optional(),
  })
  .superRefine((value, context) => {
    const types = value.actions.map((action) => action.type);
    const twice = types.find((type, at) => types.indexOf(type) !== at);
    if (twice !== undefined)
      complain(context, `${twice} stands twice`, 'write it once', ['actions']);
    const effects = types.filter((type) => type === 'ALLOW' || type === 'DENY');
    if (effects.length === 0) {
      complain(
        context,
        'the actions say neither ALLOW nor DENY',
        'add `{"type": "ALLOW"}` or `{"type": "DENY"}`',
        ['actions'],
      );
    } else if (types.includes('ALLOW') && types.includes('DENY')) {
      complain(context, 'the actions say both ALLOW and DENY', 'write two policies', ['actions']);
    }
    for (const type of ['REQUIRE_APPROVAL', 'THROTTLE'] as const) {
      if (types.includes('DENY') && types.includes(type)) {
        complain(context, `what is denied needs no ${type}`, 'remove it, or write ALLOW', [
          'actions',
        ]);
      }
    }
  });
export type PolicyDocument = z.output<typeof policyDocument>;
export type PolicyDocumentInput = z.input<typeof policyDocument>;

function depthOf(value: unknown, most: number): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (most === 0) return 1;
  let deepest = 0;
  for (const inner of Object.values(value)) deepest = Math.max(deepest, depthOf(inner, most - 1));
  return deepest + 1;
}

const pointer = (path: readonly PropertyKey[]): string =>
  path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');

const at = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part],
    value,
  );

/** Words that the plan's readers may have used, and where they belong. */
const fields: Record<string, readonly string[]> = {
  '': Object.keys(policyDocument.shape),
  rules: Object.keys(policyRule.shape),
  TIME: Object.keys(timeCondition.shape),
  IP: Object.keys(ipCondition.shape),
  ATTRIBUTE: Object.keys(attributeCondition.shape),
  REGEX: Object.keys(regexCondition.shape),
  REQUEST: Object.keys(requestCondition.shape),
};

function describeIssue(input: unknown, issue: z.core.$ZodIssue): Problem[] {
  const path = pointer(issue.path);
  switch (issue.code) {
    case 'custom':
      return [problemAt(path, issue.message, issue.params?.suggestion as string | undefined)];
    case 'unrecognized_keys':
      return issue.keys.slice(0, 5).map((key) => {
        const holder = at(input, issue.path) as { type?: unknown } | undefined;
        const kind =
          issue.path.length === 0 ? '' : typeof holder?.type === 'string' ? holder.type : 'rules';
        return problemAt(
          `${path}${pointer([key])}`,
          `${quoted(key)} is not known here`,
          meant(key, fields[kind] ?? []) ?? 'remove it',
        );
      });
    case 'invalid_union': {
      const holder = at(
        input,
        issue.path.at(-1) === 'type' ? issue.path.slice(0, -1) : issue.path,
      ) as { type?: unknown } | undefined;
      const list = issue.path.findLast((part) => part === 'actions' || part === 'conditions');
      const words: readonly string[] = list === 'actions' ? actionTypes : conditionTypes;
      if (list !== undefined && issue.path.at(-1) === 'type') {
        const given = holder?.type;
        return [
          problemAt(
            path,
            typeof given === 'string'
              ? `${quoted(given)} is no type of ${list === 'actions' ? 'action' : 'condition'}`
              : 'the `type` is missing',
            typeof given === 'string'
              ? meant(given.toUpperCase(), words)
              : `one of ${words.map((word) => `\`${word}\``).join(', ')}`,
          ),
        ];
      }
      return [problemAt(path, 'must be a text, a whole number or a boolean')];
    }
    case 'invalid_type':
      return [
        at(input, issue.path) === undefined
          ? problemAt(
              path,
              `${quoted(String(issue.path.at(-1) ?? 'the document'))} is missing`,
              `write ${aOf(issue.expected)}`,
            )
          : problemAt(path, `must be ${aOf(issue.expected)}`),
      ];
    default:
      return [problemAt(path, issue.message)];
  }
}

/** Reads a document; says all that is wrong with it. `prefix` is where it stands in a larger one. */
export function parsePolicyDocument(
  input: unknown,
  prefix = '',
): { ok: true; document: PolicyDocument } | { ok: false; problems: Problem[] } {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    return {
      ok: false,
      problems: [
        problemAt(
          prefix,
          'a policy document is a JSON object',
          'write `{"id": …, "rules": […], "actions": […]}`',
        ),
      ],
    };
  }
  if (depthOf(input, limits.documentMaxDepth) > limits.documentMaxDepth) {
    return {
      ok: false,
      problems: [problemAt(prefix, `the document nests more than ${limits.documentMaxDepth} deep`)],
    };
  }
  const parsed = policyDocument.safeParse(input, inOurWords);
  if (parsed.success) {
    const bad = findIllFormed(parsed.data, prefix);
    return bad ? { ok: false, problems: [bad] } : { ok: true, document: parsed.data };
  }
  const problems = parsed.error.issues
    .slice(0, limits.problemsPerPolicy)
    .flatMap((issue) => describeIssue(input, issue))
    .slice(0, limits.problemsPerPolicy)
    .map((problem) => ({ ...problem, where: { path: `${prefix}${problem.where.path}` } }));
  return { ok: false, problems };
}

/** Half a surrogate pair is no text, and Cedar's engine would not take it. */
function findIllFormed(value: unknown, path: string): Problem | undefined {
  if (typeof value === 'string') {
    return value.isWellFormed() ? undefined : problemAt(path, 'the text is not valid Unicode');
  }
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [key, inner] of Object.entries(value)) {
    const found = findIllFormed(inner, `${path}${pointer([key])}`);
    if (found) return found;
  }
  return undefined;
}

const aOf = (noun: string) => `${/^[aeiou]/.test(noun) ? 'an' : 'a'} ${noun}`;

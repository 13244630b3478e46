/**
 * vault.yaml: nine sections, every key known. What is wrong is named with its line and column.
 * Paths are relative to the file.
 */
import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { parseEndpoint, parseFingerprint } from '@keystead/agent-protocol/link-client';
import { backupContents } from '@keystead/contracts/agent-api/backup';
import { backupApiLimits } from '@keystead/contracts/agent-api/backup-limits';
import { namePattern } from '@keystead/contracts/agent-api/fields';
import { suspicionBounds } from '@keystead/contracts/agent-api/suspicion-bounds';
import { inOurWords, leafIssues } from '@keystead/contracts/issue-text';
import { auditDestinationName } from '@keystead/contracts/policy-set-content';
import { parseRecipient } from '@keystead/envelope/sealed-stream';
import { isMap, isScalar, LineCounter, type Node, type ParsedNode, parseDocument } from 'yaml';
import { z } from 'zod';
import { tokenAlgorithms } from './access/token-algorithms.ts';
import { authorForm } from './backup/backup-author.ts';
import { problemOfCron } from './backup/backup-schedule.ts';
import { readNamedFile } from './named-file.ts';

const duration = z
  .string()
  .regex(/^\d{1,6}(?:ms|s|m|h|d)$/, 'must be a duration like 30s, 15m, 24h or 90d');
const size = z.string().regex(/^\d{1,6}(?:KB|MB|GB)$/, 'must be a size like 100MB');
const path = z.string().min(1).max(4_096);
const port = z.number().int().min(0).max(65_535);

const names = z.array(z.string().min(1).max(120)).max(20);
const patterns = z.array(namePattern).min(1).max(50);

/** Where a secret is: a variable of the environment, or a file. It is never written in here. */
const secretSource = z
  .strictObject({
    variable: z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'must be a name of a variable')
      .optional(),
    file: path.optional(),
  })
  .refine(
    ({ variable, file }) => (variable === undefined) !== (file === undefined),
    'name either a variable or a file',
  );

const server = z
  .strictObject({
    /** Where the agent's own HTTP listens; without TLS on a loopback address only. */
    host: z.string().min(1).max(253).default('127.0.0.1'),
    /** 0 takes a free port, which is written to the log. */
    port: port.default(8200),
    tls: z
      .strictObject({
        enabled: z.boolean().default(false),
        cert_file: path.optional(),
        key_file: path.optional(),
        /** The CA of client certificates. */
        ca_file: path.optional(),
        /** What that CA has revoked. */
        crl_file: path.optional(),
        min_version: z.enum(['1.2', '1.3']).default('1.2'),
      })
      .refine(
        (tls) => !tls.enabled || (tls.cert_file !== undefined && tls.key_file !== undefined),
        'needs cert_file and key_file, or enabled: false',
      )
      .prefault({}),
    rate_limit: z
      .strictObject({
        /** Of each identity. */
        requests_per_second: z.number().int().min(1).max(1_000_000).default(50_000),
        /** Of each credential at each address, where it was not seen before. */
        attempts_per_second: z.number().int().min(1).max(100_000).default(50),
      })
      .prefault({}),
  })
  .refine(({ host, tls }) => tls.enabled || isLoopback(host), {
    path: ['host'],
    message: 'without TLS it must be a loopback address: secrets would be readable on the wire',
  })
  .prefault({});

const storage = z
  .strictObject({
    type: z.enum(['sqlite', 'postgresql', 'mysql']).default('sqlite'),
    path: path.default('vault.db'),
    /** `postgres://…` or `mysql://…`; it holds a password, so this file is for its user alone. */
    connection_string: z.string().min(1).max(4_096).optional(),
    /** Or where it is. */
    connection_string_from: secretSource.optional(),
    max_connections: z.number().int().min(1).max(10_000).default(100),
    connection_timeout: duration.default('30s'),
    /** What was read lately, sealed as it is stored. */
    cache: z
      .strictObject({
        max_entries: z.number().int().min(1).max(10_000_000).default(50_000),
        max_size: size.default('64MB'),
        /** How long an opened value stays in memory; 0s opens it for every reading. */
        plaintext_ttl: duration.default('0s'),
        /** While the database is away: how long what was read before is still answered. */
        answer_while_away: duration.default('60s'),
      })
      .prefault({}),
  })
  .refine(
    (storage) =>
      storage.type === 'sqlite' ||
      (storage.connection_string === undefined) !== (storage.connection_string_from === undefined),
    'needs either connection_string or connection_string_from',
  )
  .refine(
    ({ type, connection_string: text }) =>
      type === 'sqlite' || text === undefined || isConnectionString(type, text),
    {
      path: ['connection_string'],
      message: 'must begin with postgres:// or mysql://, as the type says',
    },
  )
  .prefault({});

const keyText = z.string().min(1).max(2_048);

const encryption = z
  .strictObject({
    /** Who guards the master key. */
    key_management: z
      .enum(['file', 'passphrase', 'environment', 'command', 'hsm', 'cloud_kms'])
      .default('file'),
    /** Made at the first start where it is missing. */
    key_file: path.default('keys/master.key'),
    passphrase: secretSource.optional(),
    environment: z
      .strictObject({ variable: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/) })
      .optional(),
    command: z
      .strictObject({
        /** A program and its arguments; no shell reads them. */
        argv: z.array(z.string().min(1).max(2_048)).min(1).max(100),
        timeout: duration.default('10s'),
      })
      .optional(),
    hsm: z
      .strictObject({
        library: path,
        token_label: z.string().min(1).max(32),
        key_label: z.string().min(1).max(255),
        pin: secretSource,
        create: z.boolean().default(false),
        timeout: duration.default('10s'),
      })
      .optional(),
    cloud_kms: z
      .discriminatedUnion('provider', [
        z.strictObject({
          provider: z.literal('aws'),
          key_id: keyText,
          region: z.string().regex(/^[a-z0-9-]{1,64}$/),
          endpoint: z.url().optional(),
          timeout: duration.default('10s'),
        }),
        z.strictObject({
          provider: z.literal('gcp'),
          key_name: keyText,
          endpoint: z.url().optional(),
          credentials_file: path.optional(),
          timeout: duration.default('10s'),
        }),
        z.strictObject({
          provider: z.literal('azure'),
          vault_url: z.url({ protocol: /^https$/ }),
          key_name: keyText,
          timeout: duration.default('10s'),
        }),
      ])
      .optional(),
    /** The master key is replaced after this long. */
    rotation_interval: duration.default('90d'),
  })
  .refine(
    (encryption) => encryption.key_management === 'file' || encryption[encryption.key_management],
    'needs a section named as key_management says',
  )
  .prefault({});

const issuer = z
  .strictObject({
    issuer: z.string().min(1).max(500),
    audience: z.union([z.string().min(1).max(500), names.min(1)]),
    jwks_url: z
      .url()
      .refine(isFetchable, 'must be https, or http on a loopback address')
      .optional(),
    jwks_file: path.optional(),
    algorithms: z
      .array(z.enum(tokenAlgorithms))
      .min(1)
      .max(tokenAlgorithms.length)
      .default(['RS256', 'ES256', 'EdDSA']),
    clock_skew: duration.default('30s'),
    subject_claim: z.string().min(1).max(120).default('sub'),
    /** With dots for what is inside: `realm_access.roles`. */
    roles_claim: z.string().min(1).max(200).default('roles'),
    /** From what the claim holds to roles of the vault; without it they are taken as they are. */
    roles: z.record(z.string().min(1).max(200), names).optional(),
    default_roles: names.default([]),
    /** A claim with patterns that narrow the roles to namespaces. */
    namespaces_claim: z.string().min(1).max(200).optional(),
  })
  .refine(
    (each) => (each.jwks_url === undefined) !== (each.jwks_file === undefined),
    'needs either jwks_url or jwks_file',
  );

const authentication = z
  .strictObject({
    methods: z
      .array(z.enum(['api_key', 'jwt', 'certificate']))
      .min(1)
      .max(3)
      .default(['api_key']),
    /** A token is refused this long after it was issued, whatever it says itself. */
    session_timeout: duration.default('24h'),
    /** Tokens of one subject in use at a time. */
    max_sessions_per_user: z.number().int().min(1).max(10_000).default(10),
    jwt: z.strictObject({ issuers: z.array(issuer).min(1).max(10) }).optional(),
    certificate: z
      .strictObject({
        identities: z
          .array(
            z
              .strictObject({
                /** A pattern with `*`: the whole subject, or one name in it like `CN=payments`. */
                subject: z.string().min(1).max(500).optional(),
                /** A pattern for one alternative name, like `DNS:*.example.com`. */
                san: z.string().min(1).max(500).optional(),
                roles: names.min(1),
                namespaces: patterns.optional(),
              })
              .refine(
                ({ subject, san }) => subject !== undefined || san !== undefined,
                'needs a subject or a san',
              ),
          )
          .max(1_000),
      })
      .optional(),
  })
  .prefault({});

const receiver = {
  /** Lets a policy set turn it on, where it is off here. */
  name: auditDestinationName.optional(),
  /** On unless it says false. */
  enabled: z.boolean().optional(),
};

const audit = z
  .strictObject({
    enabled: z.literal(true, 'the audit cannot be switched off').default(true),
    log_file: path.default('audit.log'),
    rotation_size: size.default('100MB'),
    retention_days: z.number().int().min(1).max(36_500).default(365),
    /** To the syslog below, or the one of this machine. */
    forward_to_syslog: z.boolean().default(false),
    syslog: z
      .strictObject({
        /** Lets a policy set turn it on. */
        name: auditDestinationName.optional(),
        host: z.string().min(1).max(253).default('127.0.0.1'),
        port: z.number().int().min(1).max(65_535).default(514),
        protocol: z.enum(['udp', 'tcp', 'tls']).default('udp'),
        ca_file: path.optional(),
      })
      .prefault({}),
    forward: z
      .array(
        z.discriminatedUnion('type', [
          z.strictObject({ ...receiver, type: z.literal('file'), path }),
          z.strictObject({
            ...receiver,
            type: z.literal('http'),
            url: z.url().refine(isFetchable, 'must be https, or http on a loopback address'),
            authorization: secretSource.optional(),
            ca_file: path.optional(),
          }),
        ]),
      )
      .max(10)
      .default([]),
  })
  .superRefine(({ syslog, forward }, { addIssue }) => {
    const known = new Set([syslog.name]);
    for (const [index, { name }] of forward.entries()) {
      if (name !== undefined && known.has(name)) {
        addIssue({
          code: 'custom',
          path: ['forward', index, 'name'],
          message: `${name} is the name of another receiver`,
        });
      }
      known.add(name);
    }
  })
  .prefault({});

const keep = z.number().int().min(0).max(backupApiLimits.keepMax).optional();

const backup = z
  .strictObject({
    enabled: z.boolean().default(false),
    /** A cron pattern, UTC. */
    schedule: z
      .string()
      .max(200)
      .refine((pattern) => problemOfCron(pattern) === undefined, 'must be a cron pattern')
      .default('0 2 * * *'),
    contents: z
      .array(z.enum(backupContents))
      .min(1)
      .max(backupContents.length)
      .default([...backupContents]),
    /** What any rule keeps is kept; the newest always. */
    retention: z
      .strictObject({
        keep_last: keep,
        keep_days: keep,
        keep_daily: keep,
        keep_weekly: keep,
        keep_monthly: keep,
      })
      .default({ keep_last: 7, keep_days: 30, keep_monthly: 12 }),
    /** `keystead-recipient-…`: who opens backups besides the vault's own key provider. */
    recipients: z
      .array(z.string().refine(isReadableBy(parseRecipient), 'must be keystead-recipient-…'))
      .max(10)
      .default([]),
    passphrase: secretSource.optional(),
    /** `keystead-author-…`: whose backups are restored besides this vault's own. */
    authors: z.array(z.string().regex(authorForm, 'must be keystead-author-…')).max(20).default([]),
    destinations: z
      .array(
        z.discriminatedUnion('type', [
          z.strictObject({ type: z.literal('local'), path }),
          z.strictObject({
            type: z.literal('s3'),
            bucket: z.string().min(1).max(255),
            region: z.string().min(1).max(64),
            prefix: z.string().max(500).optional(),
            endpoint: z.url().optional(),
            path_style: z.boolean().default(false),
          }),
          z.strictObject({
            type: z.literal('sftp'),
            host: z.string().min(1).max(253),
            port: z.number().int().min(1).max(65_535).default(22),
            username: z.string().min(1).max(255),
            path,
            private_key_file: path.optional(),
            password: secretSource.optional(),
            /** `SHA256:…`, as ssh-keygen -l prints it: another host is not spoken to. */
            host_key: z.string().regex(/^SHA256:[A-Za-z0-9+/]{43}$/, 'must be SHA256:…'),
          }),
        ]),
      )
      .max(20)
      .default([]),
  })
  .prefault({});

/** What rotations may start or speak to: who may set a rotation names it, only this file defines it. */
const rotation = z
  .strictObject({
    scripts: z
      .record(
        z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be lower case letters, digits and -'),
        z.strictObject({
          /** A program and its arguments; no shell reads them. */
          argv: z.array(z.string().min(1).max(2_048)).min(1).max(100),
          timeout: duration.default('30s'),
          environment: z.record(z.string().max(128), z.string().max(2_048)).default({}),
        }),
      )
      .default({}),
    rotators: z
      .record(
        z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be lower case letters, digits and -'),
        z.strictObject({ module: path, timeout: duration.default('30s') }),
      )
      .default({}),
    /** Hosts that may be spoken to without TLS, beside this machine. */
    http_hosts: z.array(z.string().min(1).max(253)).max(100).default([]),
    /** Told of what becomes of rotations, with names in clear. */
    webhook: z
      .strictObject({
        url: z.url().refine(isFetchable, 'must be https, or http on a loopback address'),
        /** Signs what is sent (Standard Webhooks). */
        secret: secretSource.optional(),
        events: z
          .array(z.enum(['succeeded', 'failed', 'gave-up', 'rolled-back', 'due-soon']))
          .min(1)
          .max(5)
          .default(['gave-up', 'due-soon']),
      })
      .optional(),
  })
  .prefault({});

/** What is done about suspicious activity (R4.5); a locked agent is opened by "keystead-agent unlock". */
const response = z.enum(['off', 'notice', 'lock_identity', 'lock_agent']).default('notice');

const suspiciousActivity = z
  .strictObject({
    /** So many denials of one identity. */
    many_denials: z
      .strictObject({
        count: z
          .number()
          .int()
          .min(suspicionBounds.denialsMin)
          .max(suspicionBounds.denialsMax)
          .default(50),
        within: duration.default('5m'),
        response,
      })
      .prefault({}),
    /** So many different secrets read by one identity. */
    bulk_reading: z
      .strictObject({
        secrets: z
          .number()
          .int()
          .min(suspicionBounds.secretsMin)
          .max(suspicionBounds.secretsMax)
          .default(1_000),
        within: duration.default('10m'),
        response,
      })
      .prefault({}),
    /** An identity comes from a network that it was never seen in. */
    new_network: z.strictObject({ response }).prefault({}),
    /** An identity that is known for two weeks is there at an hour at which it never was. */
    unusual_hour: z.strictObject({ response }).prefault({}),
    /** How long an identity is locked. */
    lock_duration: duration.default('15m'),
  })
  .prefault({});

const monitoring = z
  .strictObject({
    suspicious_activity: suspiciousActivity,
    metrics_enabled: z.boolean().default(true),
    prometheus_endpoint: z
      .string()
      .regex(/^\/[A-Za-z0-9/_-]{1,100}$/, 'must be a path like /metrics')
      .default('/metrics'),
    health_check_interval: duration.default('30s'),
    log_level: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  })
  .prefault({});

const controlPlane = z
  .strictObject({
    enabled: z.boolean().default(true),
    /** `HOST:PORT`, or `https://HOST` with or without a port. */
    endpoint: z
      .string()
      .transform(withoutScheme)
      .refine(isReadableBy(parseEndpoint), 'must be HOST:PORT or https://HOST')
      .optional(),
    ca_fingerprint: z
      .string()
      .refine(isReadableBy(parseFingerprint), 'must be a SHA-256, 64 hexadecimal digits')
      .optional(),
    certificate_path: path.default('identity/agent.crt'),
    private_key_path: path.default('identity/agent.key'),
    /** The pinned root; without it `root.crt` beside the certificate. */
    ca_path: path.optional(),
    /** What must not be lost waits in here for its receipt. */
    queue_path: path.default('queue.db'),
    queue_max_events: z.number().int().min(100).max(1_000_000).default(10_000),
    /** The control plane sets the pace; this one holds until it has. */
    heartbeat_interval: duration.default('30s'),
  })
  .transform((given) => ({
    ...given,
    ca_path: given.ca_path ?? join(dirname(given.certificate_path), 'root.crt'),
  }))
  .prefault({});

const schema = z
  .strictObject({
    server,
    storage,
    encryption,
    authentication,
    audit,
    backup,
    rotation,
    monitoring,
    control_plane: controlPlane,
  })
  .refine(({ control_plane }) => !control_plane.enabled || control_plane.endpoint !== undefined, {
    path: ['control_plane'],
    message: 'needs an endpoint, or enabled: false',
  })
  .refine(
    ({ authentication, server }) =>
      authentication.certificate === undefined || server.tls.ca_file !== undefined,
    {
      path: ['authentication', 'certificate'],
      message: 'needs server.tls.ca_file, the CA of client certificates',
    },
  );

export type Configuration = z.output<typeof schema>;
export const sectionNames = [
  'server',
  'storage',
  'encryption',
  'authentication',
  'audit',
  'backup',
  'rotation',
  'monitoring',
  'control_plane',
] as const;
export type SectionName = (typeof sectionNames)[number];

export interface LoadedConfiguration {
  configuration: Configuration;
  /** Which keys the file itself has, with dots: what it does not say, others may. */
  written: ReadonlySet<string>;
  /** Of every section, to tell what changed since the last run without keeping what it says. */
  digests: Record<SectionName, string>;
  digest: string;
  /** Absolute, of the file itself. */
  file: string;
  /** Absolute, for a path in the file. */
  locate: (path: string) => string;
}

/** What is wrong with a file, one line each: `vault.yaml:3:5 server.prot: is not a key here`. */
export class ConfigurationError extends Error {
  readonly problems: string[];
  constructor(problems: string[]) {
    super(problems.join('\n'));
    this.name = 'ConfigurationError';
    this.problems = problems;
  }
}

const maxBytes = 256 * 1024;

/** @throws ConfigurationError */
export function loadConfiguration(file: string): LoadedConfiguration {
  let text: string;
  try {
    text = readNamedFile(file).toString('utf8');
  } catch (error) {
    throw new ConfigurationError([(error as Error).message]);
  }
  const configuration = parseConfiguration(text, file);
  const digests = Object.fromEntries(
    sectionNames.map((name) => [name, digestOf(withoutSecrets(configuration[name]))]),
  ) as Record<SectionName, string>;
  const directory = dirname(resolve(file));
  return {
    configuration,
    written: writtenKeys(text),
    digests,
    digest: digestOf(digests),
    file: resolve(file),
    locate: (relative) => resolve(directory, relative),
  };
}

/** Of a text that {@link parseConfiguration} has read. */
export function writtenKeys(text: string): ReadonlySet<string> {
  const keys = new Set<string>();
  const walk = (value: unknown, path: string) => {
    if (path !== '') keys.add(path);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return;
    for (const [key, inner] of Object.entries(value))
      walk(inner, path === '' ? key : `${path}.${key}`);
  };
  walk(parseDocument(text).toJS({ maxAliasCount: 20 }), '');
  return keys;
}

/** @throws ConfigurationError */
export function parseConfiguration(text: string, file = 'vault.yaml'): Configuration {
  if (Buffer.byteLength(text) > maxBytes) {
    throw new ConfigurationError([`${file}: has more than ${maxBytes} bytes`]);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  if (document.errors.length > 0) {
    throw new ConfigurationError(
      document.errors.map((error) => `${at(error.pos[0])} ${error.message}`),
    );
  }
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 20 }) ?? {};
  } catch (error) {
    throw new ConfigurationError([`${file}: ${(error as Error).message}`]);
  }
  const parsed = schema.safeParse(content, inOurWords);
  if (parsed.success) return parsed.data;
  const root = document.contents;
  const problems = leafIssues(parsed.error.issues).flatMap((issue) => {
    const keys = issue.path.filter((key) => typeof key !== 'symbol');
    const name = keys.join('.');
    if (issue.code !== 'unrecognized_keys') {
      return [{ path: keys, text: `${name || 'the file'}: ${issue.message}` }];
    }
    return (issue.keys ?? []).map((key) => ({
      path: [...keys, key],
      text: `${name === '' ? key : `${name}.${key}`}: is not a key here`,
    }));
  });
  throw new ConfigurationError(
    problems
      .map(({ path, text }) => ({ offset: offsetOfKey(root, path), text }))
      .sort((one, other) => one.offset - other.offset)
      .map(({ offset, text }) => `${at(offset)} ${text}`),
  );
}

/** Where the key at a path stands, or the nearest thing above it that is there. */
function offsetOfKey(root: ParsedNode | null, path: (string | number)[]): number {
  let node: Node | null = root;
  let offset = 0;
  for (const key of path) {
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => isScalar(item.key) && String(item.key.value) === String(key),
      );
      if (pair === undefined) return offset;
      offset = (pair.key as Node).range?.[0] ?? offset;
      node = pair.value as Node | null;
    } else {
      const items = (node as { items?: Node[] } | null)?.items;
      const item = items?.[Number(key)];
      if (item === undefined) return offset;
      offset = item.range?.[0] ?? offset;
      node = item;
    }
  }
  return offset;
}

function withoutSecrets(section: object): object {
  return 'connection_string' in section ? { ...section, connection_string: undefined } : section;
}

function digestOf(value: object): string {
  const sorted = JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([one], [other]) => (one < other ? -1 : 1)))
      : inner,
  );
  return createHash('sha256').update(sorted).digest('hex');
}

function isReadableBy(parse: (text: string) => unknown): (text: string) => boolean {
  return (text) => {
    try {
      parse(text);
      return true;
    } catch {
      return false;
    }
  };
}

/** Names and addresses that never leave this machine. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '');
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'));
}

function isFetchable(text: string): boolean {
  const url = new URL(text);
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url.hostname));
}

function isConnectionString(type: 'postgresql' | 'mysql', text: string): boolean {
  return (type === 'postgresql' ? /^postgres(?:ql)?:\/\// : /^(?:mysql|mariadb):\/\//).test(text);
}

/** The agent link speaks TLS in any case: `https://host` is `host:443`. */
function withoutScheme(endpoint: string): string {
  const match = /^https:\/\/([^/?#@]+)\/?$/.exec(endpoint);
  if (match === null) return endpoint;
  const authority = match[1] ?? '';
  return /:\d+$/.test(authority) ? authority : `${authority}:443`;
}

/** A size of the file in bytes. */
export function sizeBytes(text: string): number {
  const match = /^(\d+)(KB|MB|GB)$/.exec(text);
  const unit = { KB: 1_024, MB: 1_024 ** 2, GB: 1_024 ** 3 }[match?.[2] ?? ''] ?? 0;
  return Number(match?.[1]) * unit;
}

/** A duration of the file in ms. */
export function durationMs(text: string): number {
  const match = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  const unit = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match?.[2] ?? ''] ?? 0;
  return Number(match?.[1]) * unit;
}

/** A complete file: for a freshly enrolled agent, or for one that serves its machine alone. */
export function freshConfiguration(facts: {
  port: number;
  controlPlane?: { endpoint: string; caFingerprint: string; vaultName: string };
}): string {
  const { port, controlPlane: plane } = facts;
  const writtenBy = plane
    ? `"keystead-agent enroll" for the vault ${JSON.stringify(plane.vaultName)}`
    : '"keystead-agent init"';
  return `# Written by ${writtenBy}.
# Paths are relative to this file.
server:
  host: "127.0.0.1"
  port: ${port}

storage:
  type: "sqlite"
  path: "vault.db"

encryption:
  key_management: "file"
  key_file: "keys/master.key"
  rotation_interval: "90d"

authentication:
  methods: ["api_key"]
  session_timeout: "24h"
  max_sessions_per_user: 10

audit:
  enabled: true
  log_file: "audit.log"
  rotation_size: "100MB"
  retention_days: 365
  forward_to_syslog: false

backup:
  enabled: false
  schedule: "0 2 * * *"
  destinations: []

monitoring:
  metrics_enabled: true
  prometheus_endpoint: "/metrics"
  health_check_interval: "30s"
  log_level: "info"

control_plane:
${
  plane
    ? `  enabled: true
  endpoint: ${JSON.stringify(plane.endpoint)}
  ca_fingerprint: ${JSON.stringify(plane.caFingerprint)}`
    : '  enabled: false'
}
  certificate_path: "identity/agent.crt"
  private_key_path: "identity/agent.key"
  ca_path: "identity/root.crt"
  queue_path: "queue.db"
  queue_max_events: 10000
`;
}

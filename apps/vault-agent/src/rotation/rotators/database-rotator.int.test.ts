import { randomBytes } from 'node:crypto';
import { type RotatorSettings, rotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { createSqlDatabase, type TestSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { createConnection } from 'mysql2/promise';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RotationValue } from '../rotator.ts';
import { databaseRotator, problemOfDatabase } from './database-rotator.ts';
import { mysqlUser } from './mysql-user.ts';
import { postgresqlUser } from './postgresql-user.ts';
import { type RotatedWorld, rotatorSuite, workOf } from './rotator-suite.fixture.ts';

type Kind = 'postgresql' | 'mysql';

/** A name that has to be quoted, and quoted rightly. */
const newUser = () => `it's "${randomBytes(4).toString('hex')}" \\`;

describe.each(['postgresql', 'mysql'] as const)('%s', (kind: Kind) => {
  let database: TestSqlDatabase;
  let address: URL;
  beforeAll(async () => {
    database = await createSqlDatabase(kind);
    if (database.options.kind === 'sqlite') throw new Error('wrong kind');
    address = new URL(database.options.connectionString);
  });
  afterAll(() => database.drop());

  const run = async (statement: string) => {
    if (kind === 'postgresql') {
      const client = new pg.Client({ connectionString: address.href });
      await client.connect();
      await client.query(statement).finally(() => client.end());
    } else {
      const connection = await createConnection(address.href);
      await connection.query(statement).finally(() => connection.end());
    }
  };
  const createUser = (user: string, password: string) =>
    kind === 'postgresql'
      ? run(`create role ${pg.escapeIdentifier(user)} login password '${password}'`)
      : run(
          `create user '${user.replaceAll('\\', '\\\\').replaceAll("'", "''")}'@'%' identified by '${password}'`,
        );
  const canLogIn = async (user: string, password: string) => {
    const [host, port, name] = [address.hostname, Number(address.port), address.pathname.slice(1)];
    try {
      if (kind === 'postgresql') {
        const client = new pg.Client({ host, port, database: name, user, password });
        await client.connect();
        await client.end();
      } else {
        const connection = await createConnection({ host, port, user, password });
        await connection.end();
      }
      return true;
    } catch {
      return false;
    }
  };
  const parse = (given: object): Extract<RotatorSettings, { kind: Kind }> => {
    const settings = rotatorSettings.parse({
      kind,
      host: address.hostname,
      port: Number(address.port),
      tls: 'off',
      rules: { length: 24, classes: ['lower', 'upper', 'digits', 'symbols'] },
      ...(kind === 'postgresql' ? { database: address.pathname.slice(1) } : {}),
      ...given,
    });
    if (settings.kind !== kind) throw new Error('wrong kind');
    return settings as Extract<RotatorSettings, { kind: Kind }>;
  };
  const rotatorOf = (given: object) => {
    const settings = parse(given);
    return settings.kind === 'postgresql'
      ? databaseRotator(settings, postgresqlUser)
      : databaseRotator(settings, mysqlUser);
  };
  const administrator = { namespace: 'ops', secret: 'database-admin' };
  const readSecret = async () => address.href;

  rotatorSuite(`${kind}, the user itself`, async (): Promise<RotatedWorld> => {
    const user = newUser();
    await createUser(user, 'first-value');
    return {
      rotator: rotatorOf({ user }),
      current: { value: 'first-value', encoding: 'text' },
      works: ({ value }) => canLogIn(user, value),
      overlaps: false,
    };
  });

  rotatorSuite(`${kind}, two users that take turns`, async (): Promise<RotatedWorld> => {
    const users = [newUser(), newUser()] as const;
    await createUser(users[0], 'first-value');
    await createUser(users[1], 'never-known');
    const of = ({ value }: RotationValue) => JSON.parse(value);
    return {
      rotator: rotatorOf({ users, administrator, format: 'json' }),
      current: {
        value: JSON.stringify({ username: users[0], password: 'first-value', port: 1 }),
        encoding: 'text',
      },
      works: (value) => canLogIn(of(value).username, of(value).password),
      overlaps: true,
      readSecret,
    };
  });

  test(`${kind}: a connection string keeps what else it holds`, async () => {
    const user = newUser();
    await createUser(user, 'first-value');
    const url = new URL(address.href);
    url.username = encodeURIComponent(user);
    url.password = 'first-value';
    url.searchParams.set('application_name', 'shop');
    const world: RotatedWorld = {
      rotator: rotatorOf({ format: 'url', administrator }),
      current: { value: url.href, encoding: 'text' },
      works: async () => true,
      overlaps: false,
      readSecret,
    };
    const next = await world.rotator.create(workOf(world));
    await world.rotator.apply(workOf(world), next);
    const after = new URL(next.value);
    expect(await canLogIn(user, decodeURIComponent(after.password))).toBe(true);
    expect(after.searchParams.get('application_name')).toBe('shop');
    expect([after.host, after.pathname, after.username]).toEqual([
      url.host,
      url.pathname,
      url.username,
    ]);
  });

  test(`${kind}: failures say what kind they are, and no value`, async () => {
    const user = newUser();
    await createUser(user, 'first-value');
    const world = {
      rotator: rotatorOf({ user }),
      current: { value: 'not-the-password', encoding: 'text' } as const,
      works: async () => true,
      overlaps: false,
    };
    await expect(world.rotator.apply(workOf(world), world.current)).rejects.toMatchObject({
      code: 'wrong-password',
    });
    const away = { ...world, rotator: rotatorOf({ user, port: 1, timeoutSeconds: 2 }) };
    await expect(away.rotator.apply(workOf(away), world.current)).rejects.toMatchObject({
      code: 'unreachable',
    });
    const nobody = { ...world, readSecret, rotator: rotatorOf({ user: 'nobody', administrator }) };
    await expect(nobody.rotator.apply(workOf(nobody), world.current)).rejects.toMatchObject({
      code: 'refused',
      message: expect.stringMatching(/^The server refused it with code \w+$/),
    });
  });

  test(`${kind}: settings that contradict each other are refused`, () => {
    expect(problemOfDatabase(parse({}))).toMatch(/needs a user/);
    expect(problemOfDatabase(parse({ users: ['a', 'b'], format: 'json' }))).toMatch(
      /administrator/,
    );
    expect(problemOfDatabase(parse({ users: ['a', 'b'], administrator }))).toMatch(/format/);
    expect(problemOfDatabase(parse({ users: ['a', 'a'], administrator, format: 'json' }))).toMatch(
      /two/,
    );
    expect(problemOfDatabase(parse({ format: 'json' }))).toBeUndefined();
  });
});

test('a SCRAM verifier is what PostgreSQL itself would store', async () => {
  const { scramVerifier } = await import('./postgresql-user.ts');
  // RFC 7677, section 3.
  const verifier = await scramVerifier('pencil', Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'));
  expect(verifier).toBe(
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=',
  );
});

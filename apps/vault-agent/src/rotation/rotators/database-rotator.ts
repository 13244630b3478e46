/**
 * The password of a user of a database server, changed by the user itself or by an administrator.
 *
 * With one user the password before ends the moment the new one is applied. With two that take turns the
 * one before goes on working until the overlap has passed; it is then given a password that nobody knows.
 */
import type { RotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { openSql, type Queries, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import { generateValue } from '../generated-value.ts';
import {
  asFailure,
  outOfTime,
  RotationFailure,
  type RotationValue,
  type RotationWork,
  type Rotator,
} from '../rotator.ts';
import { type Credential, readCredential, writeCredential } from './credential.ts';

export type DatabaseSettings = Extract<RotatorSettings, { kind: 'postgresql' | 'mysql' }>;

type NoTables = Record<string, never>;

export interface UserDialect<Settings extends DatabaseSettings> {
  kind: Settings['kind'];
  defaultDatabase: string | undefined;
  /** Added to the address, for the TLS that the settings ask for. */
  tlsParameters(tls: Settings['tls']): Record<string, string>;
  /** @param isOwn the connection is the user's own */
  changePassword(
    queries: Queries<NoTables>,
    change: { settings: Settings; user: string; password: string; isOwn: boolean },
  ): Promise<void>;
  /** Whether the server said that user or password are wrong. */
  isWrongPassword(error: unknown): boolean;
  /** The server's own code of an error, which holds no value. */
  codeOf(error: unknown): string | undefined;
}

/** What is wrong with the settings together, or undefined. */
export function problemOfDatabase(settings: DatabaseSettings): string | undefined {
  const { users, administrator, format, user } = settings;
  if (users !== undefined) {
    if (administrator === undefined) return 'users that take turns need an administrator';
    if (format === 'password') return 'users that take turns need the format json or url';
    if (users[0] === users[1]) return 'users that take turns are two';
    if (user !== undefined) return 'user and users exclude each other';
  } else if (format === 'password' && user === undefined) {
    return 'the format password needs a user';
  }
  return undefined;
}

export function databaseRotator<Settings extends DatabaseSettings>(
  settings: Settings,
  dialect: UserDialect<Settings>,
): Rotator {
  const credentialOf = (value: RotationValue) => withUser(settings, textOf(value));

  const connect = async <T>(
    { username, password }: { username: string; password: string },
    signal: AbortSignal,
    work: (store: SqlStore<NoTables>) => Promise<T>,
  ): Promise<T> => {
    const address = new URL(`${dialect.kind === 'mysql' ? 'mysql' : 'postgresql'}://host`);
    address.hostname = settings.host.includes(':') ? `[${settings.host}]` : settings.host;
    address.port = String(settings.port);
    address.username = encodeURIComponent(username);
    address.password = encodeURIComponent(password);
    const database = settings.database ?? dialect.defaultDatabase;
    if (database !== undefined) address.pathname = `/${encodeURIComponent(database)}`;
    for (const [name, value] of Object.entries(dialect.tlsParameters(settings.tls))) {
      address.searchParams.set(name, value);
    }
    const store = await openSql<NoTables>({
      kind: dialect.kind,
      connectionString: address.href,
      connectionsMax: 1,
      connectTimeoutMs: settings.timeoutSeconds * 1_000,
    });
    const late = outOfTime(signal, 'The server did not answer in time');
    try {
      return await Promise.race([work(store), late.promise]);
    } catch (error) {
      throw failureOf(error, signal);
    } finally {
      late.stop();
      // A connection that hangs is left to its own end.
      void store.close().catch(() => undefined);
    }
  };

  const failureOf = (error: unknown, signal: AbortSignal): RotationFailure => {
    if (error instanceof RotationFailure || signal.aborted) return asFailure(error, signal);
    if (dialect.isWrongPassword(error)) {
      return new RotationFailure('wrong-password', 'The server refused user or password');
    }
    if (isUnreachable(error)) {
      return new RotationFailure('unreachable', 'The server could not be reached');
    }
    const code = dialect.codeOf(error);
    return new RotationFailure(
      'refused',
      `The server refused it${code === undefined ? '' : ` with code ${code}`}`,
    );
  };

  const works = (credential: Named, signal: AbortSignal) =>
    connect(credential, signal, async (store) => {
      await store.db.selectNoFrom((row) => row.lit(1).as('one')).execute();
    });

  /** As the administrator, or as the user with the first of the passwords that works. */
  const change = async (
    work: RotationWork,
    user: string,
    password: string,
    own: readonly Named[],
  ): Promise<void> => {
    const { administrator } = settings;
    const set = (as: Named) =>
      connect(as, work.signal, (store) =>
        dialect.changePassword(store.db, {
          settings,
          user,
          password,
          isOwn: administrator === undefined,
        }),
      );
    if (administrator !== undefined) {
      const text = (await work.readSecret(administrator)).trim();
      const { username, password: secret } = readCredential(
        text,
        text.startsWith('{') ? 'json' : 'url',
      );
      if (username === undefined) {
        throw new RotationFailure('bad-value', 'The secret of the administrator names no user');
      }
      return set({ username, password: secret });
    }
    let refused: unknown;
    for (const credential of own) {
      try {
        return await set(credential);
      } catch (error) {
        if (!(error instanceof RotationFailure) || error.code !== 'wrong-password') throw error;
        refused ??= error;
      }
    }
    throw refused;
  };

  return {
    kind: dialect.kind,
    timeoutMs: settings.timeoutSeconds * 1_000,
    create: async ({ current }) => {
      const { username } = credentialOf(current);
      const text = textOf(current);
      return writeCredential(text, settings.format, {
        username: settings.format === 'password' ? undefined : turnOf(settings.users, username),
        password: generateValue(settings.rules),
      });
    },
    apply: async (work, next) => {
      const [before, after] = [credentialOf(work.current), credentialOf(next)];
      // Again after a crash the new password may be in force already.
      await change(work, after.username, after.password, [before, after]);
    },
    verify: (work, value) => works(credentialOf(value), work.signal),
    rollBack: async (work, next) => {
      const [before, after] = [credentialOf(work.current), credentialOf(next)];
      try {
        return await works(before, work.signal);
      } catch (error) {
        if (!(error instanceof RotationFailure) || error.code !== 'wrong-password') throw error;
      }
      await change(work, before.username, before.password, [after]);
    },
    retire: async (work, retired) => {
      const [now, before] = [credentialOf(work.current), credentialOf(retired)];
      // The same user: its password was replaced when the new one was applied.
      if (settings.users === undefined || now.username === before.username) return;
      await change(work, before.username, generateValue(settings.rules), []);
    },
  };
}

interface Named extends Credential {
  username: string;
}

function withUser(settings: DatabaseSettings, text: string): Named {
  const { username, password } = readCredential(text, settings.format);
  const name = settings.users === undefined ? (settings.user ?? username) : username;
  if (name === undefined) throw new RotationFailure('bad-value', 'The secret names no user');
  return { username: name, password };
}

function turnOf(users: readonly [string, string] | undefined, before: string): string {
  if (users === undefined) return before;
  return before === users[0] ? users[1] : users[0];
}

function textOf({ value, encoding }: RotationValue): string {
  return encoding === 'text' ? value : Buffer.from(value, 'base64').toString('utf8');
}

function isUnreachable(error: unknown): boolean {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  return (
    (typeof code === 'string' && /^E[A-Z_]+$/.test(code) && !code.startsWith('ER_')) ||
    code === 'PROTOCOL_CONNECTION_LOST' ||
    (typeof message === 'string' && /^(?:Connection terminated|timeout exceeded)/.test(message))
  );
}

/**
 * `alter user … identified by`. MariaDB gets the hash of its password, so that the password itself is in
 * no statement; MySQL, whose hashes differ by the account's plugin, keeps statements of this kind out of
 * its logs by itself.
 */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { DatabaseSettings, UserDialect } from './database-rotator.ts';

type Settings = Extract<DatabaseSettings, { kind: 'mysql' }>;

/** What `mysql_native_password` stores. */
export function nativePasswordHash(password: string): string {
  const sha1 = (bytes: string | Buffer) => createHash('sha1').update(bytes).digest();
  return `*${sha1(sha1(password)).toString('hex').toUpperCase()}`;
}

export const mysqlUser: UserDialect<Settings> = {
  kind: 'mysql',
  defaultDatabase: undefined,
  tlsParameters: (tls): Record<string, string> =>
    tls === 'off' ? {} : { ssl: JSON.stringify({ rejectUnauthorized: tls === 'verify' }) },
  changePassword: async (queries, { settings, user, password, isOwn }) => {
    const { rows } = await sql<{ version: string }>`select version() as version`.execute(queries);
    const isMariadb = /mariadb/i.test(rows[0]?.version ?? '');
    // The driver writes parameters into the text as literals, which is what these statements take.
    const account = sql`${user}@${settings.accountHost}`;
    const stored = isMariadb ? nativePasswordHash(password) : password;
    // A user needs no right to change its own.
    const own = sql`set password = ${stored}`;
    const other = isMariadb
      ? sql`alter user ${account} identified by password ${stored}`
      : sql`alter user ${account} identified by ${stored}`;
    await (isOwn ? own : other).execute(queries);
  },
  isWrongPassword: (error) => {
    const { errno } = (error ?? {}) as { errno?: unknown };
    // ER_ACCESS_DENIED_ERROR, and where no password was expected.
    return errno === 1045 || errno === 1698;
  },
  codeOf: (error) => {
    const { errno } = (error ?? {}) as { errno?: unknown };
    return typeof errno === 'number' && errno > 0 ? String(errno) : undefined;
  },
};

/**
 * `alter role … password`: with a SCRAM-SHA-256 verifier (RFC 5803) made here, so that the password
 * itself is in no statement, and in no log of statements.
 */
import { createHash, createHmac, pbkdf2 as pbkdf2WithCallback, randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { RotationFailure } from '../rotator.ts';
import type { DatabaseSettings, UserDialect } from './database-rotator.ts';

const pbkdf2 = promisify(pbkdf2WithCallback);
/** PostgreSQL's own number. */
const iterations = 4_096;

/** As PostgreSQL stores it: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`. */
export async function scramVerifier(
  password: string,
  salt: Buffer = randomBytes(16),
): Promise<string> {
  // Other characters would have to be normalized as the server does (RFC 4013).
  if (!/^[\x20-\x7e]+$/.test(password)) {
    throw new RotationFailure('bad-value', 'A password has to be printable ASCII characters');
  }
  const salted = await pbkdf2(password, salt, iterations, 32, 'sha256');
  const keyed = (text: string) => createHmac('sha256', salted).update(text).digest();
  const storedKey = createHash('sha256').update(keyed('Client Key')).digest('base64');
  const serverKey = keyed('Server Key').toString('base64');
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${serverKey}`;
}

type Settings = Extract<DatabaseSettings, { kind: 'postgresql' }>;

export const postgresqlUser: UserDialect<Settings> = {
  kind: 'postgresql',
  defaultDatabase: 'postgres',
  tlsParameters: (tls) => ({
    sslmode: { off: 'disable', require: 'no-verify', verify: 'verify-full' }[tls],
  }),
  changePassword: async (queries, { user, password }) => {
    // Neither part can be a parameter; the verifier has no quote in it, the name is quoted.
    const verifier = sql.lit(await scramVerifier(password));
    await sql`alter role ${sql.id(user)} with password ${verifier}`.execute(queries);
  },
  isWrongPassword: (error) => {
    const { code } = (error ?? {}) as { code?: unknown };
    return code === '28P01' || code === '28000';
  },
  codeOf: (error) => {
    const { code } = (error ?? {}) as { code?: unknown };
    return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
  },
};

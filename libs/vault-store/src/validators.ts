/** What may be stored. An own rule may be stricter or looser than these; limits of the tables stay. */
import { requireText } from './argument-kinds.ts';
import { vaultLimits } from './limits.ts';
import { isGeneratedToken } from './token-format.ts';
import {
  InvalidId,
  InvalidTime,
  InvalidToken,
  PasswordRefused,
  PasswordRequired,
  PasswordTooLong,
  TokenRequired,
  ValueRefused,
  ValueRequired,
  ValueTooLarge,
  WrongKind,
} from './vault-error.ts';

/** Each says why not, or undefined. */
export interface Validators {
  /** For a token that a caller makes up. */
  token(token: string): string | undefined;
  /** For a password that is set, never for one that is only used to read. */
  password(password: string): string | undefined;
  value(value: Uint8Array): string | undefined;
}

export const defaultValidators: Validators = {
  token: () => undefined,
  password: (password) =>
    [...password.normalize('NFC')].length < vaultLimits.minPasswordCharacters
      ? `it needs at least ${vaultLimits.minPasswordCharacters} characters`
      : undefined,
  value: () => undefined,
};

/** @throws TokenRequired, WrongKind, InvalidToken */
export function requireToken(token: string, prefix: string, validators: Validators): string {
  if (isAbsent(token)) throw new TokenRequired();
  requireText('a token', token);
  if (token.length > vaultLimits.maxTokenCharacters) {
    throw new InvalidToken(`it has at most ${vaultLimits.maxTokenCharacters} characters`);
  }
  // What every database compares alike and what a URL, a log and a person can carry.
  if (!/^[!-~]+$/.test(token)) throw new InvalidToken('it is printable ASCII without spaces');
  if (token.startsWith(`${prefix}_`) && !isGeneratedToken(token, prefix)) {
    throw new InvalidToken('it looks like a generated one, and its checksum does not match');
  }
  const reason = validators.token(token);
  if (reason !== undefined) throw new InvalidToken(reason);
  return token;
}

/**
 * For a password that is only used: any that could ever have been set.
 * @throws PasswordRequired, WrongKind, PasswordTooLong
 */
export function requirePassword(password: string): string {
  if (isAbsent(password)) throw new PasswordRequired();
  requireText('a password', password);
  if (Buffer.byteLength(password.normalize('NFC')) > vaultLimits.maxPasswordBytes) {
    throw new PasswordTooLong(vaultLimits.maxPasswordBytes);
  }
  return password;
}

/** @throws PasswordRequired, PasswordTooLong, PasswordRefused */
export function requireNewPassword(password: string, validators: Validators): string {
  requirePassword(password);
  const reason = validators.password(password);
  if (reason !== undefined) throw new PasswordRefused(reason);
  return password;
}

/** Text as UTF-8. @throws ValueRequired, WrongKind, ValueRefused, ValueTooLarge */
export function requireValue(value: string | Uint8Array, validators: Validators): Uint8Array {
  if (isAbsent(value)) throw new ValueRequired();
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    throw new WrongKind('a value', 'text or bytes (Uint8Array)', value);
  }
  if (value.length === 0) throw new ValueRequired();
  if (typeof value === 'string' && !value.isWellFormed()) {
    throw new ValueRefused('it is no well-formed text');
  }
  const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value;
  if (bytes.length > vaultLimits.maxValueBytes) throw new ValueTooLarge(vaultLimits.maxValueBytes);
  const reason = validators.value(bytes);
  if (reason !== undefined) throw new ValueRefused(reason);
  return bytes;
}

export const isAbsent = (given: unknown) => given === undefined || given === null || given === '';

/** @throws WrongKind, InvalidId */
export function requireId(id: string): string {
  requireText('an id', id);
  if (!/^[A-Za-z0-9_-]+$/.test(id) || id.length > vaultLimits.maxIdCharacters)
    throw new InvalidId();
  return id;
}

/** Milliseconds since 1970, or null for never. */
export function requireTime(timeMs: number | null): number | null {
  if (timeMs === null) return null;
  if (!Number.isSafeInteger(timeMs) || timeMs < 0 || timeMs > 8.64e15) {
    throw new InvalidTime('it is a whole number of milliseconds since 1970, or null');
  }
  return timeMs;
}

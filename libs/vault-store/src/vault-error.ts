/** What can go wrong, by type and by `code`. No message holds a password, a value or a token. */

export type VaultErrorCode =
  | 'wrong_kind'
  | 'token_required'
  | 'invalid_token'
  | 'token_already_exists'
  | 'token_expired'
  | 'value_required'
  | 'value_refused'
  | 'value_too_large'
  | 'value_is_not_text'
  | 'password_required'
  | 'password_too_long'
  | 'password_refused'
  | 'password_unchanged'
  | 'invalid_password'
  | 'invalid_data'
  | 'invalid_time'
  | 'invalid_id'
  | 'invalid_query'
  | 'invalid_cursor'
  | 'invalid_setting'
  | 'record_not_found'
  | 'record_already_exists'
  | 'record_changed'
  | 'corrupt_record'
  | 'schema_missing'
  | 'schema_too_new'
  | 'schema_busy'
  | 'rekey_taken_over'
  | 'rekey_failed'
  | 'vault_closed';

export class VaultError extends Error {
  readonly code: VaultErrorCode;

  constructor(code: VaultErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An argument that is no text, no object, no number, …, as it has to be: a mistake in the calling program. */
export class WrongKind extends VaultError {
  constructor(what: string, wanted: string, given: unknown) {
    super('wrong_kind', `${what} must be ${wanted}, not ${kindOf(given)}`);
  }
}

function kindOf(given: unknown): string {
  if (given === undefined || given === null) return String(given);
  if (Array.isArray(given)) return 'a list';
  if (typeof given === 'string') return 'this text';
  if (typeof given === 'number') return 'this number';
  return typeof given === 'object' ? 'an object' : `a ${typeof given}`;
}

export class TokenRequired extends VaultError {
  constructor() {
    super('token_required', 'a token is required');
  }
}

export class InvalidToken extends VaultError {
  constructor(reason: string) {
    super('invalid_token', `the token is not valid: ${reason}`);
  }
}

export class TokenAlreadyExists extends VaultError {
  constructor() {
    super('token_already_exists', 'a record with this token exists');
  }
}

/** The record is there, and its time is over. `renew` gives it more. */
export class TokenExpired extends VaultError {
  readonly expiredAtMs: number;

  constructor(expiredAtMs: number) {
    super('token_expired', `the token expired at ${new Date(expiredAtMs).toISOString()}`);
    this.expiredAtMs = expiredAtMs;
  }
}

export class ValueRequired extends VaultError {
  constructor() {
    super('value_required', 'a value is required');
  }
}

export class ValueRefused extends VaultError {
  constructor(reason: string) {
    super('value_refused', `the value may not be stored: ${reason}`);
  }
}

export class ValueTooLarge extends VaultError {
  constructor(maxBytes: number) {
    super('value_too_large', `a value has at most ${maxBytes} bytes`);
  }
}

/** Read as text what is bytes: `readBytes` gives them as they are. */
export class ValueIsNotText extends VaultError {
  constructor() {
    super('value_is_not_text', 'the value is not UTF-8 text; read it as bytes');
  }
}

export class PasswordRequired extends VaultError {
  constructor() {
    super('password_required', 'a password is required');
  }
}

export class PasswordTooLong extends VaultError {
  constructor(maxBytes: number) {
    super('password_too_long', `a password has at most ${maxBytes} bytes`);
  }
}

/** A password that may not be set. Never thrown where one is only used to read. */
export class PasswordRefused extends VaultError {
  constructor(reason: string) {
    super('password_refused', `the password may not be set: ${reason}`);
  }
}

export class PasswordUnchanged extends VaultError {
  constructor() {
    super('password_unchanged', 'the new password is the old one');
  }
}

/** The record is intact and was encrypted under another password. */
export class InvalidPassword extends VaultError {
  constructor() {
    super('invalid_password', 'the record is under another password');
  }
}

/** Not what was stored: a password has nothing to do with it. */
export class CorruptRecord extends VaultError {
  readonly recordId: string;

  constructor(recordId: string, cause?: unknown) {
    super('corrupt_record', `record ${recordId} is corrupt`, { cause });
    this.recordId = recordId;
  }
}

export class InvalidData extends VaultError {
  constructor(reason: string) {
    super('invalid_data', `the metadata is not valid: ${reason}`);
  }
}

export class InvalidTime extends VaultError {
  constructor(reason: string) {
    super('invalid_time', `the time is not valid: ${reason}`);
  }
}

export class InvalidId extends VaultError {
  constructor() {
    super('invalid_id', 'an id is 1 to 64 of A–Z, a–z, 0–9, _ and -');
  }
}

export class InvalidQuery extends VaultError {
  constructor(reason: string) {
    super('invalid_query', `the query is not valid: ${reason}`);
  }
}

export class InvalidCursor extends VaultError {
  constructor() {
    super('invalid_cursor', 'the cursor is not of this query');
  }
}

export class InvalidSetting extends VaultError {
  constructor(reason: string) {
    super('invalid_setting', `the setting is not valid: ${reason}`);
  }
}

export class RecordNotFound extends VaultError {
  constructor() {
    super('record_not_found', 'there is no such record');
  }
}

export class RecordAlreadyExists extends VaultError {
  constructor() {
    super('record_already_exists', 'a record with this id exists');
  }
}

/** Others changed the record faster than this change could be made; nothing was done. */
export class RecordChanged extends VaultError {
  constructor() {
    super('record_changed', 'the record keeps being changed by others');
  }
}

export class SchemaMissing extends VaultError {
  constructor(found: number, needed: number) {
    super(
      'schema_missing',
      `the tables are of version ${found}, needed is ${needed}: migrate them`,
    );
  }
}

export class SchemaTooNew extends VaultError {
  constructor(found: number, known: number) {
    super(
      'schema_too_new',
      `the tables are of version ${found}, known is ${known}: update the program`,
    );
  }
}

export class SchemaBusy extends VaultError {
  constructor(waitedSeconds: number) {
    super(
      'schema_busy',
      `another process has been bringing the tables up to date for ${waitedSeconds} s: start again later`,
    );
  }
}

export class VaultClosed extends VaultError {
  constructor() {
    super('vault_closed', 'the vault is closed');
  }
}

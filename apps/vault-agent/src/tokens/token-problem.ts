/** What an error of the vault store is to a caller of the API. */
import { type ErrorCode, type ProblemDetail, ServiceError } from '@keystead/contracts/errors';
import { VaultError, type VaultErrorCode } from '@keystead/vault-store/vault-error';
import { isStoreAway } from '../store/store-breaker.ts';

const codes: Record<VaultErrorCode, ErrorCode> = {
  wrong_kind: 'internal',
  token_required: 'invalid_request',
  invalid_token: 'invalid_request',
  token_already_exists: 'conflict',
  token_expired: 'gone',
  value_required: 'invalid_request',
  value_refused: 'invalid_request',
  value_too_large: 'payload_too_large',
  value_is_not_text: 'unprocessable',
  password_required: 'invalid_request',
  password_too_long: 'invalid_request',
  password_refused: 'invalid_request',
  password_unchanged: 'invalid_request',
  invalid_password: 'invalid_password',
  invalid_data: 'invalid_request',
  invalid_time: 'invalid_request',
  invalid_id: 'invalid_request',
  invalid_query: 'invalid_request',
  invalid_cursor: 'invalid_cursor',
  invalid_setting: 'invalid_request',
  record_not_found: 'not_found',
  record_already_exists: 'conflict',
  record_changed: 'conflict',
  corrupt_record: 'corrupt_record',
  schema_missing: 'internal',
  schema_too_new: 'internal',
  schema_busy: 'unavailable',
  rekey_taken_over: 'conflict',
  rekey_failed: 'unavailable',
  vault_closed: 'unavailable',
};

/** Where in a body the fault may stand, the likeliest field first. */
const fields: Partial<Record<VaultErrorCode, readonly string[]>> = {
  token_required: ['token', 'tokens'],
  invalid_token: ['token', 'tokens'],
  token_already_exists: ['token'],
  value_required: ['value'],
  value_refused: ['value'],
  value_too_large: ['value'],
  password_required: ['password'],
  password_refused: ['newPassword', 'password'],
  password_unchanged: ['newPassword'],
  invalid_password: ['password', 'oldPassword'],
  invalid_data: ['data'],
  invalid_time: ['expiresAt'],
  invalid_id: ['id'],
  record_already_exists: ['id'],
};

/** No message of the vault store holds a password, a value or a token. */
export function tokenProblem(error: unknown, body: object = {}): unknown {
  if (error instanceof ServiceError) return error;
  if (error instanceof VaultError) {
    const code = codes[error.code];
    if (code === 'not_found') return new ServiceError('not_found');
    if (code === 'internal') return error;
    const detail = `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}`;
    const errors = placesOf(error, body);
    return new ServiceError(code, { detail, cause: error, ...(errors && { errors }) });
  }
  if (isStoreAway(error)) {
    return new ServiceError('unavailable', {
      detail: 'The store of the vault is not available at the moment',
      retryAfterSeconds: 1,
      cause: error,
    });
  }
  return error;
}

function placesOf({ code, message }: VaultError, body: object): ProblemDetail[] | undefined {
  const field =
    code === 'password_too_long'
      ? tooLong(body)
      : fields[code]?.find((name) => Object.hasOwn(body, name));
  return field === undefined ? undefined : [{ in: 'body', path: `/${field}`, message }];
}

function tooLong(body: object): string | undefined {
  const passwords = Object.entries(body).filter(([name]) => /password$/i.test(name));
  const [longest] = passwords.toSorted(([, one], [, other]) => bytesOf(other) - bytesOf(one));
  return longest?.[0];
}

const bytesOf = (password: unknown) => Buffer.byteLength(String(password).normalize('NFC'));

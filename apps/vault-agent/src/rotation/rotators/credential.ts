/** User and password inside a secret, in one of three forms; what else it holds stays as it is. */
import type { credentialFormat } from '@keystead/contracts/agent-api/rotation';
import type { z } from 'zod';
import { RotationFailure, type RotationValue } from '../rotator.ts';

type Format = z.output<typeof credentialFormat>;

export interface Credential {
  username: string | undefined;
  password: string;
}

/** @throws RotationFailure `bad-value` */
export function readCredential(text: string, format: Format): Credential {
  if (format === 'password') return { username: undefined, password: text };
  if (format === 'url') {
    const url = parseUrl(text);
    return {
      username: url.username === '' ? undefined : decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
    };
  }
  const fields = parseObject(text);
  const { username, password } = fields;
  if (typeof password !== 'string' || (username !== undefined && typeof username !== 'string')) {
    throw badValue('has no texts "username" and "password"');
  }
  return { username, password };
}

/** @throws RotationFailure `bad-value` */
export function writeCredential(
  before: string,
  format: Format,
  credential: Credential,
): RotationValue {
  const { username, password } = credential;
  if (format === 'password') return { value: password, encoding: 'text' };
  if (format === 'url') {
    const url = parseUrl(before);
    if (username !== undefined) url.username = encodeURIComponent(username);
    url.password = encodeURIComponent(password);
    return { value: url.href, encoding: 'text' };
  }
  const fields = {
    ...parseObject(before),
    ...(username === undefined ? {} : { username }),
    password,
  };
  return { value: JSON.stringify(fields), encoding: 'text' };
}

function parseObject(text: string): Record<string, unknown> {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw badValue('is no JSON');
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw badValue('is no JSON object');
  }
  return content as Record<string, unknown>;
}

function parseUrl(text: string): URL {
  if (!URL.canParse(text)) throw badValue('is no URL');
  return new URL(text);
}

function badValue(what: string): RotationFailure {
  return new RotationFailure('bad-value', `The secret ${what}`);
}

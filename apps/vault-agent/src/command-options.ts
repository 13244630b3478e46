/** What was given to a command, checked as a request of the API would be. */
import { ServiceError } from '@keystead/contracts/errors';
import { inOurWords, leafIssues } from '@keystead/contracts/issue-text';
import type { z } from 'zod';
import { ConfigurationError } from './configuration.ts';

/** Which option, as a person types it, gives a field of the body. */
export type OptionNames = Readonly<Record<string, string>>;

/** A fault is told of the option that gave it. @throws ConfigurationError */
export function checkOptions<Schema extends z.ZodType>(
  schema: Schema,
  given: unknown,
  names: OptionNames,
): z.output<Schema> {
  const parsed = schema.safeParse(given, inOurWords);
  if (parsed.success) return parsed.data;
  throw new ConfigurationError(
    leafIssues(parsed.error.issues).map(({ path, message }) =>
      toldOf(path.map(String), message, names),
    ),
  );
}

/** What was found wrong with a body later, likewise told of the options. */
export function toldOfOptions(error: unknown, names: OptionNames): unknown {
  if (!(error instanceof ServiceError) || error.errors === undefined) return error;
  return new ConfigurationError(
    error.errors.map(({ path, message }) => toldOf(path.split('/').slice(1), message, names)),
  );
}

function toldOf([field = '', place]: string[], message: string, names: OptionNames): string {
  const which = /^\d+$/.test(place ?? '') ? `, no. ${Number(place) + 1}` : '';
  return `${names[field] ?? field}${which}: ${message}`;
}

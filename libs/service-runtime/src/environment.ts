/** Reading the environment: every variable is checked, and a bad one is named before anything starts. */
import { readFileSync } from 'node:fs';
import { inOurWords, leafIssues } from '@keystead/contracts/issue-text';
import { limits } from '@keystead/contracts/limits';
import type { ServiceName } from '@keystead/contracts/operation';
import { z } from 'zod';

export class ConfigurationError extends Error {}

/** What every service reads. */
export const baseVariables = {
  KEYSTEAD_SERVICE_DATABASE_URL: z.string().min(1),
  KEYSTEAD_ACROSS_DATABASE_URL: z.string().min(1),
  KEYSTEAD_REDIS_URL: z.string().min(1),
  KEYSTEAD_NATS_URL: z.string().min(1),
  KEYSTEAD_SIGNING_KEY_FILE: z.string().min(1),
  KEYSTEAD_PUBLIC_KEYS_DIR: z.string().min(1),
  KEYSTEAD_INSTALLATION_KEY_FILE: z.string().min(1),
  KEYSTEAD_HEALTH_HOST: z.string().default('127.0.0.1'),
  KEYSTEAD_HEALTH_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  KEYSTEAD_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info'),
  KEYSTEAD_POOL_SIZE: z.coerce.number().int().min(2).max(200).default(8),
  KEYSTEAD_TRUST_DOMAIN: z
    .string()
    .regex(
      /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/,
      'must be a domain in lower case letters, digits, . and -',
    )
    .default('keystead.local'),
  KEYSTEAD_OFFLINE_AFTER_SECONDS: z.coerce
    .number()
    .int()
    .min(limits.offlineAfterMinSeconds)
    .max(limits.offlineAfterMaxSeconds)
    .default(limits.offlineAfterDefaultSeconds),
};

/**
 * Reads the base variables and those a service adds. `NAME_FILE` is read in place of `NAME` where
 * only that is set, so that a secret can be mounted.
 * @throws ConfigurationError naming every variable that is missing or wrong
 */
export function readEnvironment<T extends z.ZodRawShape>(
  added: T,
  environment: NodeJS.ProcessEnv = process.env,
): z.output<z.ZodObject<typeof baseVariables & T>> {
  const shape: z.ZodRawShape = { ...baseVariables, ...added };
  const values: Record<string, string> = {};
  for (const name of Object.keys(shape)) {
    const direct = environment[name];
    const file = environment[`${name}_FILE`];
    if (direct !== undefined && direct !== '') values[name] = direct;
    else if (file) values[name] = readMounted(`${name}_FILE`, file);
  }
  const parsed = z.object(shape).safeParse(values, inOurWords);
  if (!parsed.success) {
    const lines = leafIssues(parsed.error.issues).map((issue) => {
      const name = issue.path.join('.');
      return `  ${name}: ${values[name] === undefined ? 'is not set' : issue.message}`;
    });
    throw new ConfigurationError(`The environment is not complete:\n${lines.join('\n')}`);
  }
  return parsed.data as z.output<z.ZodObject<typeof baseVariables & T>>;
}

function readMounted(variable: string, file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const problem = code === 'ENOENT' ? 'does not exist' : `cannot be read: ${code}`;
    throw new ConfigurationError(`${variable}: ${file} ${problem}`);
  }
}

export type BaseEnvironment = z.output<z.ZodObject<typeof baseVariables>>;

export interface RuntimeOptions {
  service: ServiceName;
  environment: BaseEnvironment;
}

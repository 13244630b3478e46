import { isIP } from 'node:net';
import { limits } from '@keystead/contracts/limits';
import { readEnvironment } from '@keystead/service-runtime/environment';
import { z } from 'zod';

const list = z
  .string()
  .default('')
  .transform((text) =>
    text
      .split(',')
      .map((part) => part.trim())
      .filter((part) => part !== ''),
  );

const port = z.coerce.number().int().min(0).max(65_535);

function isNetwork(text: string): boolean {
  const [address = '', length, ...rest] = text.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  return length === undefined || (/^\d{1,3}$/.test(length) && Number(length) <= family * 32);
}

export const variables = {
  KEYSTEAD_HTTP_HOST: z.string().min(1).default('127.0.0.1'),
  KEYSTEAD_HTTP_PORT: port.default(8_080),
  /** Origins that browsers may call from; none unless named. */
  KEYSTEAD_CORS_ORIGINS: list.pipe(
    z.array(z.string().refine((text) => URL.canParse(text) && new URL(text).origin === text)),
  ),
  /** Addresses of reverse proxies whose `X-Forwarded-For` is believed. */
  KEYSTEAD_TRUSTED_PROXIES: list.pipe(z.array(z.string().refine(isNetwork))),
  /** Whether the API is reached by https: browsers are then told to stay there. */
  KEYSTEAD_PUBLIC_URL: z.url().optional(),
  KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER: z.coerce
    .number()
    .int()
    .min(1)
    .default(limits.requestsPerMinutePerCaller),
  KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS: z.coerce
    .number()
    .int()
    .min(1)
    .default(limits.requestsPerMinutePerAddress),
};

export const readConfig = (environment?: NodeJS.ProcessEnv) =>
  readEnvironment(variables, environment);
export type Config = ReturnType<typeof readConfig>;

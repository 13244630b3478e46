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

/** The two halves of a gateway: the HTTP API, and the agent link. */
const halves = ['rest', 'agents'] as const;

const port = z.coerce.number().int().min(0).max(65_535);

function isNetwork(text: string): boolean {
  const [address = '', length, ...rest] = text.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  return length === undefined || (/^\d{1,3}$/.test(length) && Number(length) <= family * 32);
}

export const variables = {
  KEYSTEAD_GATEWAY_HALVES: z
    .string()
    .default(halves.join(','))
    .transform((text) => text.split(',').map((part) => part.trim()))
    .pipe(z.array(z.enum(halves)).min(1)),
  KEYSTEAD_HTTP_HOST: z.string().min(1).default('127.0.0.1'),
  KEYSTEAD_HTTP_PORT: port.default(8_080),
  KEYSTEAD_AGENT_PORT: port.default(8_443),
  /** Where the agent link listens; the host of the HTTP API unless named. */
  KEYSTEAD_AGENT_LISTEN_HOST: z.string().min(1).optional(),
  /** HOST:PORT that agents dial; its host is in the server certificate. */
  KEYSTEAD_AGENT_ENDPOINT: z
    .string()
    .regex(/^(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/, 'must be HOST:PORT')
    .optional(),
  /** Further names and addresses for the server certificate. */
  KEYSTEAD_AGENT_HOSTS: list.pipe(z.array(z.string().max(253)).max(16)),
  /** Origins that browsers may call from; none unless named. */
  KEYSTEAD_CORS_ORIGINS: list.pipe(
    z.array(
      z
        .string()
        .refine(
          (text) => URL.canParse(text) && new URL(text).origin === text,
          'must be an origin, like https://example.com',
        ),
    ),
  ),
  /** Addresses of reverse proxies whose `X-Forwarded-For` is believed. */
  KEYSTEAD_TRUSTED_PROXIES: list.pipe(
    z.array(z.string().refine(isNetwork, 'must be an address or a network, like 10.0.0.0/8')),
  ),
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

export function readConfig(environment?: NodeJS.ProcessEnv) {
  const config = readEnvironment(variables, environment);
  const endpoint = config.KEYSTEAD_AGENT_ENDPOINT ?? `localhost:${config.KEYSTEAD_AGENT_PORT}`;
  return {
    ...config,
    agentListenHost: config.KEYSTEAD_AGENT_LISTEN_HOST ?? config.KEYSTEAD_HTTP_HOST,
    /** What the server certificate of the agent link covers. */
    agentHosts: [
      ...new Set([
        endpoint.slice(0, endpoint.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1'),
        'localhost',
        '127.0.0.1',
        ...config.KEYSTEAD_AGENT_HOSTS,
      ]),
    ],
  };
}
export type Config = ReturnType<typeof readConfig>;

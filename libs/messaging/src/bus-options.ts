import type { ServiceName } from '@keystead/contracts/operation';
import type { ServiceKeys } from './service-token.ts';

export interface BusOptions {
  natsUrl: string;
  service: ServiceName;
  keys: ServiceKeys;
}

/** Connection options: credentials come out of the URL, and a lost connection is tried for ever. */
export function natsConnection(options: Pick<BusOptions, 'natsUrl' | 'service'>) {
  const url = new URL(options.natsUrl);
  return {
    servers: [url.host],
    name: `keystead-${options.service}`,
    ...(url.username ? { user: decodeURIComponent(url.username) } : {}),
    ...(url.password ? { pass: decodeURIComponent(url.password) } : {}),
    ...(url.protocol === 'tls:' ? { tls: {} } : {}),
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    reconnectJitter: 250,
    waitOnFirstConnect: true,
    pingInterval: 10_000,
    maxPingOut: 2,
    inboxPrefix: `_INBOX.${options.service}`,
  };
}

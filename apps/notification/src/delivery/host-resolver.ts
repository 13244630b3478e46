/**
 * Resolves receivers' names through DNS itself rather than getaddrinfo: that one works on a pool
 * of four threads, which four names of slow zones would keep from everybody else, and it cannot
 * be cancelled. `/etc/hosts` and search domains are therefore not consulted.
 */
import { Resolver } from 'node:dns/promises';
import type { ResolveHost } from './guarded-transport.ts';

const queryTimeoutMs = 2_500;
const queryTries = 2;

/** @param servers name servers as `address:port`; those of the machine if absent */
export function hostResolver(servers?: string[]): ResolveHost {
  return async (hostname, signal) => {
    const resolver = new Resolver({ timeout: queryTimeoutMs, tries: queryTries });
    if (servers) resolver.setServers(servers);
    const cancel = () => resolver.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      const [four, six] = await Promise.allSettled([
        resolver.resolve4(hostname),
        resolver.resolve6(hostname),
      ]);
      const found = [four, six].flatMap((one) => (one.status === 'fulfilled' ? one.value : []));
      if (found.length === 0 && four.status === 'rejected') throw four.reason;
      return found;
    } finally {
      signal.removeEventListener('abort', cancel);
    }
  };
}

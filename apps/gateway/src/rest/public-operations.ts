/** What the gateway offers: every operation of the contract, and the stream it answers itself. */
import { operation } from '@keystead/contracts/operation';
import { operations } from '@keystead/contracts/operations';
import { z } from 'zod';

export const streamEvents = operation('gateway', 'events.stream', {
  method: 'GET',
  path: '/v1/events',
  summary: 'Follow status changes and alerts as server-sent events',
  tag: 'Events',
  permission: 'events.read',
  output: z.string(),
});

export const publicOperations = [...operations, streamEvents];

/** `/v1/vaults/{id}` as the router writes it: `/v1/vaults/:id`. */
export function routePattern(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ':$1');
}

/** Usage of vaults by the hour. */
import { z } from 'zod';
import { instant } from './fields.ts';
import { idSchema } from './ids.ts';
import { operation } from './operation.ts';

export const usageHour = z.object({
  hour: instant,
  /** Heartbeats of all agents of the vault received in the hour. */
  heartbeats: z.number().int(),
  /** Minutes of the hour in which at least one agent was heard, 0 to 60. */
  onlineMinutes: z.number().int().min(0).max(60),
  /** Outages that were opened in the hour. */
  outages: z.number().int(),
});

export const getVaultUsage = operation('analytics', 'usage.vault', {
  method: 'GET',
  path: '/v1/vaults/{id}/usage',
  summary: 'Show heartbeats, online minutes and outages of a vault by the hour',
  tag: 'Usage',
  permission: 'usage.read',
  params: z.strictObject({ id: idSchema('vault') }),
  query: z.strictObject({
    /** Default: 24 hours before `until`. At most 31 days are answered at once. */
    since: instant.optional(),
    until: instant.optional(),
  }),
  output: z.object({
    vaultId: idSchema('vault'),
    since: instant,
    until: instant,
    hours: z.array(usageHour),
    totals: z.object({
      heartbeats: z.number().int(),
      onlineMinutes: z.number().int(),
      outages: z.number().int(),
    }),
  }),
});

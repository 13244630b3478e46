/** Usage of vaults by the hour. */
import { z } from 'zod';
import { instant } from './fields.ts';
import { idSchema } from './ids.ts';
import { operation } from './operation.ts';

/** What agents were asked for, by their own reports. */
export const operationUsage = z.object({
  /** For example `secret_read`. */
  operation: z.string(),
  /** `done`, `denied`, `refused`, `throttled`, `failed`. */
  outcome: z.string(),
  count: z.number().int(),
  /** From request to answer; of the worst reported period, because percentiles cannot be added. */
  p50Us: z.number().int(),
  p95Us: z.number().int(),
  p99Us: z.number().int(),
});

export const usageHour = z.object({
  hour: instant,
  /** Heartbeats of all agents of the vault received in the hour. */
  heartbeats: z.number().int(),
  /** Minutes of the hour in which at least one agent was heard, 0 to 60. */
  onlineMinutes: z.number().int().min(0).max(60),
  /** Outages that were opened in the hour. */
  outages: z.number().int(),
  /** Requests to agents in the hour, by the agents' clocks; may still grow while one is offline. */
  operations: z.number().int(),
});

export const getVaultUsage = operation('analytics', 'usage.vault', {
  method: 'GET',
  path: '/v1/vaults/{id}/usage',
  summary: 'Show what a vault was used for by the hour: heartbeats, outages, operations',
  tag: 'Usage',
  permission: 'usage.read',
  params: z.strictObject({ id: idSchema('vault') }),
  query: z.strictObject({
    /** Default: 24 hours before `until`. At most 31 days are answered at once. */
    since: instant.optional(),
    until: instant.optional(),
    /** Only what this agent reported; heartbeats and outages are the vault's. */
    agentId: idSchema('agent').optional(),
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
      operations: z.number().int(),
    }),
    operations: z.array(operationUsage),
    /** The secrets that were read most, by a keyed hash that the agent's owner can resolve. */
    topSecrets: z.array(z.object({ secretRef: z.string(), count: z.number().int() })),
    /** The newest report within the range; null where no agent reported. */
    stock: z
      .object({
        at: instant,
        namespaces: z.number().int(),
        secrets: z.number().int(),
        storedBytes: z.number().int(),
      })
      .nullable(),
  }),
});

/**
 * Ctx: who calls, for which organization, with which permissions. It is the first argument
 * everywhere and is minted by the guard alone; between services it travels signed.
 */
import { z } from 'zod';
import { permissions, role } from './permissions.ts';

export const actor = z.object({
  kind: z.enum(['person', 'apiKey', 'agent', 'system', 'anonymous']),
  /** Public id, or the name of the duty for `system`. */
  id: z.string(),
  name: z.string(),
});
export type Actor = z.infer<typeof actor>;

export const ctx = z.object({
  /** uuid; null for callers outside any organization (sign-up, sign-in, system duties). */
  organizationId: z.uuid().nullable(),
  actor,
  role: role.nullable(),
  permissions: z.array(z.enum(permissions)),
  /** uuid of the person behind a session. */
  personId: z.uuid().nullable(),
  /** uuid of the session or API key, for revocation checks. */
  credentialId: z.uuid().nullable(),
  requestId: z.string(),
  address: z.string().nullable(),
  userAgent: z.string().nullable(),
  idempotencyKey: z.string().nullable(),
});
export type Ctx = z.infer<typeof ctx>;

/** A Ctx that certainly has an organization. */
export type TenantCtx = Ctx & { organizationId: string };

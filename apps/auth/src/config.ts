import { limits } from '@keystead/contracts/limits';
import { readEnvironment } from '@keystead/service-runtime/environment';
import { z } from 'zod';

export const readConfig = (environment: NodeJS.ProcessEnv = process.env) =>
  readEnvironment(
    {
      /** Whether anybody may sign up an organization. */
      KEYSTEAD_SIGN_UP: z.enum(['open', 'closed']).default('open'),
      KEYSTEAD_SIGN_UPS_PER_ADDRESS_PER_HOUR: z.coerce
        .number()
        .int()
        .min(1)
        .max(1_000_000)
        .default(limits.signUpsPerAddressPerHour),
    },
    environment,
  );
export type Config = ReturnType<typeof readConfig>;

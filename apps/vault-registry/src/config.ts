import { readEnvironment } from '@keystead/service-runtime/environment';
import { z } from 'zod';

export const CONFIG = Symbol('CONFIG');

export const readConfig = (environment: NodeJS.ProcessEnv = process.env) =>
  readEnvironment(
    {
      /** Seals the private keys of the certificate authority: 32 random bytes in base64. */
      KEYSTEAD_CA_KEY: z.string().transform((text, context) => {
        const key = Buffer.from(text, 'base64');
        const weakness = weaknessOf(key);
        if (weakness === undefined) return key;
        context.addIssue({ code: 'custom', message: weakness });
        return z.NEVER;
      }),
      /** What agents dial. */
      KEYSTEAD_AGENT_ENDPOINT: z
        .string()
        .max(262)
        .regex(
          /^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}$/i,
          'must be HOST:PORT',
        ),
    },
    environment,
  );
export type Config = ReturnType<typeof readConfig>;

/** Random bytes are neither text nor a pattern: what was copied from a manual is. */
function weaknessOf(key: Buffer): string | undefined {
  if (key.length !== 32) return 'must be 32 random bytes in base64';
  const isText = key.every((byte) => byte >= 0x20 && byte < 0x7f);
  const steps = new Set(key.map((byte, index) => byte - (key[index - 1] ?? 0)));
  if (isText || new Set(key).size < 16 || steps.size < 8) {
    return 'is a sample, not random bytes; make one with: openssl rand -base64 32';
  }
  return undefined;
}

/** How a key provider is written in a configuration file. Secrets are named there, never written. */
import { z } from 'zod';

const text = z.string().min(1).max(2_048);
const timeoutMs = z.number().int().min(100).max(60_000);

/** Where a secret of the configuration is: exactly one of the two. */
const secretSource = {
  /** A variable of the environment. */
  variable: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/)
    .optional(),
  /** A file; a line break at its end does not count. */
  file: text.optional(),
};
const hasOneSource = (value: { variable?: string | undefined; file?: string | undefined }) =>
  (value.variable === undefined) !== (value.file === undefined);
const oneSource = { message: 'name either a variable or a file' };

export const keyProviderConfiguration = z.discriminatedUnion('provider', [
  z.strictObject({
    provider: z.literal('file'),
    path: text,
    /** Whether a missing file is made. */
    create: z.boolean().default(true),
  }),
  z.strictObject({
    provider: z.literal('passphrase'),
    from: z.strictObject(secretSource).refine(hasOneSource, oneSource),
  }),
  z.strictObject({
    provider: z.literal('environment'),
    variable: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/),
  }),
  z.strictObject({
    provider: z.literal('command'),
    command: z.tuple([text], z.string().max(2_048)),
    timeoutMs: timeoutMs.optional(),
  }),
  z.strictObject({
    provider: z.literal('aws-kms'),
    keyId: text,
    region: z.string().regex(/^[a-z0-9-]{1,64}$/),
    endpoint: z.url().optional(),
    timeoutMs: timeoutMs.optional(),
  }),
  z.strictObject({
    provider: z.literal('gcp-kms'),
    keyName: text,
    endpoint: z.url().optional(),
    keyFile: text.optional(),
    timeoutMs: timeoutMs.optional(),
  }),
  z.strictObject({
    provider: z.literal('azure-key-vault'),
    vaultUrl: z.url({ protocol: /^https$/ }),
    keyName: text,
    timeoutMs: timeoutMs.optional(),
  }),
  z.strictObject({
    provider: z.literal('pkcs11'),
    library: text,
    tokenLabel: z.string().min(1).max(32),
    keyLabel: z.string().min(1).max(255),
    pin: z.strictObject(secretSource).refine(hasOneSource, oneSource),
    /** Whether a missing key is made in the token. */
    create: z.boolean().default(false),
    timeoutMs: timeoutMs.optional(),
  }),
]);
export type KeyProviderConfiguration = z.infer<typeof keyProviderConfiguration>;

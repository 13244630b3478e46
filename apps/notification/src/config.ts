import { readEnvironment } from '@keystead/service-runtime/environment';
import { z } from 'zod';
import { parseAllowList } from './delivery/address-guard.ts';
import { parseMailServer } from './delivery/email-sender.ts';

const address = /^[^\s"(),:;<>@[\\\]]{1,64}@[^\s"(),:;<>@[\\\]]{1,253}$/;

/** `Keystead <alerts@example.com>` or the address alone. */
function parseSender(text: string): { name: string; address: string } {
  const [, name, inner] = /^\s*([^<>]*?)\s*<([^<>]+)>\s*$/.exec(text) ?? [];
  const sender = { name: (name ?? '').replace(/^"|"$/g, ''), address: inner ?? text.trim() };
  if (!address.test(sender.address))
    throw new TypeError('must be like Keystead <alerts@example.com>');
  return { ...sender, name: sender.name || 'Keystead' };
}

function parsed<T>(parse: (text: string) => T) {
  return z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message });
      return z.NEVER;
    }
  });
}

const list = (text: string) =>
  text
    .split(',')
    .map((part) => part.trim().toLowerCase())
    .filter((part) => part !== '');

export const readConfig = (environment?: NodeJS.ProcessEnv) =>
  readEnvironment(
    {
      KEYSTEAD_SMTP_URL: parsed(parseMailServer),
      KEYSTEAD_MAIL_FROM: parsed(parseSender),
      /** CIDRs that may be reached although private; see delivery/address-guard.ts. */
      KEYSTEAD_WEBHOOK_ALLOW: parsed(parseAllowList).prefault(''),
      /** Where people sign in, and where links in messages lead. */
      KEYSTEAD_PUBLIC_URL: z.url({ protocol: /^https?$/ }),
      /** Who is told when the installation itself could not hear. */
      KEYSTEAD_OPERATOR_EMAILS: z
        .string()
        .default('')
        .transform(list)
        .refine((emails) => emails.every((one) => address.test(one)), 'must be mail addresses'),
    },
    environment,
  );
export type Config = ReturnType<typeof readConfig>;
export const CONFIG = Symbol('CONFIG');

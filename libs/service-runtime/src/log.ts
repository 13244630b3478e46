/** Structured logs (JSON lines on standard output). What could hold a credential is cut out. */
import type { LoggerService } from '@nestjs/common';
import { type Logger, pino } from 'pino';

export type { Logger };

export function createLog(service: string, level: string): Logger {
  return pino({
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: {
      paths: [
        '*.authorization',
        '*.password',
        '*.token',
        '*.secret',
        '*.accessToken',
        '*.refreshToken',
        '*.key',
        'headers.authorization',
        'headers.cookie',
      ],
      censor: '[cut]',
    },
  });
}

/** Nest's own messages, in the same lines. */
export function nestLogger(log: Logger): LoggerService {
  const text = (message: unknown) => (message instanceof Error ? message.message : String(message));
  return {
    log: (message, ...rest) => log.debug({ part: rest.at(-1) }, text(message)),
    debug: (message, ...rest) => log.debug({ part: rest.at(-1) }, text(message)),
    verbose: (message, ...rest) => log.trace({ part: rest.at(-1) }, text(message)),
    warn: (message, ...rest) => log.warn({ part: rest.at(-1) }, text(message)),
    error: (message, ...rest) => log.error({ part: rest.at(-1) }, text(message)),
    fatal: (message, ...rest) => log.fatal({ part: rest.at(-1) }, text(message)),
  };
}

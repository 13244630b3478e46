/** Which environment variables a service reads: out of its `config.ts` and what all of them share. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ServiceName, services } from '@keystead/contracts/operation';
import { baseVariables } from '@keystead/service-runtime/environment';

const root = join(import.meta.dirname, '..');

export function variablesOf(service: ServiceName): Set<string> {
  const text = readFileSync(join(root, 'apps', service, 'src', 'config.ts'), 'utf8');
  const own = [...text.matchAll(/^\s+(KEYSTEAD_[A-Z_0-9]+):/gm)].map(([, name = '']) => name);
  return new Set([...Object.keys(baseVariables), ...own]);
}

export function readersOf(): Map<string, ServiceName[]> {
  const readers = new Map<string, ServiceName[]>();
  for (const service of services) {
    for (const name of variablesOf(service)) {
      readers.set(name, [...(readers.get(name) ?? []), service]);
    }
  }
  return readers;
}

interface ConfigModule {
  readConfig: (environment?: NodeJS.ProcessEnv) => unknown;
}

/**
 * Reads a service's configuration as the service itself would, from these variables alone.
 * @throws ConfigurationError naming what is missing or wrong
 */
export async function readConfigOf(
  service: ServiceName,
  environment: Record<string, string>,
): Promise<void> {
  const { readConfig } = (await import(`../apps/${service}/src/config.ts`)) as ConfigModule;
  const before = process.env;
  process.env = { ...environment };
  try {
    readConfig();
  } finally {
    process.env = before;
  }
}

/** The name a variable is read under: `NAME_FILE` stands for `NAME`, unless it is one itself. */
export function readAs(name: string, known: ReadonlySet<string>): string {
  return known.has(name) ? name : name.replace(/_FILE$/, '');
}

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { DatabaseUrls } from './database-urls.ts';
import { repository } from './service-process.ts';

/**
 * Brings a database to today's schema and makes the services' logins. It runs from the sources, so
 * that no build is needed first, and as a process, so that only it ever holds the owner's login.
 */
export async function migrate(urls: DatabaseUrls): Promise<string> {
  const program = join(repository, 'libs/database/src/migrate.ts');
  try {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=keystead-source', program],
      {
        cwd: repository,
        env: {
          PATH: process.env.PATH,
          KEYSTEAD_DATABASE_URL: urls.ownerUrl,
          KEYSTEAD_SERVICE_DATABASE_URL: urls.serviceUrl,
          KEYSTEAD_ACROSS_DATABASE_URL: urls.acrossUrl,
        },
      },
    );
    return stdout.trim();
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`The database could not be migrated.\n${stderr?.trim() || message}`);
  }
}

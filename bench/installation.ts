/** A database of its own for a benchmark: real, with commits on the disk, gone afterwards. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Infrastructure,
  type ServerName,
  startInfrastructure,
} from '@keystead/test-control-plane/infrastructure/infrastructure';
import {
  type DatabaseUrls,
  databaseUrls,
} from '@keystead/test-control-plane/installation/database-urls';
import { migrate } from '@keystead/test-control-plane/installation/migrate';

export interface BenchDatabase {
  infrastructure: Infrastructure;
  urls: DatabaseUrls;
  stop: () => Promise<void>;
}

export async function startDatabase(
  servers: readonly ServerName[] = ['postgresql'],
): Promise<BenchDatabase> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-bench-'));
  const infrastructure = await startInfrastructure({
    stateDir: folder,
    purpose: 'test',
    durable: true,
    servers,
    useNamed: false,
  });
  const urls = databaseUrls(infrastructure.databaseUrl, { service: 'service', across: 'across' });
  await migrate(urls);
  return {
    infrastructure,
    urls,
    stop: async () => {
      await infrastructure.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

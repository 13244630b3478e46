/** The database, and the one way to read and write for a caller, as providers of a service. */

import { Database } from '@keystead/database/database';
import { type DynamicModule, Module, type OnApplicationShutdown } from '@nestjs/common';
import { Listing } from './listing.ts';
import { InstallationKey } from './sealing.ts';
import { TenantWork } from './tenant-work.ts';

export interface AccessOptions {
  serviceUrl: string;
  acrossUrl: string;
  installationKeyFile: string;
  poolSize?: number;
}

const opened = new Set<Database>();

@Module({})
export class AccessModule implements OnApplicationShutdown {
  static forRoot(options: AccessOptions): DynamicModule {
    const database = new Database({
      serviceUrl: options.serviceUrl,
      acrossUrl: options.acrossUrl,
      ...(options.poolSize ? { poolSize: options.poolSize } : {}),
    });
    opened.add(database);
    const key = InstallationKey.fromFile(options.installationKeyFile);
    return {
      module: AccessModule,
      providers: [
        { provide: Database, useValue: database },
        { provide: InstallationKey, useValue: key },
        { provide: TenantWork, useValue: new TenantWork(database, key) },
        { provide: Listing, useValue: new Listing(key) },
      ],
      exports: [Database, InstallationKey, TenantWork, Listing],
    };
  }

  async onApplicationShutdown(): Promise<void> {
    for (const database of opened) await database.close();
    opened.clear();
  }
}

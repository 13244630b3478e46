/**
 * A process that rekeys and, at a step it was told, dies as by `kill -9`. Says `begun`, `page` after each
 * page, and `finished` at the end.
 */
import { flushCompileCache } from 'node:module';
import type { VaultSchema } from '../schema.ts';
import { openSql, type SqlOptions, type SqlStore } from '../sql/sql-store.ts';
import { openVault } from '../vault.ts';

export interface ChildOrder {
  sql: SqlOptions;
  oldPassword: string;
  newPassword: string;
  batchRecords?: number;
  /** Which transaction, counted from one, and where in it; undefined: the parent decides. */
  dieAt: { write: number; when: 'before' | 'within' | 'after' } | undefined;
}

const order: ChildOrder = JSON.parse(process.argv[2] ?? '');
const store = await openSql<VaultSchema>(order.sql);
let writes = 0;
const die = () => process.kill(process.pid, 'SIGKILL');
const mortal: SqlStore<VaultSchema> = {
  ...store,
  write: async (work) => {
    writes += 1;
    const when = order.dieAt?.write === writes ? order.dieAt.when : undefined;
    if (when === 'before') die();
    const result = await store.write(async (queries) => {
      const done = await work(queries);
      if (when === 'within') die();
      return done;
    });
    if (when === 'after') die();
    return result;
  },
};
const vault = await openVault({ sql: mortal, migrate: false });
// Whoever is killed leaves no cache behind by itself.
flushCompileCache();
process.stdout.write('begun\n');
const { oldPassword, newPassword, batchRecords } = order;
const result = await vault.rekey({
  oldPassword,
  newPassword,
  onProgress: () => process.stdout.write('page\n'),
  ...(batchRecords === undefined ? {} : { batchRecords }),
});
process.stdout.write(`finished ${JSON.stringify(result)}\n`);
await vault.close();
await store.close();

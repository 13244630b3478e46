/**
 * `npm run prove`: the long proofs. The same tests as `npm test`, told by KEYSTEAD_PROVE=full to use all
 * their seeds, kills and minutes. Arguments go to vitest: `npm run prove -- ledger` runs one proof.
 */
import { build } from './build.ts';
import { Tally } from './checks.ts';
import { endOnSignal, fail } from './terminal.ts';

endOnSignal();
await build().catch(fail);
const tally = new Tally();
for (const project of ['unit*', 'int', 'e2e*']) {
  await tally.tests(
    `Proofs in full: ${project}`,
    ['--project', project, ...process.argv.slice(2)],
    { KEYSTEAD_PROVE: 'full' },
  );
}
process.exitCode = tally.finish();

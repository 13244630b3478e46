/**
 * `npm test`: every check there is, from format to the built processes end to end. Arguments go to
 * vitest and leave the rest out: `npm test -- liveness` runs the test files with that in their path.
 */
import { build } from './build.ts';
import { checkWithoutServers, Tally } from './checks.ts';
import { complain, endOnSignal } from './terminal.ts';

endOnSignal();
const tally = new Tally();
const filters = process.argv.slice(2);
if (filters.length > 0) {
  await build();
  await tally.tests(`Tests: ${filters.join(' ')}`, filters);
} else {
  const isBuilt = await checkWithoutServers(tally, 'unit*');
  await tally.tests('Integration tests, with PostgreSQL, Redis and NATS', ['--project', 'int']);
  if (isBuilt) {
    await tally.tests('End-to-end tests, with the built processes', ['--project', 'e2e*']);
  } else {
    complain('There is no build of this code, so the end-to-end tests did not run.');
  }
}
process.exitCode = tally.finish();

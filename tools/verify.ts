/**
 * `npm run verify`: what can be checked without servers, in about a minute; unit tests that take seconds
 * each are left to `npm test`.
 */
import { checkWithoutServers, Tally } from './checks.ts';
import { endOnSignal } from './terminal.ts';

endOnSignal();
const tally = new Tally();
await checkWithoutServers(tally, 'unit');
process.exitCode = tally.finish();

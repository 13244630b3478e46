/** `npm run verify`: what can be checked without servers, in less than a minute. */
import { checkWithoutServers, Tally } from './checks.ts';
import { endOnSignal } from './terminal.ts';

endOnSignal();
const tally = new Tally();
await checkWithoutServers(tally);
process.exitCode = tally.finish();

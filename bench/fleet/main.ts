/**
 * A fleet from the command line:
 *   node bench/fleet/main.ts --endpoint HOST:PORT --token T --ca-fingerprint SHA256 --agents 1000
 *        [--vaults 100] [--per-second 300] [--seconds 60]
 * Enrols, connects, beats at the told pace, and prints a line of counters every second.
 */
import { parseArgs } from 'node:util';
import { parseEndpoint } from '@keystead/agent-protocol/link-client';
import { Fleet } from './fleet.ts';
import { enrollFleet } from './identities.ts';

const { values } = parseArgs({
  options: {
    endpoint: { type: 'string' },
    token: { type: 'string' },
    'ca-fingerprint': { type: 'string' },
    agents: { type: 'string', default: '100' },
    vaults: { type: 'string', default: '10' },
    'per-second': { type: 'string', default: '300' },
    seconds: { type: 'string', default: '60' },
  },
});
const { endpoint, token, 'ca-fingerprint': caFingerprint } = values;
if (!endpoint || !token || !caFingerprint) {
  throw new Error('--endpoint, --token and --ca-fingerprint are needed');
}
const target = parseEndpoint(endpoint);
const vaults = Number(values.vaults);
const { identities, root } = await enrollFleet(
  { ...target, caFingerprint, token },
  Number(values.agents),
  (index) => ({ vaultName: `fleet-${index % vaults}`, agentName: `agent-${index}` }),
);
const fleet = new Fleet({ ...target, root, beats: 'paced', reconnect: true });
const { elapsedMs } = await fleet.connect(identities, Number(values['per-second']));
console.log(`${identities.length} agents online after ${Math.round(elapsedMs)} ms`);
const timer = setInterval(() => {
  console.log(
    JSON.stringify({ online: fleet.online, ...fleet.counters, ...fleet.latencies.read() }),
  );
}, 1_000);
const finish = () => {
  clearInterval(timer);
  fleet.close();
  setTimeout(() => process.exit(0), 200);
};
process.on('SIGINT', finish);
process.on('SIGTERM', finish);
setTimeout(finish, Number(values.seconds) * 1_000);

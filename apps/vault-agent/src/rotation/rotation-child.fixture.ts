/**
 * An agent that rotates and is killed at a step: `rotation-child.fixture.ts PLACE WORLD STEP TIME`, the
 * first two in JSON. Ends by itself where the step does not come.
 */

import type { RunnerStep } from './rotation-runner.ts';
import { openRotation } from './rotation-world.fixture.ts';

const [, , place = '', world = '', step = '', time = ''] = process.argv;
let shiftMs = Number(time);
const agent = await openRotation(JSON.parse(place), JSON.parse(world), {
  holder: `child-${process.pid}`,
  now: () => Date.now() + shiftMs,
  onStep: (done: RunnerStep) => {
    if (done === step) process.kill(process.pid, 'SIGKILL');
  },
});
const lease = await agent.leases.acquire('rotation', 30_000);
if (lease === undefined) throw new Error('somebody holds the lease');
for (let round = 0; round < 3; round += 1) {
  await agent.runner.runOnce(lease);
  // Until the next attempt, and the end of the overlap.
  shiftMs += 3_600_000;
}
process.exit(0);

/** An agent that backs up or restores and is killed at a step: `… PLACE FOLDER STEP [BACKUP]`. */
import { makeBackup, openBackupAgent, restoreFrom } from './backup-agent.fixture.ts';

const [, , place = '', folder = '', step = '', backup = ''] = process.argv;
const agent = await openBackupAgent(JSON.parse(place), folder, {
  holder: `child-${process.pid}`,
  onStep: (done) => {
    if (done === step) process.kill(process.pid, 'SIGKILL');
  },
});
if (backup === '') await makeBackup(agent);
else
  await restoreFrom(agent, backup, { mode: 'full', force: true, contents: ['secrets', 'audit'] });
process.exit(0);

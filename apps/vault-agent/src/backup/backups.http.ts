import * as contract from '@keystead/contracts/agent-api/backup';
import { type AgentHandler, handler } from '../http/handler.ts';
import { type Backups, neededToRestore } from './backups.ts';

const about = ({ params }: { params: { id: string } }) => ({ other: `backup:${params.id}` });

export function backupHandlers(backups: Backups): AgentHandler[] {
  return [
    handler(contract.createBackup, {
      run: (caller, { body }) => backups.request(caller, body, body.waitSeconds),
    }),
    handler(contract.listBackups, { run: (_caller, { query }) => backups.list(query) }),
    handler(contract.readBackup, {
      resource: about,
      run: (_caller, { params }) => backups.get(params.id),
    }),
    handler(contract.deleteBackup, {
      resource: about,
      run: async (_caller, { params }) => {
        await backups.delete(params.id);
        return {};
      },
    }),
    handler(contract.verifyBackup, {
      resource: about,
      run: (caller, { params, body }) => backups.verify(caller, params.id, body),
    }),
    handler(contract.restoreBackup, {
      resource: about,
      also: ({ body }) => neededToRestore(body.contents),
      run: (caller, { params, body }) => backups.restore(caller, params.id, body),
    }),
    handler(contract.drillBackup, {
      resource: about,
      run: (caller, { params, body }) => backups.drill(caller, params.id, body),
    }),
    handler(contract.listBackupRuns, { run: (_caller, { query }) => backups.runs(query) }),
    handler(contract.readBackupRun, { run: (_caller, { params }) => backups.run(params.id) }),
  ];
}

/**
 * What agents are told to do besides holding a policy set. A command is a row: the gateway that has the
 * agent's stream gets it signed, under the agent's next number, and again until the row goes because
 * the agent has answered, or because it is too late. So an agent that was away is told when it returns,
 * and one that hears it twice must do it once: each action says by what.
 */

import { bytes } from '@keystead/access/tenant-work';
import { Command } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import type { CommandAction } from '../signing/command-signer.ts';

export interface OrderedCommand {
  organizationId: string;
  agentId: string;
  vaultId: string;
  /** uuid: what it is about. {@link forgetCommands} takes it. */
  subjectId: string;
  action: CommandAction;
  expiresAt: Date;
}

const unsigned = {
  number: 0,
  signerCertificate: Buffer.alloc(0),
  signerIssuer: Buffer.alloc(0),
} as const;

/** Writes commands down, in the transaction of what they follow from. Tell {@link AgentCommands.nudge} afterwards. */
export async function orderCommands(
  transaction: Transaction,
  commands: readonly OrderedCommand[],
): Promise<void> {
  if (commands.length === 0) return;
  await transaction.agentCommand.createMany({
    data: commands.map(({ action, ...command }) => ({
      ...command,
      id: newUuid(),
      action: bytes(Buffer.from(Command.encode({ ...unsigned, action }).finish())),
    })),
  });
}

/** The agent has answered, or nobody waits for it any more. Without an agent: all who were told. */
export async function forgetCommands(
  transaction: Transaction,
  organizationId: string,
  subjectId: string,
  agentId?: string,
): Promise<void> {
  await transaction.agentCommand.deleteMany({
    where: { organizationId, subjectId, ...(agentId === undefined ? {} : { agentId }) },
  });
}

export interface DueCommand {
  organizationId: string;
  agentId: string;
  vaultId: string;
  number: number;
  action: CommandAction;
}

/** A command that was not answered is sent again after this. */
const sendAgainAfterSeconds = 30;

/**
 * Takes what is due for these agents, under their next numbers: what was never sent first, so that what nobody
 * answers holds up nothing that came later. Where there is more than one call carries, the rest comes with the next.
 */
export async function takeDueCommands(
  transaction: Transaction,
  agents: readonly { organizationId: string; agentId: string }[],
  most: number = limits.agentCommandsPerCall,
): Promise<DueCommand[]> {
  const due = await transaction.$queryRaw<
    {
      organization_id: string;
      id: string;
      agent_id: string;
      vault_id: string;
      action: Uint8Array;
    }[]
  >`
    with due as (
      select c.organization_id, c.id from policy.agent_command c
      join registry.agent a
        on a.organization_id = c.organization_id and a.id = c.agent_id and a.vault_id = c.vault_id
        and a.deleted_at is null and a.revoked_at is null
      where (c.organization_id, c.agent_id) in (
          select * from unnest(
            ${agents.map(({ organizationId }) => organizationId)}::uuid[],
            ${agents.map(({ agentId }) => agentId)}::uuid[]))
        and c.expires_at > clock_timestamp()
        and (c.sent_at is null
          or c.sent_at < clock_timestamp() - make_interval(secs => ${sendAgainAfterSeconds}))
      order by c.sent_at nulls first, c.id limit ${most}
      for update of c skip locked
    )
    update policy.agent_command c set sent_at = clock_timestamp() from due
    where c.organization_id = due.organization_id and c.id = due.id
    returning c.organization_id, c.id, c.agent_id, c.vault_id, c.action`;
  const commands: DueCommand[] = [];
  for (const row of due) {
    // The counter of the agent is where that of its sets is: numbers ascend over both.
    const [counted] = await transaction.$queryRaw<{ number: bigint }[]>`
      insert into policy.agent_policy as t (organization_id, agent_id, vault_id, state, command_number)
      values (${row.organization_id}::uuid, ${row.agent_id}::uuid, ${row.vault_id}::uuid, 'pending', 1)
      on conflict (organization_id, agent_id) do update set command_number = t.command_number + 1
      returning command_number as number`;
    await transaction.$executeRaw`
      update policy.agent_command set number = ${counted?.number ?? 0n}
      where organization_id = ${row.organization_id}::uuid and id = ${row.id}::uuid`;
    const { action } = Command.decode(row.action);
    if (action === undefined) continue;
    commands.push({
      organizationId: row.organization_id,
      agentId: row.agent_id,
      vaultId: row.vault_id,
      number: Number(counted?.number ?? 0),
      action,
    });
  }
  return commands;
}

const firstAgent = {
  organization_id: '00000000-0000-0000-0000-000000000000',
  agent_id: '00000000-0000-0000-0000-000000000000',
};

@Injectable()
export class AgentCommands {
  /** Where the next look goes on: agents that nobody gets hold of keep no others from being looked at. */
  #after = firstAgent;

  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** Gateways look now. */
  nudge(agents: Iterable<{ organizationId: string; agentId: string }>): void {
    for (const { organizationId, agentId } of agents) {
      this.bus.nudge('agentCommands', `${organizationId}/${agentId}`);
    }
  }

  /** Nudges for what waits, which a lost nudge or an agent's absence has left, and forgets what is too late. */
  async look(): Promise<void> {
    const waiting = await this.database.acrossTenants('deliver-policies', async (transaction) => {
      await transaction.$executeRaw`
        delete from policy.agent_command where expires_at < clock_timestamp()`;
      return transaction.$queryRaw<(typeof firstAgent)[]>`
        select distinct c.organization_id, c.agent_id from policy.agent_command c
        join monitoring.agent_liveness l
          on l.organization_id = c.organization_id and l.agent_id = c.agent_id
          and l.status in ('online', 'late')
        where (c.sent_at is null
            or c.sent_at < clock_timestamp() - make_interval(secs => ${sendAgainAfterSeconds}))
          and (c.organization_id, c.agent_id)
            > (${this.#after.organization_id}::uuid, ${this.#after.agent_id}::uuid)
        order by c.organization_id, c.agent_id
        limit ${limits.agentCommandsPerLook}`;
    });
    const isAll = waiting.length < limits.agentCommandsPerLook;
    this.#after = isAll ? firstAgent : (waiting.at(-1) ?? firstAgent);
    this.nudge(
      waiting.map((row) => ({ organizationId: row.organization_id, agentId: row.agent_id })),
    );
  }
}

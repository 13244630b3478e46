/**
 * What agents on open streams are told. The gateway says what each holds; what each should hold is a
 * row. A difference becomes a command that is numbered and signed for that agent; agents that are
 * away are told when they come back. Asking twice changes nothing.
 */

import { AnswerRoom } from '@keystead/access/answer-size';
import { bytes } from '@keystead/access/tenant-work';
import type { deliverPolicies, readPolicySet } from '@keystead/contracts/agent-link';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { takeUnsupported } from '../replays/replay-steps.ts';
import { type CommandAction, CommandSigner } from '../signing/command-signer.ts';
import {
  endsSoon,
  OrganizationSigners,
  type PolicySetSignature,
  signWith,
} from '../signing/organization-signers.ts';
import { takeDueCommands } from './agent-commands.ts';
import { type AgentState, type Held, nextDelivery } from './next-delivery.ts';

type Asked = z.output<typeof deliverPolicies.input>['agents'];
type Answer = z.input<typeof deliverPolicies.output>['results'][number];

interface Row {
  organization_id: string;
  agent_id: string;
  vault_id: string;
  number: number | null;
  digest: string | null;
  total_bytes: number;
  state: AgentState | null;
  known_number: number | null;
  held_number: number | null;
  held_digest: string | null;
  delivered_at: Date | null;
  updated_at: Date | null;
  command_number: bigint | null;
  now: Date;
}

interface Change {
  row: Row;
  held: Held | null;
  state: AgentState;
  send: boolean;
}

// What stands around the commands of each agent has 170 bytes at most.
const commandsMaxBytes = limits.busPayloadMaxBytes - limits.policySetAgentsPerCall * 170;

@Injectable()
export class Deliveries {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(CommandSigner) private readonly signer: CommandSigner,
    @Inject(OrganizationSigners) private readonly signers: OrganizationSigners,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  async deliver(agents: Asked): Promise<z.input<typeof deliverPolicies.output>> {
    if (agents.length === 0) return { results: [] };
    const { rows, changes, hasMore, signatures, drifted, due } = await this.database.acrossTenants(
      'deliver-policies',
      async (transaction) => {
        await takeUnsupported(transaction, agents);
        const rows = new Map((await read(transaction, agents)).map((row) => [row.agent_id, row]));
        // One that is asked about twice counts once, with what was said last.
        const each = new Map(agents.map((agent) => [agent.agentId, agent]));
        const { changes, later } = asManyAsFit(
          [...each.values()].flatMap((agent) => changeOf(agent, rows.get(agent.agentId))),
        );
        await write(transaction, changes);
        const drifted = changes.filter(
          ({ row, state }) => state === 'drifted' && row.state !== 'drifted',
        );
        const mended = changes.filter(({ row, state }) => {
          return state === 'active' && (row.state === 'drifted' || row.state === 'rejected');
        });
        await enqueueMany(transaction, 'vault.reported', [
          ...drifted.map(({ row }) => reportOf(row, 'policy.drifted', 'drifted', 'raised')),
          ...mended.flatMap(({ row }) =>
            (['rolled_back', 'drifted'] as const).map((reason) =>
              reportOf(row, 'policy.drifted', reason, 'cleared'),
            ),
          ),
        ]);
        const sent = changes.filter(({ send }) => send);
        const room = limits.agentCommandsPerCall - sent.length;
        // Their numbers follow those of the sets.
        const due = await takeDueCommands(transaction, agents, room);
        return {
          rows,
          changes,
          hasMore: (agentId: string) => later.has(agentId) || due.length >= room,
          drifted: drifted.length + mended.length > 0,
          signatures: await signaturesOf(transaction, sent),
          due,
        };
      },
    );
    if (drifted) this.bus.nudge('vaultReports');
    const sent = changes.filter(({ send }) => send);
    const commands = await this.#commands(sent, await this.#renewed(sent, signatures));
    const signed = due.length === 0 ? [] : await this.signer.sign(due);
    const further = Map.groupBy(signed.keys(), (at) => due[at]?.agentId);
    const answerRoom = new AnswerRoom(commandsMaxBytes);
    // One that does not fit counts as lost on its way, and is sent again as such.
    const fitting = (command: Buffer | undefined) => {
      const encoded = command?.toString('base64');
      return encoded !== undefined && answerRoom.takes(encoded) ? [encoded] : [];
    };
    return {
      results: agents.map(({ agentId }): Answer => {
        const row = rows.get(agentId);
        const [command = null] = fitting(commands.get(agentId));
        return {
          commands: (further.get(agentId) ?? []).flatMap((at) => fitting(signed[at])),
          assigned:
            row?.number == null || row.digest === null
              ? null
              : { number: row.number, digest: row.digest },
          command,
          ...(hasMore(agentId) ? { more: true } : {}),
        };
      }),
    };
  }

  /** A part of a set or of a draft, for gateways. */
  async part({
    organizationId,
    digest,
    offset,
  }: z.output<typeof readPolicySet.input>): Promise<z.input<typeof readPolicySet.output>> {
    const [row] = await this.database.withTenant(
      { organizationId },
      (transaction) => transaction.$queryRaw<{ total: number; part: Uint8Array }[]>`
        select octet_length(content) as total,
          substring(content from ${offset + 1}::int for ${limits.policySetPartBytes}::int) as part
        from (
          select content from policy.policy_set_version
          where organization_id = ${organizationId}::uuid and digest = ${digest}
          union all
          select content from policy.replay
          where organization_id = ${organizationId}::uuid and digest = ${digest}
            and content is not null
        ) offered limit 1`,
    );
    return row
      ? { totalBytes: row.total, content: Buffer.from(row.part).toString('base64') }
      : { totalBytes: 0, content: null };
  }

  /** A set may stay as it is for years; its signature is made anew before the certificate ends. */
  async #renewed(
    sent: readonly Change[],
    signatures: ReadonlyMap<string, PolicySetSignature>,
  ): Promise<ReadonlyMap<string, PolicySetSignature>> {
    const all = new Map(signatures);
    for (const { row } of sent) {
      const { organization_id: organizationId, number, digest } = row;
      const key = `${organizationId}/${number}`;
      const known = all.get(key);
      if (known === undefined || !endsSoon(known) || number === null || digest === null) continue;
      // Without its authority the old one is told: it may still hold.
      const signer = await this.signers.current({ organizationId }).catch(() => undefined);
      if (signer === undefined) continue;
      const made = signWith(signer, digest);
      all.set(key, made);
      await this.database.withTenant({ organizationId }, (transaction) =>
        transaction.policySetVersion.updateMany({
          where: { organizationId, number, digest },
          data: { signature: bytes(made.signature), signerChain: made.chain.map(bytes) },
        }),
      );
    }
    return all;
  }

  async #commands(
    sent: readonly Change[],
    signatures: ReadonlyMap<string, PolicySetSignature>,
  ): Promise<Map<string, Buffer>> {
    if (sent.length === 0) return new Map();
    const signed = await this.signer.sign(
      sent.map(({ row }) => {
        const { signature, chain } = signatures.get(
          `${row.organization_id}/${row.number}`,
        ) as PolicySetSignature;
        const action: CommandAction = {
          $case: 'assignPolicySet',
          value: {
            policySet: { version: row.number ?? 0, digest: row.digest ?? '' },
            totalBytes: row.total_bytes,
            signature,
            signerChain: chain,
          },
        };
        return {
          vaultId: row.vault_id,
          number: Number((row.command_number ?? 0n) + 1n),
          action,
        };
      }),
    );
    return new Map(sent.map(({ row }, index) => [row.agent_id, signed[index] as Buffer]));
  }
}

function changeOf({ held }: Asked[number], row: Row | undefined): Change[] {
  if (row === undefined) return [];
  const assigned =
    row.number === null || row.digest === null ? null : { number: row.number, digest: row.digest };
  const { state, send } = nextDelivery(
    assigned,
    held,
    row.state === null || row.updated_at === null
      ? undefined
      : {
          state: row.state,
          number: row.known_number,
          deliveredAtMs: row.delivered_at?.getTime() ?? null,
          updatedAtMs: row.updated_at.getTime(),
        },
    row.now.getTime(),
  );
  if (state === null) return [];
  const isNews =
    send ||
    state !== row.state ||
    row.known_number !== row.number ||
    row.held_digest !== (held?.digest ?? null);
  return isNews ? [{ row, held, state, send }] : [];
}

/** Those that are sent a set beyond what one answer carries stay as they are, until the gateway asks again. */
function asManyAsFit(all: readonly Change[]): { changes: Change[]; later: Set<string> } {
  let sent = 0;
  const later = new Set<string>();
  const changes = all.filter(({ row, send }) => {
    if (send) sent += 1;
    if (!send || sent <= limits.policySetCommandsPerCall) return true;
    later.add(row.agent_id);
    return false;
  });
  return { changes, later };
}

/** In one order, so that two gateways that tell the same agents do not wait for each other. */
async function read(transaction: Transaction, agents: Asked): Promise<Row[]> {
  const organizations = agents.map(({ organizationId }) => organizationId);
  const ids = agents.map(({ agentId }) => agentId);
  await transaction.$queryRaw`
    select agent_id from policy.agent_policy
    where (organization_id, agent_id) in (
      select * from unnest(${organizations}::uuid[], ${ids}::uuid[]))
    order by organization_id, agent_id for update`;
  return transaction.$queryRaw<Row[]>`
    select a.organization_id, a.id as agent_id, a.vault_id, s.number, s.digest,
      coalesce(octet_length(s.content), 0) as total_bytes, k.state, k.number as known_number,
      k.held_number, k.held_digest, k.delivered_at, k.updated_at, k.command_number,
      clock_timestamp() as now
    from registry.agent a
    left join policy.policy_set_assignment p
      on p.organization_id = a.organization_id and p.vault_id = a.vault_id
    left join policy.policy_set_version s
      on s.organization_id = p.organization_id and s.number = p.version
    left join policy.agent_policy k
      on k.organization_id = a.organization_id and k.agent_id = a.id
    where (a.organization_id, a.id) in (
        select * from unnest(${organizations}::uuid[], ${ids}::uuid[]))
      and a.deleted_at is null and a.revoked_at is null`;
}

async function write(transaction: Transaction, changes: readonly Change[]): Promise<void> {
  if (changes.length === 0) return;
  const ordered = [...changes].sort((one, other) =>
    one.row.agent_id < other.row.agent_id ? -1 : 1,
  );
  await transaction.$executeRaw`
    insert into policy.agent_policy as t (organization_id, agent_id, vault_id, state, number,
      held_number, held_digest, command_number, delivered_at, active_at, waiting_since, updated_at)
    select k.organization_id, k.agent_id, k.vault_id, k.state, k.number, k.held_number,
      k.held_digest, k.sent::int, case when k.sent then clock_timestamp() end,
      case when k.state = 'active' then clock_timestamp() end,
      case when k.state in ('delivered', 'drifted') then clock_timestamp() end, clock_timestamp()
    from unnest(
      ${ordered.map(({ row }) => row.organization_id)}::uuid[],
      ${ordered.map(({ row }) => row.agent_id)}::uuid[],
      ${ordered.map(({ row }) => row.vault_id)}::uuid[],
      ${ordered.map(({ state }) => state)}::text[],
      ${ordered.map(({ row }) => row.number)}::int[],
      ${ordered.map(({ held }) => held?.number ?? null)}::int[],
      ${ordered.map(({ held }) => held?.digest ?? null)}::text[],
      ${ordered.map(({ send }) => send)}::boolean[]
    ) as k(organization_id, agent_id, vault_id, state, number, held_number, held_digest, sent)
    on conflict (organization_id, agent_id) do update set
      vault_id = excluded.vault_id,
      state = excluded.state,
      held_number = excluded.held_number,
      held_digest = excluded.held_digest,
      command_number = t.command_number + excluded.command_number,
      delivered_at = coalesce(excluded.delivered_at, t.delivered_at),
      active_at = case when t.state = 'active' and t.number = excluded.number then t.active_at
        else excluded.active_at end,
      waiting_since = case when t.state in ('delivered', 'drifted') and t.number = excluded.number
        and excluded.state in ('delivered', 'drifted') then t.waiting_since
        else excluded.waiting_since end,
      reason = case when excluded.state = 'rejected' then t.reason end,
      allowed = case when t.number = excluded.number then t.allowed else 0 end,
      denied = case when t.number = excluded.number then t.denied else 0 end,
      newly_denied = case when t.number = excluded.number then t.newly_denied else 0 end,
      errors = case when t.number = excluded.number then t.errors else 0 end,
      number = excluded.number,
      updated_at = case
        when t.state = excluded.state and t.number = excluded.number and not excluded.command_number > 0
        then t.updated_at else excluded.updated_at end`;
}

async function signaturesOf(
  transaction: Transaction,
  sent: readonly Change[],
): Promise<Map<string, PolicySetSignature>> {
  const keys = [
    ...new Map(
      sent.map(({ row }) => [
        `${row.organization_id}/${row.number}`,
        { organizationId: row.organization_id, number: row.number ?? 0 },
      ]),
    ).values(),
  ];
  if (keys.length === 0) return new Map();
  const rows = await transaction.policySetVersion.findMany({
    where: { OR: keys },
    select: { organizationId: true, number: true, signature: true, signerChain: true },
  });
  return new Map(
    rows.map((row) => [
      `${row.organizationId}/${row.number}`,
      {
        signature: Buffer.from(row.signature),
        chain: row.signerChain.map((certificate) => Buffer.from(certificate)),
      },
    ]),
  );
}

export function reportOf(
  row: { organization_id: string; vault_id: string; agent_id: string },
  kind: 'policy.rejected' | 'policy.drifted' | 'policy.stale' | 'policy.halted',
  reason: string,
  state: 'raised' | 'cleared',
) {
  return {
    organizationId: row.organization_id,
    payload: { vaultId: row.vault_id, agentId: row.agent_id, kind, reason, state },
  };
}

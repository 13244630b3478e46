/** Renewal: a living agent that shows a living certificate gets the next one for a new key. */
import { writeAudit } from '@keystead/access/audit';
import type { renewCertificate } from '@keystead/contracts/agent-link';
import type { Ctx } from '@keystead/contracts/context';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { checkEncodedRequest } from '../certificate-authority/certificate-request.ts';
import { AuthorityKeeper } from '../issuing/authority-keeper.ts';
import { recordCertificate } from './certificate-rows.ts';

type Answer = z.input<typeof renewCertificate.output>;

const refused = (detail: string): Answer => ({ outcome: 'refused', detail });

@Injectable()
export class Renewal {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(AuthorityKeeper) private readonly authority: AuthorityKeeper,
  ) {}

  async renew(ctx: Ctx, asked: z.output<typeof renewCertificate.input>): Promise<Answer> {
    const { organizationId, agentId, serialNumber } = asked.identity;
    const request = await checkEncodedRequest(asked.csr);
    if (request.outcome === 'refused') return refused(request.detail);
    return this.database.withTenant({ organizationId }, async (transaction) => {
      // The lock lets a revocation come before or after, never between.
      const [agent] = await transaction.$queryRaw<{ name: string; certificates: number }[]>`
        select a.name, (
          select count(*)::int from registry.certificate k
          where k.organization_id = a.organization_id and k.agent_id = a.id
            and k.expires_at > clock_timestamp()
        ) as certificates
        from registry.agent a
        join registry.certificate c
          on c.organization_id = a.organization_id and c.agent_id = a.id
        where a.organization_id = ${organizationId}::uuid and a.id = ${agentId}::uuid
          and a.revoked_at is null and a.deleted_at is null
          and c.serial_number = ${serialNumber}
          and c.revoked_at is null and c.expires_at > clock_timestamp()
        for no key update of a`;
      if (!agent) return refused('this certificate is not valid here');
      if (agent.certificates >= limits.certificatesPerAgent) {
        return refused(
          `an agent has at most ${limits.certificatesPerAgent} certificates at a time: wait until one expires`,
        );
      }
      const issued = await this.authority
        .current()
        .issueAgentCertificate(request.publicKey, { organizationId, agentId });
      await recordCertificate(transaction, { organizationId, agentId }, issued);
      await transaction.agent.update({
        where: { organizationId_id: { organizationId, id: agentId } },
        data: {
          serialNumber: issued.serialNumber,
          notBefore: issued.notBefore,
          expiresAt: issued.notAfter,
        },
      });
      const actor = { kind: 'agent' as const, id: toId('agent', agentId), name: agent.name };
      await writeAudit(transaction, { ...ctx, actor }, organizationId, 'agents.renew', {
        target: { kind: 'agent', id: actor.id, name: actor.name },
        changes: { serialNumber: { from: serialNumber, to: issued.serialNumber } },
      });
      return { outcome: 'renewed', certificateChain: issued.chain };
    });
  }
}

/**
 * Enrolment: a token and a certificate request become an agent with a certificate. The use of the
 * token, the vault, the agent, its certificate and the audit row are one transaction, and the row
 * of the token is what concurrent enrolments queue at: a token gives as many certificates as it
 * has uses. Whatever is wrong with a token is one and the same answer.
 */
import { writeAudit } from '@keystead/access/audit';
import { hashCredential, isCredential } from '@keystead/access/credential';
import { bytes } from '@keystead/access/tenant-work';
import type { enrollAgent } from '@keystead/contracts/agent-link';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import type { z } from 'zod';
import { checkEncodedRequest } from '../certificate-authority/certificate-request.ts';
import { AuthorityKeeper } from '../issuing/authority-keeper.ts';
import { requireRoomForVault } from '../vaults/vaults.ts';
import { recordCertificate } from './certificate-rows.ts';
import { enrollmentNames } from './enrollment-names.ts';
import { Turnstile } from './turnstile.ts';

type Asked = z.output<typeof enrollAgent.input>;
type Answer = z.input<typeof enrollAgent.output>;
type Refusal = Extract<Answer, { outcome: 'refused' }>;

interface LivingToken {
  organization_id: string;
  id: string;
  name: string;
  vault_name: string | null;
  tags: string[];
}

const tokenInvalid = (): Refusal => ({
  outcome: 'refused',
  reason: 'token_invalid',
  detail: 'the token is not valid: it may be mistyped, used up, expired or revoked',
});

/** Thrown inside the transaction, so that everything in it is undone. */
class Refused extends Error {
  constructor(readonly answer: Refusal) {
    super(answer.detail);
  }
}

@Injectable()
export class Enrollment {
  readonly #turnstile = new Turnstile({
    places: limits.enrollmentsInFlight,
    waiting: limits.enrollmentsWaiting,
    waitMs: limits.enrollmentWaitMs,
  });

  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(AuthorityKeeper) private readonly authority: AuthorityKeeper,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** @throws ServiceError `unavailable` in a rush; nothing was spent, and a later try is welcome */
  async enroll(ctx: Ctx, asked: Asked): Promise<Answer> {
    if (!isCredential('enrollmentToken', asked.token)) return tokenInvalid();
    return this.#turnstile.pass(() => this.#enroll(ctx, asked));
  }

  async #enroll(ctx: Ctx, asked: Asked): Promise<Answer> {
    const token = await this.#livingToken(asked.token);
    if (!token) return tokenInvalid();
    const organizationId = token.organization_id;
    const agentId = newUuid();
    const names = enrollmentNames(asked, token.vault_name, agentId);
    if (names.outcome === 'refused') {
      return { outcome: 'refused', reason: 'name_invalid', detail: names.detail };
    }
    const request = await checkEncodedRequest(asked.csr);
    if (request.outcome === 'refused') {
      return { outcome: 'refused', reason: 'csr_invalid', detail: request.detail };
    }
    // Signed before the transaction, which it would only prolong: a certificate whose enrolment is
    // undone has no row, and admission knows none without one.
    const authority = this.authority.current();
    const issued = await authority.issueAgentCertificate(request.publicKey, {
      organizationId,
      agentId,
    });
    try {
      const vault = await this.database.withTenant({ organizationId }, async (transaction) => {
        await requireRoomForAgent(transaction, organizationId);
        const vault = await findOrCreateVault(transaction, organizationId, names.vaultName, token);
        await transaction.agent.create({
          data: {
            organizationId,
            id: agentId,
            vaultId: vault.id,
            name: names.agentName,
            serialNumber: issued.serialNumber,
            notBefore: issued.notBefore,
            expiresAt: issued.notAfter,
          },
        });
        await recordCertificate(transaction, { organizationId, agentId }, issued);
        const actor = {
          kind: 'agent' as const,
          id: toId('agent', agentId),
          name: names.agentName,
        };
        await writeAudit(
          transaction,
          { ...ctx, actor, requestId: asked.requestId, address: asked.address },
          organizationId,
          'agents.enroll',
          {
            target: { kind: 'agent', id: actor.id, name: actor.name },
            changes: {
              vault: vault.name,
              vaultId: toId('vault', vault.id),
              vaultCreated: vault.created,
              enrollmentToken: toId('enrollmentToken', token.id),
              serialNumber: issued.serialNumber,
            },
          },
        );
        // Last, so that enrolments with one token wait for each other's commit and nothing else.
        await consume(transaction, token);
        return vault;
      });
      this.bus.nudge('thresholds', organizationId);
      return {
        outcome: 'enrolled',
        organizationId,
        vaultId: vault.id,
        agentId,
        vaultName: vault.name,
        agentName: names.agentName,
        certificateChain: issued.chain,
        trustDomain: authority.trustDomain,
      };
    } catch (error) {
      if (error instanceof Refused) return error.answer;
      if (error instanceof ServiceError && error.code === 'limit_reached') {
        return { outcome: 'refused', reason: 'limit_reached', detail: error.message };
      }
      throw error;
    }
  }

  /** Which organization a token opens is not known before the token is. */
  async #livingToken(text: string): Promise<LivingToken | undefined> {
    const hash = bytes(hashCredential(text));
    return this.database.acrossTenants('enroll-agent', async (transaction) => {
      const rows = await transaction.$queryRaw<LivingToken[]>`
        select organization_id, id, name, vault_name, tags from registry.enrollment_token
        where hash = ${hash} and uses < max_uses and expires_at > clock_timestamp()
          and revoked_at is null`;
      return rows[0];
    });
  }
}

/** @throws Refused where somebody else took the last use meanwhile, or time or a person did */
async function consume(transaction: Transaction, token: LivingToken): Promise<void> {
  const consumed = await transaction.$executeRaw`
    update registry.enrollment_token set uses = uses + 1
    where organization_id = ${token.organization_id}::uuid and id = ${token.id}::uuid
      and uses < max_uses and expires_at > clock_timestamp() and revoked_at is null`;
  if (consumed !== 1) throw new Refused(tokenInvalid());
}

async function requireRoomForAgent(
  transaction: Transaction,
  organizationId: string,
): Promise<void> {
  const count = await transaction.agent.count({ where: { organizationId, deletedAt: null } });
  if (count >= limits.agentsPerOrganization) {
    throw new ServiceError('limit_reached', {
      detail: `an organization has at most ${limits.agentsPerOrganization} agents`,
    });
  }
}

/**
 * The living vault of that name, whatever its capitals. It is locked against deletion, so that no
 * agent joins a vault whose agents are being revoked.
 */
async function findOrCreateVault(
  transaction: Transaction,
  organizationId: string,
  vaultName: string,
  token: LivingToken,
): Promise<{ id: string; name: string; created: boolean }> {
  const find = async () => {
    const rows = await transaction.$queryRaw<{ id: string; name: string }[]>`
      select id, name from registry.vault
      where organization_id = ${organizationId}::uuid and lower(name) = lower(${vaultName}::text)
        and deleted_at is null
      for share`;
    return rows[0];
  };
  const found = await find();
  if (found) return { ...found, created: false };
  await requireRoomForVault(transaction, organizationId);
  const vaultId = newUuid();
  const created = await transaction.$executeRaw`
    insert into registry.vault (organization_id, id, name, tags)
    values (${organizationId}::uuid, ${vaultId}::uuid, ${vaultName}, ${token.tags}::text[])
    on conflict (organization_id, lower(name)) where deleted_at is null do nothing`;
  if (created === 1) return { id: vaultId, name: vaultName, created: true };
  const other = await find();
  if (!other) {
    throw new ServiceError('unavailable', { internal: 'a vault of that name came and went' });
  }
  return { ...other, created: false };
}

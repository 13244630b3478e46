/** Organizations: sign-up with the first owner, name and offline threshold. */
import { differences } from '@keystead/access/audit';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import {
  createOrganization,
  type getOrganization,
  updateOrganization,
} from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import { isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { Passwords } from '../passwords/passwords.ts';
import { People } from '../people/people.ts';
import { asPerson } from '../people/person-actor.ts';
import { AttemptThrottle } from '../throttle/attempt-throttle.ts';
import { uuidFrom } from './derived-uuid.ts';

export const SIGN_UP = Symbol('SIGN_UP');
type Owner = { id: string; name: string; passwordHash: string | null };

@Injectable()
export class Organizations {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(People) private readonly people: People,
    @Inject(Passwords) private readonly passwords: Passwords,
    @Inject(AttemptThrottle) private readonly throttle: AttemptThrottle,
    @Inject(InstallationKey) private readonly key: InstallationKey,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
    @Inject(SIGN_UP) private readonly signUp: 'open' | 'closed',
  ) {}

  async create(
    ctx: Ctx,
    input: Input<typeof createOrganization>,
  ): Promise<Output<typeof createOrganization>> {
    if (this.signUp === 'closed') throw new ServiceError('sign_up_closed');
    await this.throttle.beginSignUp(ctx.address);
    return this.passwords.admit(async () => {
      try {
        return await this.#create(ctx, input);
      } catch (error) {
        // The same request, or another sign-up with this address, came first: its rows are there now.
        if (!isUniqueViolation(error)) throw error;
        return this.#create(ctx, input);
      }
    });
  }

  async #create(ctx: Ctx, input: Input<typeof createOrganization>) {
    const { name, owner } = input.body;
    const known = await this.people.find(owner.email);
    if (known) await this.#proveKnown(ctx, owner);
    const person: Owner = known ?? {
      id: newUuid(),
      name: owner.name,
      passwordHash: await this.passwords.hash(owner.password),
    };
    const organizationId = this.#organizationIdFor(ctx, owner.email);
    const caller = asPerson(ctx, person, organizationId, 'owner');
    // What is kept about a repeated request must not hold a fast hash of a password.
    const told = { ...input, body: { name, owner: { ...owner, password: '' } } };
    return this.work.write(caller, createOrganization, told, async (transaction, note) => {
      if (known) {
        if (!(await this.people.hold(transaction, known))) throw new ServiceError('conflict');
      } else {
        await transaction.person.create({ data: { ...person, email: owner.email } });
      }
      const row = await transaction.organization.create({ data: { organizationId, name } });
      await transaction.member.create({
        data: {
          organizationId,
          id: newUuid(),
          personId: person.id,
          email: owner.email,
          name: owner.name,
          role: 'owner',
        },
      });
      note({
        target: { kind: 'organization', id: toId('organization', organizationId), name },
        changes: { name: { from: null, to: name }, owner: { from: null, to: owner.email } },
      });
      return {
        ...show(row),
        owner: { id: toId('person', person.id), name: person.name, email: owner.email },
      };
    });
  }

  async #proveKnown(ctx: Ctx, owner: { email: string; password: string }): Promise<void> {
    const proof = await this.people.prove(ctx, owner.email, owner.password);
    if (proof.kind === 'proved') return;
    this.people.noteRefusal(ctx, proof.person, createOrganization.id, 'password');
    throw new ServiceError('conflict', {
      detail: `${owner.email} is known already: sign in, or give the password of that account`,
    });
  }

  /** A repeated request with the same Idempotency-Key means the same organization. */
  #organizationIdFor(ctx: Ctx, email: string): string {
    const { idempotencyKey } = ctx;
    if (idempotencyKey === null) return newUuid();
    return uuidFrom(this.key.sign('sign-up', `${email}\n${idempotencyKey}`));
  }

  async get(ctx: TenantCtx): Promise<Output<typeof getOrganization>> {
    return this.work.read(ctx, async (transaction) => show(await find(transaction, ctx)));
  }

  async update(
    ctx: TenantCtx,
    input: Input<typeof updateOrganization>,
  ): Promise<Output<typeof updateOrganization>> {
    const { organizationId } = ctx;
    const answer = await this.work.write(
      ctx,
      updateOrganization,
      input,
      async (transaction, note) => {
        await transaction.$queryRaw`
          select 1 from auth.organization
          where organization_id = ${organizationId}::uuid for no key update`;
        const before = await find(transaction, ctx);
        checkMatch(input.ifMatch, before.revision, false);
        const { name, offlineAfterSeconds, fourEyes } = input.body;
        if (before.fourEyes && fourEyes === false && ctx.role !== 'owner') {
          throw new ServiceError('permission_denied', {
            detail: 'four eyes are switched off by an owner alone',
          });
        }
        const after = {
          ...(name === undefined ? {} : { name }),
          ...(offlineAfterSeconds === undefined ? {} : { offlineAfterSeconds }),
          ...(fourEyes === undefined ? {} : { fourEyes }),
        };
        const row = await transaction.organization.update({
          where: { organizationId },
          data: { ...after, updatedAt: new Date(), revision: { increment: 1 } },
        });
        note({
          target: {
            kind: 'organization',
            id: toId('organization', organizationId),
            name: row.name,
          },
          changes: differences<Record<string, unknown>>(before, after),
        });
        return show(row);
      },
    );
    if (input.body.offlineAfterSeconds !== undefined) this.bus.nudge('thresholds');
    return answer;
  }
}

async function find(transaction: Transaction, { organizationId }: TenantCtx) {
  const row = await transaction.organization.findUnique({ where: { organizationId } });
  if (!row) throw notFound();
  return row;
}

type Row = Awaited<ReturnType<typeof find>>;

function show(row: Row) {
  return {
    id: toId('organization', row.organizationId),
    name: row.name,
    offlineAfterSeconds: row.offlineAfterSeconds,
    fourEyes: row.fourEyes,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

/**
 * People, who are installation-wide, and the one place where a password is compared. Known and
 * unknown addresses cost the same time, count the same attempts and get the same answer.
 */
import { writeAudit } from '@keystead/access/audit';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { email as emailSchema } from '@keystead/contracts/fields';
import { toId } from '@keystead/contracts/ids';
import { type Role, role as roleSchema } from '@keystead/contracts/permissions';
import { Database, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { Passwords } from '../passwords/passwords.ts';
import { AttemptThrottle } from '../throttle/attempt-throttle.ts';
import { Afterwards } from './afterwards.ts';

export interface Membership {
  organizationId: string;
  memberId: string;
  role: Role;
}

export interface KnownPerson {
  id: string;
  name: string;
  email: string;
  passwordHash: string | null;
  /** null: nobody has shown yet that the address is theirs. */
  verifiedAt: Date | null;
  /** Oldest first. */
  memberships: Membership[];
}

export type Proof =
  | { kind: 'proved'; person: KnownPerson; outgrown: boolean }
  | { kind: 'refused'; person: KnownPerson | undefined };

/** The one answer for everything that is wrong with a sign-in. */
export const invalidCredentials = () => new ServiceError('invalid_credentials');

@Injectable()
export class People {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Passwords) private readonly passwords: Passwords,
    @Inject(AttemptThrottle) private readonly throttle: AttemptThrottle,
    @Inject(Afterwards) private readonly afterwards: Afterwards,
  ) {}

  /** Compares a password with what is stored for a mail address. @throws ServiceError `rate_limited` */
  async prove(ctx: Ctx, email: string, password: string): Promise<Proof> {
    const attempt = await this.throttle.beginPassword(email, ctx.address);
    const person = await this.find(email);
    const { right, outgrown } = await this.passwords.verify(password, person?.passwordHash ?? null);
    if (!person || !right) return { kind: 'refused', person };
    await attempt.succeeded();
    return { kind: 'proved', person, outgrown };
  }

  async find(email: string): Promise<KnownPerson | undefined> {
    const address = emailSchema.safeParse(email);
    if (!address.success) return undefined;
    const rows = await this.database.acrossTenants(
      'sign-in',
      (transaction) => transaction.$queryRaw<
        {
          id: string;
          name: string;
          email: string;
          password_hash: string | null;
          verified_at: Date | null;
          organization_id: string | null;
          member_id: string | null;
          role: string | null;
        }[]
      >`
        select person.id, person.name, person.email, person.password_hash,
          person.verified_at,
          member.organization_id, member.id as member_id, member.role
        from auth.person
        left join auth.member on member.person_id = person.id
        where person.email = ${address.data}
        order by member.created_at, member.id
        limit 1000`,
    );
    const [first] = rows;
    if (!first) return undefined;
    return {
      id: first.id,
      name: first.name,
      email: first.email,
      passwordHash: first.password_hash,
      verifiedAt: first.verified_at,
      memberships: rows.flatMap(({ organization_id, member_id, role }) =>
        organization_id === null || member_id === null
          ? []
          : [
              {
                organizationId: organization_id,
                memberId: member_id,
                role: roleSchema.parse(role),
              },
            ],
      ),
    };
  }

  /**
   * Writes down that somebody failed to prove to be this person. Runs after the answer: waiting
   * for the row would tell by its time that the address is known.
   */
  noteRefusal(
    ctx: Ctx,
    person: KnownPerson | undefined,
    action: string,
    reason: string,
    organizationId: string | undefined = person?.memberships[0]?.organizationId,
  ): void {
    if (!person || organizationId === undefined) return;
    this.afterwards.run(() =>
      this.database.withTenant({ organizationId }, (transaction) =>
        writeAudit(
          transaction,
          ctx,
          organizationId,
          action,
          {
            target: { kind: 'person', id: toId('person', person.id), name: person.email },
            changes: { reason },
          },
          'refused',
        ),
      ),
    );
  }

  /**
   * Holds the password in place until the transaction ends, and says whether it is still the one
   * that was proved. `renewed` replaces it.
   */
  async hold(
    transaction: Transaction,
    person: Pick<KnownPerson, 'id' | 'passwordHash'>,
    renewed?: string,
  ): Promise<boolean> {
    if (renewed === undefined) {
      const [row] = await transaction.$queryRaw<{ password_hash: string | null }[]>`
        select password_hash from auth.person where id = ${person.id}::uuid for share`;
      return row !== undefined && row.password_hash === person.passwordHash;
    }
    const changed = await transaction.$executeRaw`
      update auth.person set password_hash = ${renewed}, updated_at = clock_timestamp()
      where id = ${person.id}::uuid and password_hash = ${person.passwordHash}`;
    return changed === 1;
  }
}

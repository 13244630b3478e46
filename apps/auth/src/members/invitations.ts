/**
 * Accepting an invitation. Who holds its token reads the mail of that address. A person who is
 * known proves the password they have, unless nobody ever showed that the address is theirs:
 * whoever signed up with it may not own it, so the password is set anew and their sessions end.
 */
import { writeAudit } from '@keystead/access/audit';
import { hashCredential, isCredential } from '@keystead/access/credential';
import { acceptInvitation } from '@keystead/contracts/auth';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import { type Role, role as roleSchema } from '@keystead/contracts/permissions';
import { Database, isUniqueViolation, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { Passwords } from '../passwords/passwords.ts';
import { invalidCredentials, type KnownPerson, People } from '../people/people.ts';
import { asPerson } from '../people/person-actor.ts';

interface Invitation {
  organizationId: string;
  memberId: string;
  email: string;
  name: string;
  role: Role;
}

/** What happens to the person once the invitation is claimed. */
type Arrival =
  | { kind: 'known'; person: KnownPerson }
  | { kind: 'taken-over'; person: KnownPerson; passwordHash: string }
  | { kind: 'new'; passwordHash: string };

/** Unknown, used and run out are the same answer. */
const gone = () =>
  new ServiceError('gone', { detail: 'the invitation was used, taken back, or has run out' });

@Injectable()
export class Invitations {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(People) private readonly people: People,
    @Inject(Passwords) private readonly passwords: Passwords,
  ) {}

  async accept(
    ctx: Ctx,
    input: Input<typeof acceptInvitation>,
  ): Promise<Output<typeof acceptInvitation>> {
    const { token, password } = input.body;
    if (!isCredential('invitation', token)) throw gone();
    const hash = hashCredential(token);
    return this.passwords.admit(async () => {
      try {
        return await this.#accept(ctx, hash, password);
      } catch (error) {
        // Somebody signed up with the address in this moment: they are known now.
        if (!isUniqueViolation(error)) throw error;
        return this.#accept(ctx, hash, password);
      }
    });
  }

  async #accept(ctx: Ctx, hash: Buffer, password: string) {
    const invitation = await this.database.acrossTenants('accept-invitation', (transaction) =>
      findOpen(transaction, hash),
    );
    if (!invitation) throw gone();
    const arrival = await this.#arrive(ctx, invitation, password);
    return this.database.acrossTenants('accept-invitation', async (transaction) => {
      const claimed = await findOpen(transaction, hash, true);
      if (!claimed) throw gone();
      const personId = await this.#settle(transaction, ctx, claimed, arrival);
      const { organizationId, memberId, email, role } = claimed;
      await transaction.member.update({
        where: { organizationId_id: { organizationId, id: memberId } },
        data: {
          personId,
          invitationHash: null,
          invitationExpiresAt: null,
          updatedAt: new Date(),
          revision: { increment: 1 },
        },
      });
      const caller = asPerson(ctx, { id: personId, name: claimed.name }, organizationId, role);
      await writeAudit(transaction, caller, organizationId, acceptInvitation.id, {
        target: { kind: 'member', id: toId('member', memberId), name: email },
        changes: { status: { from: 'invited', to: 'active' } },
      });
      return { organizationId: toId('organization', organizationId), email, role };
    });
  }

  async #arrive(ctx: Ctx, invitation: Invitation, password: string): Promise<Arrival> {
    const person = await this.people.find(invitation.email);
    if (!person) return { kind: 'new', passwordHash: await this.passwords.hash(password) };
    if (person.verifiedAt === null) {
      return {
        kind: 'taken-over',
        person,
        passwordHash: await this.passwords.hash(password),
      };
    }
    const proof = await this.people.prove(ctx, invitation.email, password);
    if (proof.kind === 'proved') return { kind: 'known', person: proof.person };
    this.people.noteRefusal(ctx, proof.person, acceptInvitation.id, 'password');
    throw invalidCredentials();
  }

  async #settle(
    transaction: Transaction,
    ctx: Ctx,
    invitation: Invitation,
    arrival: Arrival,
  ): Promise<string> {
    const now = new Date();
    if (arrival.kind === 'new') {
      const { email, name } = invitation;
      const id = newUuid();
      await transaction.person.create({
        data: { id, email, name, passwordHash: arrival.passwordHash, verifiedAt: now },
      });
      return id;
    }
    const { person } = arrival;
    if (arrival.kind === 'known') {
      if (!(await this.people.hold(transaction, person))) throw invalidCredentials();
      return person.id;
    }
    const { count } = await transaction.person.updateMany({
      where: { id: person.id, verifiedAt: null },
      data: { passwordHash: arrival.passwordHash, verifiedAt: now, updatedAt: now },
    });
    if (count === 0) throw invalidCredentials();
    await this.#endSessions(transaction, ctx, person);
    return person.id;
  }

  async #endSessions(transaction: Transaction, ctx: Ctx, person: KnownPerson): Promise<void> {
    const ended = await transaction.$queryRaw<{ organization_id: string }[]>`
      update auth.session set revoked_at = clock_timestamp()
      where person_id = ${person.id}::uuid and revoked_at is null
      returning organization_id`;
    const places = new Set([
      ...ended.map((row) => row.organization_id),
      ...person.memberships.map((membership) => membership.organizationId),
    ]);
    for (const organizationId of places) {
      await writeAudit(transaction, ctx, organizationId, acceptInvitation.id, {
        target: { kind: 'person', id: toId('person', person.id), name: person.email },
        changes: { reason: 'the owner of the address set a new password; sessions are ended' },
      });
    }
  }
}

/** @param claim holds the row until the transaction ends: one of two accepts finds it */
async function findOpen(
  transaction: Transaction,
  hash: Buffer,
  claim = false,
): Promise<Invitation | undefined> {
  const rows = claim
    ? await transaction.$queryRaw<InvitationRow[]>`
        select organization_id, id, email, name, role from auth.member
        where invitation_hash = ${hash} and person_id is null
          and invitation_expires_at > clock_timestamp()
        for update`
    : await transaction.$queryRaw<InvitationRow[]>`
        select organization_id, id, email, name, role from auth.member
        where invitation_hash = ${hash} and person_id is null
          and invitation_expires_at > clock_timestamp()`;
  const [row] = rows;
  return (
    row && {
      organizationId: row.organization_id,
      memberId: row.id,
      email: row.email,
      name: row.name,
      role: roleSchema.parse(row.role),
    }
  );
}

interface InvitationRow {
  organization_id: string;
  id: string;
  email: string;
  name: string;
  role: string;
}

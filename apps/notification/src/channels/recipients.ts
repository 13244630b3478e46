/**
 * Who may get mail. Members may; any other address first gets one mail that asks its owner, and
 * nothing else until the owner agreed. Both are looked up when a mail leaves, so that a removed
 * member gets no more.
 */
import { createHash } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import type { Transaction } from '@keystead/database/database';
import { enqueue } from '@keystead/database/outbox';

const confirmationTtlMs = 7 * 24 * 3_600_000;
/** Whoever does not answer is not asked again sooner. */
const askedAgainAfterMs = 24 * 3_600_000;

/** The addresses among these to which mail may go. */
export async function confirmedAmong(
  transaction: Transaction,
  organizationId: string,
  emails: readonly string[],
): Promise<Set<string>> {
  if (emails.length === 0) return new Set();
  const among = { organizationId, email: { in: [...emails] } };
  const members = await transaction.member.findMany({
    where: { ...among, personId: { not: null } },
    select: { email: true },
  });
  const confirmed = await transaction.recipientConfirmation.findMany({
    where: { ...among, confirmedAt: { not: null } },
    select: { email: true },
  });
  return new Set([...members, ...confirmed].map(({ email }) => email));
}

export interface ConfirmationRequest {
  organizationId: string;
  channelName: string;
  emails: readonly string[];
  now: Date;
  newToken: () => string;
}

/**
 * Asks the owners of addresses that are neither members' nor confirmed.
 * @returns the addresses that still wait for their owner
 * @throws ServiceError when the organization has asked too many within the hour
 */
export async function askForConfirmation(
  transaction: Transaction,
  request: ConfirmationRequest,
): Promise<string[]> {
  const { organizationId, emails, now } = request;
  const confirmed = await confirmedAmong(transaction, organizationId, emails);
  const waiting = emails.filter((email) => !confirmed.has(email));
  if (waiting.length === 0) return [];
  const asked = await transaction.recipientConfirmation.findMany({
    where: {
      organizationId,
      email: { in: waiting },
      requestedAt: { gt: new Date(now.getTime() - askedAgainAfterMs) },
    },
    select: { email: true },
  });
  const toAsk = waiting.filter((email) => !asked.some((one) => one.email === email));
  if (toAsk.length === 0) return waiting;
  if (!(await chargeMails(transaction, organizationId, 'confirmations', toAsk.length))) {
    throw new ServiceError('limit_reached', {
      detail: `an organization may ask ${limits.mailConfirmationsPerOrganizationPerHour} new mail addresses an hour`,
    });
  }
  const organization = await transaction.organization.findUniqueOrThrow({
    where: { organizationId },
    select: { name: true },
  });
  for (const email of toAsk) {
    const token = request.newToken();
    const fresh = {
      tokenHash: hashToken(token),
      requestedAt: now,
      expiresAt: new Date(now.getTime() + confirmationTtlMs),
    };
    await transaction.recipientConfirmation.upsert({
      where: { organizationId_email: { organizationId, email } },
      create: { organizationId, email, ...fresh },
      update: fresh,
    });
    await enqueue(transaction, organizationId, 'mail.requested', {
      template: 'email.confirmation',
      to: email,
      data: {
        organizationName: organization.name,
        channelName: request.channelName,
        token,
      },
    });
  }
  return waiting;
}

export function hashToken(token: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHash('sha256').update(token).digest());
}

/**
 * Counts mails against the quota of the running hour, all or none.
 * @returns whether they were within it
 */
export async function chargeMails(
  transaction: Transaction,
  organizationId: string,
  what: 'mails' | 'confirmations',
  count: number,
): Promise<boolean> {
  const mails = what === 'mails' ? count : 0;
  const confirmations = what === 'confirmations' ? count : 0;
  const charged = await transaction.$executeRaw`
    insert into notification.mail_hour as h (organization_id, hour, mails, confirmations)
    select ${organizationId}::uuid, date_trunc('hour', clock_timestamp()), ${mails}, ${confirmations}
    where ${mails} <= ${limits.mailsPerOrganizationPerHour}
      and ${confirmations} <= ${limits.mailConfirmationsPerOrganizationPerHour}
    on conflict (organization_id, hour) do update
    set mails = h.mails + excluded.mails, confirmations = h.confirmations + excluded.confirmations
    where h.mails + excluded.mails <= ${limits.mailsPerOrganizationPerHour}
      and h.confirmations + excluded.confirmations <= ${limits.mailConfirmationsPerOrganizationPerHour}`;
  return charged === 1;
}

/**
 * Mails of the control plane itself: invitations, confirmations, notices. Each is an outbox row
 * that stays until the mail server took the mail; a row is held for the time of a lease while it
 * is tried, and waits longer after each failure.
 */

import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { type OutboxPayload, outboxTopics } from '@keystead/contracts/outbox';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { LOG } from '@keystead/service-runtime/messaging.module';
import { Inject, Injectable } from '@nestjs/common';
import { chargeMails } from '../channels/recipients.ts';
import { CONFIG, type Config } from '../config.ts';
import { EmailSender } from '../delivery/email-sender.ts';
import type { NoticeMessage } from '../delivery/message.ts';
import { nextAttempt } from '../delivery/next-attempt.ts';
import { renderEmail } from '../delivery/render.ts';
import type { SendOutcome } from '../delivery/send-outcome.ts';

interface WaitingMail {
  id: bigint;
  organization_id: string | null;
  topic: 'mail.requested' | 'installation.deaf';
  payload: unknown;
  failures: number;
}

const batch = 10;

@Injectable()
export class MailPost {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(EmailSender) private readonly sender: EmailSender,
    @Inject(CONFIG)
    private readonly config: Pick<Config, 'KEYSTEAD_PUBLIC_URL' | 'KEYSTEAD_OPERATOR_EMAILS'>,
    @Inject(LOG) private readonly log: Logger,
  ) {}

  async send(): Promise<void> {
    for (let taken = batch; taken === batch; ) {
      const mails = await this.#take();
      taken = mails.length;
      await Promise.all(mails.map((mail) => this.#sendOne(mail)));
    }
  }

  async #take(): Promise<WaitingMail[]> {
    return this.database.acrossTenants(
      'deliver',
      (transaction) => transaction.$queryRaw<WaitingMail[]>`
        update messaging.outbox
        set available_at = clock_timestamp() + ${limits.deliveryLeaseMs} * interval '1 millisecond',
          failures = failures + 1
        where id in (
          select id from messaging.outbox
          where topic in ('mail.requested', 'installation.deaf')
            and available_at <= clock_timestamp()
          order by id limit ${batch} for update skip locked
        )
        returning id, organization_id, topic, payload, failures`,
    );
  }

  async #sendOne(mail: WaitingMail): Promise<void> {
    const outcome = await this.#attempt(mail);
    const next = nextAttempt(outcome, mail.failures, Math.random());
    if (next.next === 'dead') {
      this.log.error(
        { topic: mail.topic, detail: 'detail' in outcome ? outcome.detail : '' },
        'a mail was given up',
      );
    }
    await this.database.acrossTenants('deliver', async (transaction) => {
      if (next.next === 'retry') {
        await transaction.$executeRaw`
          update messaging.outbox
          set available_at = clock_timestamp() + ${next.inMs}::float8 * interval '1 millisecond'
          where id = ${mail.id}`;
      } else {
        await transaction.$executeRaw`delete from messaging.outbox where id = ${mail.id}`;
      }
    });
  }

  async #attempt(mail: WaitingMail): Promise<SendOutcome> {
    const parsed = outboxTopics[mail.topic].safeParse(mail.payload);
    if (!parsed.success) return unreadable();
    const [to, message] =
      mail.topic === 'installation.deaf'
        ? ([
            this.config.KEYSTEAD_OPERATOR_EMAILS,
            deafMessage(parsed.data as OutboxPayload<'installation.deaf'>),
          ] as const)
        : requested(
            this.config.KEYSTEAD_PUBLIC_URL,
            mail.organization_id,
            parsed.data as OutboxPayload<'mail.requested'>,
          );
    if (to.length === 0) return { result: 'delivered', durationMs: 0 };
    const { organization_id: organizationId } = mail;
    if (organizationId !== null && mail.failures === 1) {
      const within = await this.database.withTenant({ organizationId }, (transaction) =>
        chargeMails(transaction, organizationId, 'mails', to.length),
      );
      if (!within) {
        return {
          result: 'temporary',
          reason: 'quota',
          detail: 'the mail quota of the organization is used up',
          blame: 'installation',
          retryAfterMs: 3_600_000 - (Date.now() % 3_600_000),
          durationMs: 0,
        };
      }
    }
    const rendered = renderEmail(message, { publicUrl: this.config.KEYSTEAD_PUBLIC_URL });
    return this.sender.send({ id: `mail_${mail.id}`, to, ...rendered });
  }
}

function deafMessage(payload: OutboxPayload<'installation.deaf'>): NoticeMessage {
  return { type: 'installation.deaf', at: new Date().toISOString(), ...payload };
}

function requested(
  publicUrl: string,
  organizationUuid: string | null,
  { template, to, data }: OutboxPayload<'mail.requested'>,
): readonly [string[], NoticeMessage] {
  const at = new Date().toISOString();
  const field = (name: string) => data[name] ?? '';
  const organizationName = field('organizationName');
  switch (template) {
    case 'email.confirmation':
      return [
        [to],
        {
          type: template,
          at,
          organizationName,
          channelName: field('channelName'),
          confirmUrl: linkWithToken(publicUrl, '/v1/channels/confirm', field('token')),
        },
      ];
    case 'member.invitation':
      return [
        [to],
        {
          type: template,
          at,
          organizationName,
          invitedBy: field('inviterName'),
          role: field('role'),
          acceptUrl: linkWithToken(publicUrl, '/v1/invitations/accept', field('token')),
        },
      ];
    case 'channel.disabled': {
      const id = organizationUuid === null ? '' : toId('organization', organizationUuid);
      return [
        [to],
        {
          type: template,
          at,
          organization: { id, name: organizationName },
          channel: { id: field('channelId'), name: field('channelName') },
          reason: field('reason') === 'gone' ? 'gone' : 'failing',
          failingSince: field('failingSince') || null,
          lastAnswer: field('lastAnswer') || null,
        },
      ];
    }
  }
}

function linkWithToken(publicUrl: string, path: string, token: string): string {
  return `${publicUrl.replace(/\/+$/, '')}${path}?token=${encodeURIComponent(token)}`;
}

function unreadable(): SendOutcome {
  return {
    result: 'permanent',
    reason: 'unreadable',
    detail: 'the outbox row does not fit its contract',
    blame: 'installation',
    durationMs: 0,
  };
}

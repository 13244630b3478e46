/**
 * Mails of the control plane itself: invitations, confirmations, notices. Each is an outbox row
 * that stays until the mail server took the mail; a row is held for the time of a lease while it
 * is tried, and waits longer after each failure.
 */

import { randomInt } from 'node:crypto';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { OutboxPayload } from '@keystead/contracts/outbox';
import { Database } from '@keystead/database/database';
import { putOff, settle, take } from '@keystead/database/outbox';
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
  organizationId: string | null;
  failures: number;
  to: readonly string[];
  message: NoticeMessage;
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
    const { KEYSTEAD_PUBLIC_URL: publicUrl, KEYSTEAD_OPERATOR_EMAILS: operators } = this.config;
    return this.database.acrossTenants('deliver', async (transaction) => {
      const holdMs = limits.deliveryLeaseMs;
      const mails = await take(transaction, 'mail.requested', batch, holdMs);
      const left = batch - mails.length;
      const notices = await take(transaction, 'installation.deaf', left, holdMs);
      return [
        ...mails.map(({ payload, ...row }) => ({
          ...row,
          to: [payload.to],
          message: requested(publicUrl, row.organizationId, payload),
        })),
        ...notices.map(({ payload, ...row }) => ({
          ...row,
          to: operators,
          message: { type: 'installation.deaf', at: new Date().toISOString(), ...payload } as const,
        })),
      ];
    });
  }

  async #sendOne(mail: WaitingMail): Promise<void> {
    const outcome = await this.#attempt(mail);
    const next = nextAttempt(outcome, mail.failures, randomInt(2 ** 32) / 2 ** 32);
    if (next.next === 'dead') {
      const detail = 'detail' in outcome ? outcome.detail : '';
      this.log.error({ kind: mail.message.type, detail }, 'a mail was given up');
    }
    await this.database.acrossTenants('deliver', async (transaction) => {
      if (next.next === 'retry') await putOff(transaction, mail.id, next.inMs);
      else await settle(transaction, mail.id);
    });
  }

  async #attempt({ id, to, message, organizationId, failures }: WaitingMail): Promise<SendOutcome> {
    if (to.length === 0) return { result: 'delivered', durationMs: 0 };
    if (organizationId !== null && failures === 1) {
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
    return this.sender.send({ id: `mail_${id}`, to, ...rendered });
  }
}

function requested(
  publicUrl: string,
  organizationUuid: string | null,
  { template, data }: OutboxPayload<'mail.requested'>,
): NoticeMessage {
  const at = new Date().toISOString();
  const { organizationName } = data;
  switch (template) {
    case 'email.confirmation': {
      const { channelName, token } = data;
      const confirmUrl = linkWithToken(publicUrl, '/v1/channels/confirm', token);
      return { type: template, at, organizationName, channelName, confirmUrl };
    }
    case 'member.invitation': {
      const { invitedBy, role, token } = data;
      const acceptUrl = linkWithToken(publicUrl, '/v1/invitations/accept', token);
      return { type: template, at, organizationName, invitedBy, role, acceptUrl };
    }
    case 'channel.disabled': {
      const { channelId, channelName, reason, failingSince, lastAnswer } = data;
      const id = organizationUuid === null ? '' : toId('organization', organizationUuid);
      return {
        type: template,
        at,
        organization: { id, name: organizationName },
        channel: { id: channelId, name: channelName },
        reason,
        failingSince,
        lastAnswer,
      };
    }
  }
}

/** The token stands in the fragment: it reaches the page, but no log of a server in between. */
function linkWithToken(publicUrl: string, path: string, token: string): string {
  return `${publicUrl.replace(/\/+$/, '')}${path}#token=${encodeURIComponent(token)}`;
}

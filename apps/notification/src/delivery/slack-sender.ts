/**
 * Posts one message to a Slack incoming webhook (https://api.slack.com/messaging/webhooks) and
 * says what became of it. The URL is a tenant's, so it takes the same guarded way as webhooks.
 */
import type { GuardedTransport } from './guarded-transport.ts';
import { retryAfterMs } from './retry-after.ts';
import type { SendOutcome } from './send-outcome.ts';

export interface SlackMessage {
  /** What notifications and screen readers show. */
  text: string;
  blocks: readonly object[];
}

export interface SlackDelivery {
  organizationId: string;
  url: string;
  message: SlackMessage;
  signal?: AbortSignal;
}

/** Error answers that no further attempt changes, with what the owner should know. */
const permanentAnswers: Record<string, string> = {
  invalid_payload: 'Slack could not read the message',
  invalid_blocks: 'Slack could not read the message',
  invalid_token: 'the webhook URL is not valid (any more)',
  no_text: 'Slack could not read the message',
  user_not_found: 'the person the webhook posts to does not exist',
  channel_not_found: 'the Slack channel does not exist',
  channel_is_archived: 'the Slack channel is archived',
  action_prohibited: 'an administrator of the workspace forbids the post',
  posting_to_general_channel_denied: 'posting to the general channel is forbidden',
  too_many_attachments: 'Slack could not read the message',
  team_disabled: 'the workspace is disabled',
  no_service: 'the webhook was removed',
  no_service_id: 'the webhook was removed',
  no_team: 'the workspace does not exist',
  no_active_hooks: 'the webhook is disabled',
};

/** Answers after which the URL never works again. */
const goneAnswers = new Set(['no_service', 'no_service_id', 'no_active_hooks', 'no_team']);

export class SlackSender {
  readonly #transport: GuardedTransport;
  readonly #nowMs: () => number;

  constructor(transport: GuardedTransport, nowMs: () => number = Date.now) {
    this.#transport = transport;
    this.#nowMs = nowMs;
  }

  async send(delivery: SlackDelivery): Promise<SendOutcome> {
    const answer = await this.#transport.post({
      url: delivery.url,
      organizationId: delivery.organizationId,
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'user-agent': 'Keystead-Slack/1',
      },
      body: Buffer.from(JSON.stringify(delivery.message)),
      ...(delivery.signal && { signal: delivery.signal }),
    });
    const { durationMs } = answer;
    if (answer.result === 'failed') {
      const { reason, detail } = answer;
      const blame = reason === 'stopped' ? 'installation' : 'receiver';
      return {
        result: answer.permanent ? 'permanent' : 'temporary',
        reason,
        detail,
        blame,
        durationMs,
      };
    }
    const { status } = answer;
    const seen = { status, durationMs, ...(answer.answer && { answer: answer.answer }) };
    if (status >= 200 && status < 300) return { result: 'delivered', ...seen };
    const word = answer.answer?.trim().slice(0, 60) ?? '';
    const known = Object.hasOwn(permanentAnswers, word) ? permanentAnswers[word] : undefined;
    if (known !== undefined || [400, 403, 404, 410].includes(status)) {
      const gone = goneAnswers.has(word) || status === 410;
      return {
        result: 'permanent',
        reason: known === undefined ? 'status' : word,
        detail: known ?? `Slack answered ${status}`,
        blame: 'receiver',
        ...(gone && { gone }),
        ...seen,
      };
    }
    const retry = retryAfterMs(answer.retryAfter, this.#nowMs());
    return {
      result: 'temporary',
      reason: status === 429 ? 'rate_limited' : 'status',
      detail: status === 429 ? 'Slack asks for a slower pace' : `Slack answered ${status}`,
      blame: 'receiver',
      ...(retry !== undefined && { retryAfterMs: retry }),
      ...seen,
    };
  }
}

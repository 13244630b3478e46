/** Sends one signed webhook and says what became of it. */
import type { GuardedTransport } from './guarded-transport.ts';
import { retryAfterMs } from './retry-after.ts';
import type { SendOutcome } from './send-outcome.ts';
import { signWebhook } from './webhook-signature.ts';

export interface WebhookDelivery {
  /** The delivery's public id, the same in every attempt. */
  id: string;
  organizationId: string;
  url: string;
  /** The newest first; two while a rotation lasts. */
  secrets: readonly string[];
  /** The exact bytes that are signed and sent. */
  body: Uint8Array;
  signal?: AbortSignal;
}

export class WebhookSender {
  readonly #transport: GuardedTransport;
  readonly #nowMs: () => number;

  constructor(transport: GuardedTransport, nowMs: () => number = Date.now) {
    this.#transport = transport;
    this.#nowMs = nowMs;
  }

  async send(delivery: WebhookDelivery): Promise<SendOutcome> {
    const timestamp = Math.floor(this.#nowMs() / 1_000);
    const answer = await this.#transport.post({
      url: delivery.url,
      organizationId: delivery.organizationId,
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'user-agent': 'Keystead-Webhooks/1',
        ...signWebhook(delivery.id, timestamp, delivery.body, delivery.secrets),
      },
      body: delivery.body,
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
    if (status === 410) {
      return {
        result: 'permanent',
        reason: 'gone',
        detail: 'the receiver answered 410 Gone: it wants no more',
        blame: 'receiver',
        gone: true,
        ...seen,
      };
    }
    const retry = retryAfterMs(answer.retryAfter, this.#nowMs());
    const redirect = status >= 300 && status < 400;
    return {
      result: 'temporary',
      reason: redirect ? 'redirect' : 'status',
      detail: redirect
        ? `the receiver answered ${status}: redirects are not followed, enter the final URL`
        : `the receiver answered ${status}`,
      blame: 'receiver',
      ...(retry !== undefined && { retryAfterMs: retry }),
      ...seen,
    };
  }
}

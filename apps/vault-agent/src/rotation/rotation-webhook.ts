/**
 * Tells an endpoint of the owner's what became of rotations, signed as Standard Webhooks are. In the order
 * of what happened, a few attempts each; what an endpoint misses is in the history.
 */
import { createHmac } from 'node:crypto';
import { rotatorLimits } from './rotation-limits.ts';
import type { ReportedOutcome, RotationReport } from './rotation-report.ts';

export interface RotationWebhookOptions {
  url: string;
  /** `whsec_…` in base64, or any text. */
  secret: string | undefined;
  events: readonly ReportedOutcome[];
  onError: (error: unknown) => void;
  retryPauseMs?: number;
}

export class RotationWebhook {
  readonly #options: RotationWebhookOptions;
  readonly #waiting: RotationReport[] = [];
  readonly #stopping = new AbortController();
  #sending: Promise<void> | undefined;

  constructor(options: RotationWebhookOptions) {
    this.#options = options;
  }

  readonly report = (report: RotationReport): void => {
    if (!this.#options.events.includes(report.outcome)) return;
    this.#waiting.push(report);
    // The oldest goes first: what is told last is what holds.
    if (this.#waiting.length > rotatorLimits.webhooksWaitingMax) this.#waiting.shift();
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  };

  /** Ends what is being sent if it takes longer than a moment. */
  async stop(): Promise<void> {
    const late = setTimeout(() => this.#stopping.abort(), rotatorLimits.webhookStopMs);
    await this.#sending;
    clearTimeout(late);
    this.#stopping.abort();
  }

  async #sendAll(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      try {
        await this.#send(next);
      } catch (error) {
        this.#options.onError(error);
      }
      if (this.#stopping.signal.aborted) return;
    }
  }

  async #send(report: RotationReport): Promise<void> {
    const { url, secret, retryPauseMs = 1_000 } = this.#options;
    const body = JSON.stringify({
      type: `rotation.${report.outcome}`,
      timestamp: new Date(report.atMs).toISOString(),
      data: {
        namespace: report.namespace,
        secret: report.secret,
        attempt: report.attempt,
        rotator: report.rotator,
        nextDueAt: report.nextDueMs === null ? null : new Date(report.nextDueMs).toISOString(),
        problem: report.problem,
      },
    });
    for (let attempt = 1; ; attempt += 1) {
      const sentAt = String(Math.floor(Date.now() / 1_000));
      const headers: Record<string, string> = {
        'content-type': 'application/json',
        'webhook-id': `${report.id}-${report.outcome}`,
        'webhook-timestamp': sentAt,
      };
      if (secret !== undefined) {
        const signed = `${headers['webhook-id']}.${sentAt}.${body}`;
        const signature = createHmac('sha256', keyOf(secret)).update(signed).digest('base64');
        headers['webhook-signature'] = `v1,${signature}`;
      }
      try {
        const response = await fetch(url, {
          method: 'POST',
          headers,
          body,
          redirect: 'error',
          signal: AbortSignal.any([
            this.#stopping.signal,
            AbortSignal.timeout(rotatorLimits.webhookTimeoutMs),
          ]),
        });
        await response.body?.cancel();
        if (response.ok) return;
        throw new Error(`the webhook of rotations answered with status ${response.status}`);
      } catch (error) {
        if (attempt >= rotatorLimits.webhookAttempts || this.#stopping.signal.aborted) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, retryPauseMs * 2 ** (attempt - 1)));
    }
  }
}

function keyOf(secret: string): Buffer {
  return secret.startsWith('whsec_')
    ? Buffer.from(secret.slice('whsec_'.length), 'base64')
    : Buffer.from(secret);
}

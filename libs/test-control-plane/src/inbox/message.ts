/** One thing that arrived in the inbox, as `/messages.json` shows it. */
export interface InboxMessage {
  readonly id: number;
  readonly receivedAt: string;
  readonly kind: 'email' | 'slack' | 'webhook';
  /** Who it is for: the recipients of a mail, the last part of the path of the other two. */
  readonly channel: string;
  readonly subject: string;
  readonly verdict: Verdict;
  readonly email?: EmailContent;
  readonly slack?: unknown;
  readonly webhook?: WebhookContent;
}

export interface Verdict {
  readonly result: 'valid' | 'invalid' | 'unchecked';
  readonly reason: string;
}

export interface EmailContent {
  readonly from: string;
  readonly to: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  readonly html: string;
  readonly secure: boolean;
}

export interface WebhookContent {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The exact characters that were received and checked. */
  readonly body: string;
  /** The answer given. */
  readonly status: number;
}

/** How long to wait before the answer, and what to answer, in place of the ordinary answer. */
export interface Behavior {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly delayMs?: number;
  /** Cut the connection without an answer. */
  readonly hangUp?: boolean;
}

/**
 * What one attempt to deliver ended in. Every sender answers with one of these and never throws
 * for anything a receiver can do, so that the retry decision is a pure function of it.
 */
export type SendOutcome = {
  durationMs: number;
  /** HTTP status or SMTP answer code, where there was one. */
  status?: number;
  /** The start of the answer; absent from receivers that were reached through the allow list. */
  answer?: string;
} & (
  | { result: 'delivered'; undelivered?: UndeliveredRecipient[] }
  | {
      result: 'temporary';
      reason: string;
      detail: string;
      /** Whose failure it is: the installation's own never counts against a channel. */
      blame: Blame;
      retryAfterMs?: number;
    }
  | {
      result: 'permanent';
      reason: string;
      detail: string;
      blame: Blame;
      /** The receiver says that it will never come back: the channel is disabled at once. */
      gone?: true;
    }
);

export type Blame = 'receiver' | 'installation';

/** A recipient whom the mail server refused while it took the mail for others. */
export interface UndeliveredRecipient {
  address: string;
  status?: number;
  answer: string;
  permanent: boolean;
}

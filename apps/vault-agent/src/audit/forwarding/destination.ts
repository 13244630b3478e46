/** Where the audit is forwarded to. One suite holds for all of them. */

export interface ForwardedLine {
  sequence: number;
  /** As it is on the disk, without its end. */
  text: string;
}

export interface Destination {
  /** For people and metrics, e.g. `syslog tcp logs.example.com:514`. Never a credential. */
  readonly name: string;
  /**
   * Whether `send` itself tells that the lines have arrived. Otherwise they have only left, and
   * `confirm` tells.
   */
  readonly acknowledges: boolean;
  /** @throws where the lines may not have arrived */
  send(lines: readonly ForwardedLine[]): Promise<void>;
  /** Resolves when everything that was sent has arrived. @throws where it may not have */
  confirm(): Promise<void>;
  /** After a failure: the next `send` begins anew. */
  reset(): void;
}

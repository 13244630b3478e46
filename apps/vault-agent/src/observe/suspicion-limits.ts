/** Limits of watching for suspicious activity, with their reasons. */
export const suspicionLimits = {
  /** Identities that are watched; of more, those that were quiet longest are forgotten. */
  identities: 2_000,
  /** Networks that are known of one identity: more is a laptop that travels, and no news. */
  networks: 32,
  /** An hour is unusual only for who has been known for so long, and was there on so many days. */
  familiarAfterDays: 14,
  familiarActiveDays: 5,
  /** What was learned is written so often. */
  saveEveryMs: 10 * 60_000,
  /** Bits for counting distinct secrets of one identity in half a window: within some percent to 8,000. */
  distinctBits: 8_192,
  lockouts: 1_000,
  /** How soon a lock that the command took away is gone. */
  lockoutPollMs: 1_000,
} as const;

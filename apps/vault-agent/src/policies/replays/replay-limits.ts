/** Limits of the journal of decisions and of replays in one agent, with their reasons. */
export const replayLimits = {
  // Equal decisions of one minute are one entry: no policy sees a difference within it but by seconds.
  windowMs: 60_000,
  // Different decisions of a minute; whoever asks for ever new names fills no disk and pushes little out.
  entriesPerWindow: 5_000,
  // Entries that wait for a disk that hangs, some 20 MB; what comes then is only counted.
  entriesWaitingMax: 20_000,
  // A file of the journal is closed at this size or age, and compressed to about a tenth.
  fileBytes: 4 * 1024 * 1024,
  fileMaxAgeMs: 24 * 3_600_000,
  closedBytesMax: 64 * 1024 * 1024,
  keepDays: 31,
  // The longest line that is looked at.
  lineMaxLength: 64 * 1024,
  // The event loop has other things to do: of each twenty milliseconds a replay takes five.
  sliceMs: 5,
  restMs: 15,
  // What one replay may cost in all.
  entriesMax: 500_000,
  workMs: 60_000,
  storeReadsMax: 20_000,
  // Different changed decisions that are counted apart to find the most frequent ones.
  differencesCounted: 50_000,
  differencesTold: 20,
  // Waiting for the one that runs; more are offered again.
  waitingMax: 8,
  // Results that the owner can look up, with names.
  resultsKept: 20,
} as const;

const relations: [boolean, string][] = [
  [replayLimits.sliceMs < 50, 'a slice and the slowest first decision stay below 100 ms'],
  [replayLimits.waitingMax < replayLimits.resultsKept, 'what runs and waits is known'],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits of replays contradict each other: ${reason}`);
}

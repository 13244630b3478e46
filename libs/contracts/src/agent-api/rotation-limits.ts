/** Limits of rotation, with their reasons. */
export const rotationLimits = {
  // More often, and a rotation would begin before the one before it has been seen by all readers.
  intervalMinSeconds: 60,
  intervalMaxSeconds: 10 * 365 * 86_400,
  overlapMaxSeconds: 90 * 86_400,
  noticeMaxSeconds: 90 * 86_400,
  usesMax: 1_000_000_000,
  attemptsMax: 20,
  retryDelayMinSeconds: 1,
  retryDelayMaxSeconds: 86_400,
  cronMaxLength: 100,
  timezoneMaxLength: 64,
  // Exact counting of what a rule allows takes a square of the length.
  generatedLengthMin: 4,
  generatedLengthMax: 256,
  alphabetMaxLength: 95,
  settingsMax: 32,
  settingKeyMaxLength: 64,
  settingValueMaxLength: 1_024,
  urlMaxLength: 2_048,
  timeoutMinSeconds: 1,
  timeoutMaxSeconds: 300,
  timeoutDefaultSeconds: 30,
  // A request waits within the ordinary limit of a request.
  waitMaxSeconds: 15,
  problemMaxLength: 300,
} as const;

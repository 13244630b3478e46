/**
 * Limits of the agent's own REST API, with their reasons. What a vault may hold is limited by its
 * namespaces; this is what one request may be.
 */
export const apiLimits = {
  /** A value of 1 MiB in base64 is 1.34 MiB; the rest is for its metadata and the JSON around it. */
  bodyMaxBytes: 1_600 * 1_024,
  bodyMaxDepth: 20,
  valueMaxBytes: 1_024 * 1_024,
  secretNameMaxLength: 255,
  namespaceNameMaxLength: 120,
  nameMaxLength: 120,
  descriptionMaxLength: 2_000,
  tagMaxLength: 64,
  tagsMax: 32,
  metadataEntriesMax: 64,
  metadataKeyMaxLength: 64,
  metadataValueMaxLength: 1_024,
  pageDefault: 50,
  pageMax: 1_000,
  /** The position (at most a name and a time), who may use it, and the seal, in base64. */
  cursorMaxLength: 1_024,
  idempotencyKeyMaxLength: 255,
  idempotencyKeepHours: 24,
  rolesPerIdentityMax: 20,
  permissionsPerRoleMax: 100,
  /** `namespace` and `secret` patterns; a name has at most 255 characters. */
  patternMaxLength: 255,
  /** Each `*` of a pattern is one more search in the name. */
  patternStarsMax: 8,
  rolesMax: 200,
  apiKeysMax: 10_000,
} as const;

const relations: [boolean, string][] = [
  [
    Math.ceil(apiLimits.valueMaxBytes / 3) * 4 +
      apiLimits.metadataEntriesMax *
        (apiLimits.metadataKeyMaxLength + apiLimits.metadataValueMaxLength + 8) <
      apiLimits.bodyMaxBytes,
    'a full value in base64 with full metadata fits into a body',
  ],
  [
    apiLimits.patternMaxLength >= apiLimits.secretNameMaxLength,
    'a pattern can spell the longest name out',
  ],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits contradict each other: ${reason}`);
}

/** Every limit of this library, with its reason. */

export const envelopeLimits = {
  /** One sealed message is held in memory whole; larger things are streams. */
  maxSealedBytes: 64 * 1024 * 1024,

  /** Argon2id, as a header may ask for it: more would let a forged header take the machine. */
  minArgonMemoryKib: 8 * 1024,
  maxArgonMemoryKib: 256 * 1024,
  minArgonPasses: 1,
  maxArgonPasses: 16,
  maxArgonParallelism: 16,
  /** Memory times passes: about five seconds of one core at the most. */
  maxArgonWorkKib: 1024 * 1024,
  minArgonSaltBytes: 16,
  maxArgonSaltBytes: 64,
  /** Each derivation holds its memory: two at once are at most 512 MiB. */
  maxConcurrentDerivations: 2,
  /** Each takes up to five seconds: who comes later is better refused than kept for minutes. */
  maxWaitingDerivations: 32,
  /** Long enough for any sentence; a password is hashed as a whole. */
  maxPasswordBytes: 4 * 1024,
  /** NIST SP 800-63B asks for eight; what guards every key of an installation gets more. */
  minPassphraseCharacters: 12,

  /** A header of a sealed stream is read before anything in it is trusted. */
  maxStreamRecipients: 16,
  /** Each costs one Argon2id to whoever opens the stream. */
  maxStreamPassphrases: 1,
  maxStreamRecipientBytes: 512,
  minStreamChunkBytesLog2: 12,
  maxStreamChunkBytesLog2: 20,

  /** What a key provider may answer with. */
  maxWrappedKeyBytes: 16 * 1024,
  maxContextEntries: 16,
  maxContextBytes: 4 * 1024,
  maxKeyIdCharacters: 2_048,
  maxCommandOutputBytes: 4 * 1024,
} as const;

const relations: [boolean, string][] = [
  [
    envelopeLimits.minArgonMemoryKib * envelopeLimits.maxArgonPasses <=
      envelopeLimits.maxArgonWorkKib,
    'the smallest memory may take the most passes',
  ],
  [
    envelopeLimits.maxArgonMemoryKib * envelopeLimits.minArgonPasses <=
      envelopeLimits.maxArgonWorkKib,
    'the most memory may be used at least once',
  ],
  [
    2 ** envelopeLimits.maxStreamChunkBytesLog2 <= envelopeLimits.maxSealedBytes,
    'a chunk fits into a message',
  ],
];
for (const [holds, meaning] of relations) {
  if (!holds) throw new Error(`limits of the envelope contradict each other: ${meaning}`);
}

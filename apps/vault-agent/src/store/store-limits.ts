/** Limits of the agent's store, with their reasons. */
export const storeLimits = {
  // One failure may be one broken connection; five in a row are a store that is away.
  failuresToOpen: 5,
  // The first probe comes soon, because most outages are restarts; later ones leave a struggling server alone.
  probeAfterFirstMs: 500,
  probeAfterMostMs: 5_000,
  // A read that takes longer will not come back in time for whoever asked.
  readTimeoutMs: 5_000,
  // Longer than a lock on MariaDB is waited for by default would be no help to the caller.
  writeTimeoutMs: 15_000,
  // Copies, imports and restores: as many secrets as a namespace may have.
  bulkTimeoutMs: 10 * 60_000,
  // Exports, backups, and whole archives taken in: a million secrets over a slow line.
  transferTimeoutMs: 2 * 3_600_000,
  // Bulk work that is given up ends with its next query; how long that one may take to come.
  bulkEndsWithinMs: 60_000,
  // Changes by other processes are seen within a second: half of it, and the other half for a slow answer.
  pollPeriodMs: 400,
  cacheTrustedForMs: 1_000,
  // How long a reading that could be answered from the cache waits for a store that is silent.
  patienceMs: 1_000,
  // Of a list of which a part is seen: what one page looks at, how long it takes, in slices for others' sake.
  pageLooksAtMax: 10_000,
  pageWorkMs: 1_000,
  pageSliceMs: 10,
  // So that a page of one does not ask for row after row.
  pageReadsAtLeast: 200,
};

const relations: [boolean, string][] = [
  [
    storeLimits.pollPeriodMs * 2 <= storeLimits.cacheTrustedForMs,
    'one late answer does not empty the cache',
  ],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits contradict each other: ${reason}`);
}

/** When a clock is believed, with the reasons. */
export const clockLimits = {
  // A step forward of up to this is a machine that slept, or an agent that was not running.
  forwardMostMs: 7 * 86_400_000,
  // A step back of up to this is a clock that was set right, or one hour too much of summer.
  backMostMs: 3_600_000,
  // A larger one is believed when the clock has gone on from there for so long: people look at a wrong clock within a day.
  agreementMs: 86_400_000,
  // Slewing, and the time between two readings.
  driftMs: 60_000,
  // How far the clocks of agents on one store may differ.
  peersDifferMs: 3_600_000,
  // How often the time is noted in the store: what passes unnoticed over a restart is at most this.
  lookEveryMs: 300_000,
} as const;

if (clockLimits.driftMs >= clockLimits.backMostMs) {
  throw new Error('limits contradict each other: what drifts would be a step');
}

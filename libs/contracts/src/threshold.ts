/**
 * How long an agent may be silent, and how often it beats. One decision for every service that
 * shows it or acts on it; monitoring applies the same rule in SQL to many agents at once.
 */
import { limits } from './limits.ts';

export const thresholdSources = ['vault', 'tag', 'organization', 'installation'] as const;
export type ThresholdSource = (typeof thresholdSources)[number];

/** What was set at each level, in seconds; null where nothing was. */
export interface ThresholdSettings {
  vault: number | null;
  /** Of the threshold rules whose tag the vault carries. */
  tags: readonly number[];
  organization: number | null;
  installation: number;
}

/** The nearest setting wins: vault, the smallest among the tags, organization, installation. */
export function thresholdInForce(settings: ThresholdSettings): {
  offlineAfterSeconds: number;
  source: ThresholdSource;
} {
  if (settings.vault !== null) return { offlineAfterSeconds: settings.vault, source: 'vault' };
  if (settings.tags.length > 0) {
    return { offlineAfterSeconds: Math.min(...settings.tags), source: 'tag' };
  }
  if (settings.organization !== null) {
    return { offlineAfterSeconds: settings.organization, source: 'organization' };
  }
  return { offlineAfterSeconds: settings.installation, source: 'installation' };
}

/** A ninth of the threshold, between 1.5 s and 30 s. */
export function heartbeatIntervalMs(offlineAfterSeconds: number): number {
  const wanted = Math.floor((offlineAfterSeconds * 1_000) / limits.heartbeatsPerThreshold);
  return Math.min(Math.max(wanted, limits.heartbeatIntervalMinMs), limits.heartbeatIntervalMaxMs);
}

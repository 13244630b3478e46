/**
 * Why a duty may look across organizations. A test counts the call sites of each; the list may
 * only shrink.
 */
export const purposes = [
  // Who a caller is comes before which organization they belong to.
  'authenticate-api-key',
  'sign-in',
  'accept-invitation',
  'list-own-organizations',
  // Agents arrive with a token or a certificate, in batches of many organizations.
  'enroll-agent',
  'admit-agents',
  'certificate-authority',
  'poll-revocations',
  'record-beats',
  'record-agent-events',
  'record-agent-signals',
  'deliver-policies',
  // Unattended duties that have no caller.
  'sweep-liveness',
  'reconcile-thresholds',
  'calm-alerts',
  'hearing',
  'dispatch-alerts',
  'deliver',
  'confirm-recipient',
  'roll-out',
  'roll-up-usage',
  'remove-expired',
  'measure',
] as const;
export type Purpose = (typeof purposes)[number];

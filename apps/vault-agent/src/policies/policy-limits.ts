/** Limits of decisions, approvals and overrides in one agent, with their reasons. */
export const policyLimits = {
  // How long every decision is made under the set before as well.
  compareForMs: 3_600_000,
  // What is known of tags and metadata of a resource; as fresh as every other cache of the store.
  factsTtlMs: 1_000,
  factsKept: 10_000,
  throttlesKept: 100_000,
  // Of one identity; more would be a way to fill the store.
  approvalsPendingPerIdentity: 20,
  approvalsPendingMax: 10_000,
  approvalsKeepDays: 90,
  // What another agent of the vault has changed is told within this.
  approvalReportPollMs: 2_000,
  approvalsPerReport: 50,
  commentMaxLength: 500,
  reasonMaxLength: 500,
  overrideMaxMinutes: 24 * 60,
  overridePollMs: 1_000,
} as const;

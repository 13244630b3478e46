/**
 * Every limit of the control plane, with its reason. The relations between them are asserted when
 * the module loads, so that a change which breaks one cannot start.
 */
export const limits = {
  // HTTP
  bodyMaxBytes: 256 * 1024,
  bodyMaxDepth: 20,
  pageDefault: 50,
  pageMax: 200,
  cursorMaxLength: 1_024,
  idempotencyKeyMaxLength: 255,
  idempotencyKeepHours: 24,
  requestTimeoutMs: 20_000,
  requestHeadersTimeoutMs: 10_000,
  httpConnectionsMax: 10_000,
  requestsPerMinutePerCaller: 6_000,
  requestsPerMinutePerAddress: 3_000,
  signInsPerEmailPer15Minutes: 10,
  signInsPerAddressPer15Minutes: 100,
  signUpsPerAddressPerHour: 300,
  eventStreamsPerOrganization: 50,
  eventStreamRecheckMs: 2_000,
  liveEventKeepHours: 24,

  // Names and collections
  nameMaxLength: 120,
  tagMaxLength: 64,
  tagsMax: 32,
  membersPerOrganization: 1_000,
  apiKeysPerOrganization: 500,
  vaultsPerOrganization: 100_000,
  agentsPerOrganization: 100_000,
  enrollmentTokensPerOrganization: 1_000,
  enrollmentTokenMaxUses: 100_000,
  enrollmentTokenMaxTtlSeconds: 30 * 24 * 3_600,
  enrollmentTokenKeepDays: 90,
  enrollmentsInFlight: 4,
  enrollmentsWaiting: 2_000,
  enrollmentWaitMs: 5_000,
  thresholdRulesPerOrganization: 200,
  alertRulesPerOrganization: 200,
  channelsPerOrganization: 200,
  subscriptionsPerOrganization: 500,
  subscriptionChannelsMax: 20,
  channelRecipientsMax: 20,
  mailsPerOrganizationPerHour: 500,
  mailConfirmationsPerOrganizationPerHour: 30,

  // Sessions of people
  accessTokenTtlSeconds: 15 * 60,
  refreshTokenTtlSeconds: 30 * 24 * 3_600,
  // However often it is refreshed, a session ends, and somebody signs in again.
  sessionMaxTtlSeconds: 90 * 24 * 3_600,
  sessionsPerMember: 200,
  passwordMinLength: 10,
  passwordMaxLength: 256,
  // Each takes 19 MiB and a thread; two leave threads of the pool to everything else.
  passwordHashesAtOnce: 2,
  passwordHashWaitMs: 4_000,
  // Sign-ins and sign-ups under way in one process, whatever they wait for.
  signInsUnderWay: 150,
  invitationTtlSeconds: 7 * 24 * 3_600,
  invitationKeepSeconds: 30 * 24 * 3_600,
  sessionKeepSeconds: 7 * 24 * 3_600,
  apiKeyKeepSeconds: 90 * 24 * 3_600,
  removeExpiredBatch: 1_000,
  removeExpiredBatchesMax: 50,

  // Between services
  serviceTokenTtlSeconds: 30,
  serviceClockSkewSeconds: 5,
  busRequestTimeoutMs: 8_000,
  busPayloadMaxBytes: 900 * 1024,

  // Liveness
  offlineAfterDefaultSeconds: 270,
  offlineAfterMinSeconds: 15,
  offlineAfterMaxSeconds: 24 * 3_600,
  heartbeatsPerThreshold: 9,
  heartbeatIntervalMinMs: 1_500,
  heartbeatIntervalMaxMs: 30_000,
  lateAfterIntervals: 3,
  reconnectAllowanceMs: 60_000,
  gatewayTickMs: 1_000,
  gatewayDeafAfterMs: 5_000,
  gatewayGoneAfterMs: 30_000,
  sweepPeriodMs: 500,
  sweepBatch: 1_000,
  stoppedBecomesOfflineAfterSeconds: 24 * 3_600,
  groupWaitMs: 10_000,
  toldWithinSeconds: 300,
  flapOutagesPerHour: 3,
  flapCalmSeconds: 600,
  duplicateBootAlternations: 3,
  outboxBatch: 500,
  reconcilePeriodMs: 1_000,

  // Agent link
  agentMessageMaxBytes: 64 * 1024,
  agentMessagesPerSecond: 20,
  agentStreamsPerConnection: 4,
  agentSessionsPerGateway: 50_000,
  agentHeaderListMaxBytes: 8 * 1024,
  agentHelloPerSecond: 600,
  agentConnectionMaxAgeMs: 6 * 3_600_000,
  agentBatchWaitMs: 25,
  agentBatchMax: 1_000,
  agentEventsPerMessage: 100,
  agentEventKeepDays: 90,
  operationCountsPerEvent: 48,
  topSecretsPerEvent: 10,
  auditHeadKeepDays: 400,
  usageKeepDays: 400,
  revocationPollMs: 1_000,
  certificateTtlSeconds: 7 * 24 * 3_600,
  certificateBackdateSeconds: 5 * 60,
  certificatesPerAgent: 32,

  // Policies
  policiesPerOrganization: 2_000,
  policyVersionsPerPolicy: 1_000,
  // A Cedar text as well as a document; the engine refuses what is longer too.
  policyTextMaxLength: 16 * 1024,
  policyCommentsPerVersion: 500,
  policyCommentMaxLength: 4_000,
  policySetsPerOrganization: 200,
  policiesPerSet: 500,
  policySetVersionsPerOrganization: 100_000,
  policyFilesPerApply: 200,
  policyRequestsPerSimulation: 500,
  replayDaysMax: 30,
  // A sample of a large fleet says as much, and each agent is told by itself.
  replayAgentsMax: 2_000,
  replayExpiresMaxSeconds: 7 * 24 * 3_600,
  replaysRunningPerOrganization: 10,
  // Older ones that are finished go.
  replaysKeptPerOrganization: 200,
  replayEndPeriodMs: 5_000,
  replayDifferencesPerAgent: 20,
  replayDifferencesShown: 50,
  rolloutStagesMax: 20,
  rolloutVaultsNamed: 200,
  // A set is sent anew every 30 s; an agent that compiles a large one takes a minute at most.
  rolloutAnswerMinSeconds: 60,
  rolloutAnswerDefaultSeconds: 900,
  rolloutAnswerMaxSeconds: 7 * 24 * 3_600,
  policySetTargetTagsMax: 32,
  // What one answer or one bus message carries of a set.
  policySetPartBytes: 512 * 1024,
  policySetAgentsPerCall: 500,
  // Signed commands in one answer to a gateway, which asks again for the rest; and those of sets among them.
  agentCommandsPerCall: 150,
  policySetCommandsPerCall: 100,
  agentCommandsPerLook: 1_000,
  // As long as a comment at the agent.
  approvalReasonMaxLength: 500,
  approvalRequirementsMax: 16,
  approvalDecisionsMax: 64,
  approvalKeepDays: 90,
  // An agent that makes them up fills no more of the database.
  approvalsKeptPerVault: 5_000,
  // Beyond these a vault's waiting approvals are told of as a whole.
  approvalsToldEach: 20,
  staleAfterMinSeconds: 60,
  staleAfterMaxSeconds: 366 * 24 * 3_600,
  // One set is for many vaults, each with receivers of its own.
  auditDestinationsPerSet: 50,
  organizationSignerTtlSeconds: 365 * 24 * 3_600,
  commandSignerTtlSeconds: 30 * 24 * 3_600,
  rolloutStepPeriodMs: 2_000,
  // A new vault decides by roles alone until then.
  standingRolloutPeriodMs: 5_000,

  // Deliveries
  deliveryTimeoutMs: 15_000,
  deliveryLeaseMs: 60_000,
  deliveryAnswerKeepBytes: 1_024,
  deliveriesInFlight: 64,
  deliveriesInFlightPerChannel: 4,
  channelDisabledAfterSeconds: 5 * 24 * 3_600,
  deliveryAlertsMax: 500,
} as const;

const relations: [boolean, string][] = [
  [
    limits.offlineAfterDefaultSeconds * 1_000 +
      limits.sweepPeriodMs +
      limits.groupWaitMs +
      limits.deliveryTimeoutMs <
      limits.toldWithinSeconds * 1_000,
    'silence, sweep, group wait and one slow delivery fit into the five minutes',
  ],
  [
    limits.heartbeatIntervalMinMs * limits.lateAfterIntervals <
      limits.offlineAfterMinSeconds * 1_000,
    'an agent is late before it is offline, also at the smallest threshold',
  ],
  [
    limits.heartbeatIntervalMaxMs * limits.heartbeatsPerThreshold ===
      limits.offlineAfterDefaultSeconds * 1_000,
    'the default threshold uses the longest interval',
  ],
  [
    limits.enrollmentWaitMs + 2_000 <= limits.busRequestTimeoutMs,
    'an enrolment does not begin when nobody waits for its answer any more',
  ],
  [
    limits.deliveryLeaseMs > 2 * limits.deliveryTimeoutMs,
    'a lease outlives the delivery it protects',
  ],
  [limits.gatewayDeafAfterMs >= 3 * limits.gatewayTickMs, 'one lost tick is not deafness'],
  [
    limits.agentBatchMax * 512 < limits.busPayloadMaxBytes,
    'a full batch of heartbeats fits into one bus message',
  ],
  [
    limits.eventStreamRecheckMs <= 5_000,
    'an open event stream ends within five seconds of a revocation',
  ],
  [
    // A sign-up compares one password and hashes another; the rest is for the database.
    2 * limits.passwordHashWaitMs <= limits.busRequestTimeoutMs,
    'nobody hashes a password for a caller who has given up',
  ],
  [
    limits.refreshTokenTtlSeconds <= limits.sessionMaxTtlSeconds,
    'a session lives at least as long as one refresh token',
  ],
  [
    limits.agentEventsPerMessage * 600 <= limits.agentMessageMaxBytes,
    'a full message of agent events fits into the message limit',
  ],
  [
    limits.policySetPartBytes * 1.4 < limits.busPayloadMaxBytes,
    'a part of a policy set fits into one bus message in base64',
  ],
  [
    // A signed command has at most 4 kB with its certificates, in base64 5.4 kB; what stands around it 170 bytes.
    limits.agentCommandsPerCall * 5_400 + limits.policySetAgentsPerCall * 170 <
      limits.busPayloadMaxBytes,
    'the commands of one call fit into one bus message',
  ],
  [
    limits.policySetCommandsPerCall < limits.agentCommandsPerCall,
    'while a set goes to a whole fleet there is room for what agents are told besides',
  ],
  [
    // In JSON a count has at most 130 characters, a reference 110, the rest of an event 1,200.
    limits.agentEventsPerMessage *
      (limits.operationCountsPerEvent * 130 + limits.topSecretsPerEvent * 110 + 1_200) <
      limits.busPayloadMaxBytes,
    'a full batch of usage reports fits into one bus message',
  ],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits contradict each other: ${reason}`);
}

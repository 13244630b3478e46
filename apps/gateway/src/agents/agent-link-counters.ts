/** What happened on the agent link since the start. Plain numbers, read by whoever shows metrics. */
export interface AgentLinkCounters {
  sessionsOpened: number;
  sessionsClosed: number;
  sessionsRefused: number;
  sessionsSuperseded: number;
  admissionsDelayed: number;
  beatsReceived: number;
  beatsRecorded: number;
  beatsNotRecorded: number;
  beatBatches: number;
  beatBatchesFailed: number;
  eventsReceived: number;
  eventsRecorded: number;
  eventsNotRecorded: number;
  protocolErrors: number;
  messagesNotUnderstood: number;
  revocationsApplied: number;
  revocationPollsFailed: number;
  goodbyes: number;
  policyCommandsSent: number;
  policyCallsFailed: number;
  policySetRequests: number;
  policySetPartsSent: number;
}

export function zeroCounters(): AgentLinkCounters {
  return {
    sessionsOpened: 0,
    sessionsClosed: 0,
    sessionsRefused: 0,
    sessionsSuperseded: 0,
    admissionsDelayed: 0,
    beatsReceived: 0,
    beatsRecorded: 0,
    beatsNotRecorded: 0,
    beatBatches: 0,
    beatBatchesFailed: 0,
    eventsReceived: 0,
    eventsRecorded: 0,
    eventsNotRecorded: 0,
    protocolErrors: 0,
    messagesNotUnderstood: 0,
    revocationsApplied: 0,
    revocationPollsFailed: 0,
    goodbyes: 0,
    policyCommandsSent: 0,
    policyCallsFailed: 0,
    policySetRequests: 0,
    policySetPartsSent: 0,
  };
}

/**
 * Every limit of policies, with its reason. The relations between them are asserted when the module
 * loads, so that a change which breaks one cannot start.
 */
import { limits as contractLimits } from '@keystead/contracts/limits';

export const limits = {
  // What one policy may be: a Cedar text, or a document as JSON text
  policyTextMaxLength: contractLimits.policyTextMaxLength,
  documentMaxDepth: 12,
  // Cedar's parser and evaluator recurse on 1 MiB of stack: brackets trap at 130 levels, a tree at 300.
  bracketDepthMax: 30,
  treeDepthMax: 100,
  ifsMax: 50,
  // Fifteen hundred names and signs are parsed and checked in some 40 ms.
  tokensMax: 1_500,
  annotationMaxLength: 500,
  nameMaxLength: 120,
  descriptionMaxLength: 2_000,
  priorityMax: 1_000_000,
  rulesMax: 50,
  conditionsMax: 50,
  valuesMax: 100,
  selectorsMax: 100,
  rangesMax: 100,
  patternMaxLength: 256,
  // A program of RE2 takes time in proportion to its size and the text it reads.
  patternProgramMax: 1_000,
  patternsPerPolicy: 10,
  zonesPerPolicy: 4,

  // What one set may be
  policiesPerSet: 10_000,
  setTextMaxLength: 16 * 1024 * 1024,
  namespacesPerSet: 1_000,
  networksPerSet: 100,
  networkRangesMax: 200,

  // What one decision may cost; a decision that would cost more is a denial
  policiesPerDecision: 500,
  nodesPerDecision: 20_000,
  patternStepsPerDecision: 1_000_000,
  rolesPerPrincipal: 200,
  tagsPerResource: 64,
  metadataPerResource: 64,
  textMaxLength: 4_096,

  // What is remembered
  decisionsKept: 10_000,
  decisionKeyMaxLength: 4_096,
  decisionReadsMax: 100,
  slicesKept: 4_096,
  candidateSetsKept: 1_024,
  preparedPoliciesKept: 20_000,
  // Parsing a block takes some 6 ms, so no first decision waits long for any one of them.
  preparedBlock: 100,
  studiesKept: 20_000,
  // A study is some twenty times as large as its text; ten thousand policies of usual length fit.
  studiedLettersKept: 8 * 1024 * 1024,
  // Letters and instructions of patterns, a hundred bytes each.
  patternStepsKept: 500_000,
  preparedSlotsKept: 4_096,

  // Work in pieces: an event loop is given back after each
  pieceMs: 10,
  validationBatch: 20,
  validationBatchNodes: 500,

  // Reports
  problemsPerPolicy: 20,
  problemsPerSet: 1_000,
  conflictsReported: 1_000,
  conflictPairsMax: 2_000_000,
  explainedPolicies: 100,
  simulatedRequests: 100_000,
  differencesReported: 1_000,

  // Clock
  clockToleranceMs: 30_000,
  clockSettlesAfterMs: 10 * 60_000,
} as const;

const relations: [boolean, string][] = [
  [
    limits.policiesPerDecision <= limits.preparedPoliciesKept,
    'what one decision needs can be kept prepared',
  ],
  [limits.bracketDepthMax * 4 < 130, 'a quarter of the stack is enough for the deepest brackets'],
  [limits.treeDepthMax * 3 <= 300, 'a third of the stack is enough for the deepest tree'],
  [
    limits.policiesPerSet <= limits.studiesKept,
    'a set that changes in one policy is not studied anew',
  ],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits contradict each other: ${reason}`);
}

/** Every operation of the public API. The gateway offers exactly these. */
import * as analytics from './analytics.ts';
import * as approvals from './approvals.ts';
import * as auth from './auth.ts';
import * as monitoring from './monitoring.ts';
import * as notification from './notification.ts';
import type { Operation } from './operation.ts';
import * as policy from './policy.ts';
import * as policyReplays from './policy-replays.ts';
import * as registry from './registry.ts';

function isOperation(value: unknown): value is Operation {
  return typeof value === 'object' && value !== null && 'subject' in value && 'method' in value;
}

export const operations: readonly Operation[] = [
  auth,
  registry,
  monitoring,
  policy,
  policyReplays,
  approvals,
  analytics,
  notification,
].flatMap((contract) => Object.values(contract as Record<string, unknown>).filter(isOperation));

const seen = new Set<string>();
for (const { method, path, subject } of operations) {
  for (const key of [`${method} ${path}`, subject]) {
    if (seen.has(key)) throw new Error(`declared twice: ${key}`);
    seen.add(key);
  }
}

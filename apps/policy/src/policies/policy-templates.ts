/** Policies for common needs. Each is valid as it stands; a test says so. */
import type { Output } from '@keystead/contracts/operation';
import type { listPolicyTemplates } from '@keystead/contracts/policy';

type Template = Output<typeof listPolicyTemplates>['items'][number];

const cedar = (text: string): Template['source'] => ({ format: 'cedar', text: `${text.trim()}\n` });

export const policyTemplates: readonly Template[] = [
  {
    name: 'business-hours',
    title: 'Business hours',
    description: 'People read and change secrets from Monday to Friday, from 8 to 18.',
    level: 'organization',
    source: cedar(`
@description("Outside business hours people touch no secrets; machines go on.")
@log("outside business hours")
forbid(principal is User, action, resource is Secret)
unless {
  context.clock["Europe/Berlin"].weekday >= 1 &&
  context.clock["Europe/Berlin"].weekday <= 5 &&
  context.clock["Europe/Berlin"].minuteOfDay >= 480 &&
  context.clock["Europe/Berlin"].minuteOfDay < 1080
};`),
  },
  {
    name: 'office-networks',
    title: 'Office networks',
    description:
      'Requests come from networks that the set names as office, or from the machine itself.',
    level: 'organization',
    source: cedar(`
@description("Values are read from the office or from the machine itself.")
@alert("high: somebody asked for a value from outside")
forbid(principal, action == Action::"secret.read-value", resource)
unless { context.networks.contains("office") || context.networks.contains("loopback") };`),
  },
  {
    name: 'read-only-auditors',
    title: 'Read-only auditors',
    description: 'Auditors see what there is and what was done, and never a value.',
    level: 'vault',
    source: cedar(`
@description("Auditors look, and touch nothing.")
permit(
  principal in Role::"auditor",
  action in [
    Action::"namespace.read",
    Action::"namespace.list",
    Action::"namespace.statistics",
    Action::"secret.read",
    Action::"secret.list",
    Action::"secret.list-versions",
    Action::"audit.read",
    Action::"audit.verify"
  ],
  resource
);`),
  },
  {
    name: 'break-glass',
    title: 'Break glass',
    description:
      'In an emergency a role reads everything after two people approved, and everybody is told.',
    level: 'vault',
    source: cedar(`
@description("Emergencies: everything is readable, with two approvals and a loud alert.")
@priority("100")
@require_approval("2 of security-admins within 30 minutes")
@alert("critical: break-glass was used")
permit(principal in Role::"break-glass", action == Action::"secret.read-value", resource);`),
  },
  {
    name: 'operators',
    title: 'Operators',
    description: 'Operators look after secrets of a vault; reading values is throttled.',
    level: 'vault',
    source: cedar(`
@description("Operators create, change and rotate.")
permit(
  principal in Role::"operator",
  action in [
    Action::"namespace.read",
    Action::"namespace.list",
    Action::"secret.create",
    Action::"secret.read",
    Action::"secret.list",
    Action::"secret.update",
    Action::"secret.list-versions",
    Action::"secret.rotate"
  ],
  resource
);

@description("Reading many values at once is slowed down.")
@throttle("100 per 5 minutes by identity")
permit(principal in Role::"operator", action == Action::"secret.read-value", resource);`),
  },
];

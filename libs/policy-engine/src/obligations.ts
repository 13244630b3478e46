/**
 * What must be done besides permitting or denying. In Cedar's text an obligation is an annotation,
 * which has no influence on the decision:
 *
 *   @log("why it is worth a line")
 *   @alert("high: somebody reads what nobody should")     low | medium | high | critical
 *   @notify("security-team, on-call: break-glass was used")
 *   @require_approval("2 of security-admins, owners within 30 minutes")
 *   @throttle("100 per 5 minutes by identity")            identity | address | secret
 */
import { limits } from './limits.ts';
import { meant, nearest, quoted } from './problems.ts';

export const severities = ['low', 'medium', 'high', 'critical'] as const;
export type Severity = (typeof severities)[number];
export const throttleKeys = ['identity', 'address', 'secret'] as const;
export type ThrottleKey = (typeof throttleKeys)[number];

export type Obligation =
  | { kind: 'log'; policyId: string; message: string }
  | { kind: 'alert'; policyId: string; severity: Severity; message: string }
  | { kind: 'notify'; policyId: string; targets: readonly string[]; message: string }
  | {
      kind: 'require_approval';
      policyId: string;
      /** Roles whose members may approve. */
      approvers: readonly string[];
      /** How many different people. */
      count: number;
      expiresAfterSeconds: number;
    }
  | { kind: 'throttle'; policyId: string; limit: number; windowSeconds: number; by: ThrottleKey };

export const obligationKinds = ['log', 'alert', 'notify', 'require_approval', 'throttle'] as const;
export type ObligationKind = (typeof obligationKinds)[number];

/** Annotations that mean something; others are refused, so that a misspelt one is not just ignored. */
export const knownAnnotations = [
  'id',
  'name',
  'description',
  'priority',
  ...obligationKinds,
] as const;

const units: Record<string, number> = { second: 1, minute: 60, hour: 3_600, day: 86_400 };
const name = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/;

/** `30 minutes`, `1 hour`, `minute` (one of it). Undefined when it is none. */
function seconds(text: string): number | undefined {
  const [, count, unit] = /^(?:([1-9]\d{0,5}) +)?(second|minute|hour|day)s?$/.exec(text) ?? [];
  return unit === undefined ? undefined : Number(count ?? 1) * (units[unit] as number);
}

export const secondsText = (value: number): string => `${value} seconds`;

/** Lists of names end at the first colon; what follows is for people. */
function targetsAndMessage(text: string): { names: string[]; message: string } {
  const colon = text.indexOf(':');
  const head = colon < 0 ? text : text.slice(0, colon);
  return {
    names: head.split(',').map((entry) => entry.trim()),
    message: colon < 0 ? '' : text.slice(colon + 1).trim(),
  };
}

type Parsed =
  | { ok: true; obligation: Obligation }
  | { ok: false; what: string; suggestion?: string };

const refuse = (what: string, suggestion?: string): Parsed => ({
  ok: false,
  what,
  ...(suggestion === undefined ? {} : { suggestion }),
});

/** Reads one annotation. */
export function parseObligation(kind: ObligationKind, text: string, policyId: string): Parsed {
  if (text.length > limits.annotationMaxLength) {
    return refuse(`@${kind} has at most ${limits.annotationMaxLength} characters`);
  }
  switch (kind) {
    case 'log':
      return { ok: true, obligation: { kind, policyId, message: text.trim() } };
    case 'alert': {
      const { names, message } = targetsAndMessage(text);
      const severity = severities.find((known) => known === names.join());
      if (severity === undefined) {
        return refuse(`${quoted(names.join())} is no severity`, meant(names.join(), severities));
      }
      return { ok: true, obligation: { kind, policyId, severity, message } };
    }
    case 'notify': {
      const { names, message } = targetsAndMessage(text);
      const bad = names.find((target) => !name.test(target));
      if (bad !== undefined) {
        return refuse(
          bad === '' ? '@notify names nobody' : `${quoted(bad)} is no name of somebody to tell`,
          'write @notify("security-team, on-call: what happened")',
        );
      }
      return { ok: true, obligation: { kind, policyId, targets: names, message } };
    }
    case 'require_approval': {
      const [, count, roles, expiry] = /^(\d{1,2}) of (.+) within (.+)$/.exec(text) ?? [];
      const approvers = roles?.split(',').map((role) => role.trim()) ?? [];
      const expiresAfterSeconds = seconds(expiry?.trim() ?? '');
      const bad = approvers.find((role) => !name.test(role));
      if (
        count === undefined ||
        Number(count) < 1 ||
        Number(count) > 10 ||
        bad !== undefined ||
        expiresAfterSeconds === undefined ||
        expiresAfterSeconds > 30 * 86_400
      ) {
        return refuse(
          `${quoted(text)} does not say how many of whom, and within what time (at most 30 days)`,
          'write @require_approval("1 of security-admins within 30 minutes")',
        );
      }
      return {
        ok: true,
        obligation: { kind, policyId, approvers, count: Number(count), expiresAfterSeconds },
      };
    }
    case 'throttle': {
      const [, limit, window, key] = /^([1-9]\d{0,6}) per (.+?)(?: by ([a-z]+))?$/.exec(text) ?? [];
      const windowSeconds = seconds(window ?? '');
      const by = throttleKeys.find((known) => known === (key ?? 'identity'));
      if (limit === undefined || windowSeconds === undefined || windowSeconds > 86_400) {
        return refuse(
          `${quoted(text)} does not say how many in what time (at most a day)`,
          'write @throttle("100 per 5 minutes by identity")',
        );
      }
      if (by === undefined) {
        return refuse(
          `a throttle cannot count by ${quoted(key ?? '')}`,
          meant(key ?? '', throttleKeys),
        );
      }
      return { ok: true, obligation: { kind, policyId, limit: Number(limit), windowSeconds, by } };
    }
  }
}

/** Reads the annotations of a policy: what they oblige to, the priority, and what is wrong. */
export function parseAnnotations(
  annotations: Readonly<Record<string, string | null>>,
  effect: 'permit' | 'forbid',
  policyId: string,
): {
  priority: number;
  obligations: Obligation[];
  wrong: { annotation: string; what: string; suggestion?: string }[];
} {
  let priority = 0;
  const obligations: Obligation[] = [];
  const wrong: { annotation: string; what: string; suggestion?: string }[] = [];
  for (const [annotation, value] of Object.entries(annotations)) {
    const text = value ?? '';
    if (annotation === 'priority') {
      priority = Number(text);
      if (!/^-?\d{1,7}$/.test(text) || Math.abs(priority) > limits.priorityMax) {
        wrong.push({
          annotation,
          what: `${quoted(text)} is no priority: a whole number up to ${limits.priorityMax}`,
          suggestion:
            'write @priority("10"); among permits the highest decides whose obligations hold',
        });
        priority = 0;
      }
      continue;
    }
    const kind = obligationKinds.find((known) => known === annotation);
    if (kind === undefined) {
      if ((knownAnnotations as readonly string[]).includes(annotation)) continue;
      const near = nearest(annotation, knownAnnotations);
      wrong.push({
        annotation,
        what: `@${annotation} means nothing here`,
        suggestion: near
          ? `did you mean \`@${near}\`?`
          : `one of ${knownAnnotations.map((known) => `\`@${known}\``).join(', ')}`,
      });
      continue;
    }
    if (effect === 'forbid' && (kind === 'require_approval' || kind === 'throttle')) {
      wrong.push({
        annotation,
        what: `@${kind} stands on a policy that forbids; what is forbidden needs no ${kind === 'throttle' ? 'throttle' : 'approval'}`,
        suggestion: 'write it on a policy that permits',
      });
      continue;
    }
    const parsed = parseObligation(kind, text, policyId);
    if (parsed.ok) obligations.push(parsed.obligation);
    else {
      wrong.push({
        annotation,
        what: parsed.what,
        ...(parsed.suggestion === undefined ? {} : { suggestion: parsed.suggestion }),
      });
    }
  }
  return { priority, obligations, wrong };
}

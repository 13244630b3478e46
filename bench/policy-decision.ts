/**
 * What a policy decision costs. Sets of 10 to 10,000 policies, as teams have them: each team its
 * namespaces, its hours and its networks, with guardrails over all. The floor is Cedar itself with the
 * same policies prepared once and evaluated whole, which is what one gets without slices and memory.
 * Cold decisions are evaluated by Cedar with the slice's policies prepared; warm ones were asked
 * before; the first of a slice prepares its policies too.
 *
 * At last what a hundred policies add to a secret that is read from a vault, through door, store and audit; one
 * over HTTPS takes a core as long as `agent-read` says (a core's second by its reads/s).
 *
 *   npm run bench -- policy-decision [--rounds 5] [--most 10000] [--reads 20000]
 */
import { createRequire } from 'node:module';
import { compile } from '@keystead/policy-engine/compile';
import { decide } from '@keystead/policy-engine/decide';
import { type AccessRequest, cedarCallOf, factsOf } from '@keystead/policy-engine/facts';
import { readCost } from './agent/read-under-policies.ts';
import { argument, calibrate, finish, median, percentile, printTable, round } from './report.ts';

const require = createRequire(new URL('../libs/policy-engine/package.json', import.meta.url));
const plain =
  require('@cedar-policy/cedar-wasm/nodejs') as typeof import('@cedar-policy/cedar-wasm/nodejs');

const rounds = argument('rounds', 5);
const sizes = [10, 100, 1_000, 10_000].filter((size) => size <= argument('most', 10_000));
const requestsMany = 256;

function policiesOf(size: number): { id: string; cedar: string }[] {
  const guardrails = [
    'forbid(principal, action == Action::"secret.destroy", resource) unless { principal in Role::"owner" };',
    'forbid(principal, action, resource) when { context has address && context.address.isInRange(ip("203.0.113.0/24")) };',
    'forbid(principal, action == Action::"namespace.export", resource) unless { context.tls.clientCertificate };',
    'forbid(principal is ApiKey, action == Action::"key.rotate", resource);',
  ].slice(0, Math.min(4, Math.floor(size / 4)));
  const teams = Array.from({ length: size - guardrails.length }, (_, at) => {
    const team = Math.floor(at / 4);
    const scope = `principal in Role::"team-${team}", action in [Action::"secret.read", Action::"secret.read-value", Action::"secret.list"], resource in Namespace::"space-${team}"`;
    return [
      `@priority("${at % 3}") permit(${scope}) when { context.clock["Europe/Berlin"].weekday <= 5 && context.clock["Europe/Berlin"].minuteOfDay >= 480 && context.clock["Europe/Berlin"].minuteOfDay < 1080 };`,
      `permit(${scope}) when { resource.name like "app-${at}/*" && context has address && context.address.isInRange(ip("10.0.0.0/8")) };`,
      `@log("by pipeline") permit(${scope}) when { context.headers has "x-pipeline" && context.headers["x-pipeline"] like "deploy-*" };`,
      `forbid(${scope}) when { resource.tags.contains("frozen") || context.authentication.ageSeconds > 86400 };`,
    ][at % 4] as string;
  });
  return [...guardrails, ...teams].map((cedar, at) => ({ id: `p${at}`, cedar }));
}

/** Each asks for a secret of the own team; the use count and the moment differ every time. */
function requestOf(size: number, at: number): AccessRequest {
  const team = (at * 7) % Math.max(1, Math.floor(size / 4) - 1);
  return {
    principal: {
      kind: 'api_key',
      id: `key_${at}`,
      name: `key ${at}`,
      roles: ['reader', `team-${team}`],
    },
    action: 'secret.read-value',
    resource: {
      vault: { id: 'vlt_1', name: 'main', tags: ['eu'] },
      namespace: { name: `space-${team}`, tags: ['pci'] },
      secret: {
        name: `app-${team * 4 + 1}/password-${at}`,
        tags: ['database'],
        metadata: { tier: '1' },
      },
    },
    context: {
      atMs: Date.UTC(2026, 5, 10, 9) + at,
      zone: 'Europe/Berlin',
      address: `10.0.${at % 200}.7`,
      authentication: { method: 'api_key', ageSeconds: at % 3_600 },
      tls: { used: true, version: 'TLSv1.3' },
      headers: { 'user-agent': 'bench' },
      useCount: at,
    },
  };
}

const timed = (work: () => void): number => {
  const start = performance.now();
  work();
  return performance.now() - start;
};

const table: Record<string, string | number>[] = [];
let reported = { floor: 0, cold: 0, coldP99: 0, warm: 0, warmP95: 0, warmP99: 0 };
let calibrationMs = calibrate();

for (const size of sizes) {
  const policies = policiesOf(size);
  const start = performance.now();
  const compiled = await compile({ vault: { policies } });
  const compileMs = performance.now() - start;
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems[0]));
  const set = compiled.value;
  const prepared = plain.preparsePolicySet('whole', {
    staticPolicies: policies.map(({ cedar }) => cedar).join('\n'),
  });
  if (prepared.type !== 'success') throw new Error(JSON.stringify(prepared.errors[0]));
  const requests = Array.from({ length: requestsMany }, (_, at) => requestOf(size, at));
  const zones = new Set(['Europe/Berlin']);
  const calls = requests.map((request) => {
    const facts = factsOf(request, set.networks);
    if (typeof facts === 'string') throw new Error(facts);
    return cedarCallOf(facts, undefined, undefined, true, [], zones);
  });
  const first: number[] = [];
  const cold: number[] = [];
  const warm: number[] = [];
  const whole: number[] = [];
  const perRound = size >= 10_000 ? 8 : size >= 1_000 ? 40 : requestsMany;
  for (let turn = 0; turn < rounds + 1; turn += 1) {
    set.close();
    for (const request of requests.slice(0, 32)) first.push(timed(() => decide(set, request)));
    for (const request of requests) decide(set, request);
    for (const request of requests) {
      set.memory.clear();
      cold.push(timed(() => decide(set, request)));
    }
    for (const request of requests) decide(set, request);
    for (let again = 0; again < 4; again += 1) {
      for (const request of requests) warm.push(timed(() => decide(set, request)));
    }
    for (let at = 0; at < perRound; at += 1) {
      const call = calls[(turn * perRound + at) % calls.length] as (typeof calls)[number];
      whole.push(
        timed(() => {
          const answer = plain.statefulIsAuthorized({
            ...call,
            preparsedPolicySetId: 'whole',
            validateRequest: false,
          });
          if (answer.type !== 'success') throw new Error(answer.errors[0]?.message);
        }),
      );
    }
    // What runs first is compiled while it is measured.
    if (turn === 0) for (const list of [first, cold, warm, whole]) list.length = 0;
  }
  for (const [at, request] of requests.entries()) {
    const answer = plain.statefulIsAuthorized({
      ...(calls[at] as (typeof calls)[number]),
      preparsedPolicySetId: 'whole',
      validateRequest: false,
    });
    const theirs = answer.type === 'success' ? answer.response.decision : 'failed';
    if (decide(set, request).decision !== theirs)
      throw new Error(`request ${at} is decided otherwise`);
    if (size >= 10_000 && at > 20) break;
  }
  const us = (values: number[], share: number) =>
    round(
      percentile(
        [...values].sort((a, b) => a - b),
        share,
      ) * 1_000,
    );
  const floor = median(whole) * 1_000;
  table.push({
    policies: size,
    'compile ms': round(compileMs),
    'plain Cedar µs': round(floor),
    'first µs': us(first, 0.5),
    'cold µs': us(cold, 0.5),
    'cold p99': us(cold, 0.99),
    'warm µs': us(warm, 0.5),
    'warm p99': us(warm, 0.99),
    'cold / plain': round(us(cold, 0.5) / floor),
    'warm / plain': Number((us(warm, 0.5) / floor).toFixed(4)),
  });
  if (size <= 1_000) {
    reported = {
      floor,
      cold: us(cold, 0.5),
      coldP99: us(cold, 0.99),
      warm: us(warm, 0.5),
      warmP95: us(warm, 0.95),
      warmP99: us(warm, 0.99),
    };
  }
  calibrationMs = Math.max(calibrationMs, calibrate());
  set.close();
}

printTable(table);

const mayRead = { id: 'bench', cedar: 'permit(principal in Role::"reader", action, resource);' };
const byNames = Array.from({ length: 100 }, (_, at) => ({
  id: `n${at}`,
  cedar: `permit(principal in Role::"team-${at}", action == Action::"secret.read-value", resource in Namespace::"space-${at}") when { context has address && context.address.isInRange(ip("10.0.0.0/8")) };`,
}));
const reads = argument('reads', 20_000);
const added = new Map<string, number>();
for (const [kind, policies] of [
  ['names, roles and networks', byNames],
  ['times, tags and metadata too', policiesOf(100)],
] as const) {
  const { withoutUs, withUs } = await readCost([mayRead, ...policies], { rounds, reads });
  added.set(kind, withUs - withoutUs);
  console.log(
    `a read without HTTP: ${round(withoutUs)} µs of a processor; 101 policies by ${kind} add ${round(withUs - withoutUs)} µs`,
  );
}
finish({
  bench: 'policy-decision',
  ratio: reported.warm / reported.floor,
  better: 'lower',
  floor: reported.floor,
  ours: reported.warm,
  unit: 'µs',
  p50Ms: reported.warm / 1_000,
  p95Ms: reported.warmP95 / 1_000,
  p99Ms: reported.warmP99 / 1_000,
  coldUs: reported.cold,
  coldP99Us: reported.coldP99,
  coldRatio: round(reported.cold / reported.floor),
  addedToReadUs: round(added.get('names, roles and networks') ?? 0),
  addedToReadByFactsUs: round(added.get('times, tags and metadata too') ?? 0),
  peakRssBytes: process.resourceUsage().maxRSS * 1_024,
  rounds,
  calibrationMs,
});

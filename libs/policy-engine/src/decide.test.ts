import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { compile } from './compile.ts';
import { decide } from './decide.ts';
import {
  Dice,
  nearlyAgain,
  PlainSet,
  plainCedar,
  randomRequest,
  randomSet,
  wholeCall,
} from './plain-cedar.fixture.ts';
import { schemaText } from './vocabulary.ts';

const isProof = process.env.KEYSTEAD_PROVE === 'full';
const runs = Number(process.env.KEYSTEAD_RUNS ?? (isProof ? 1_000_000 : 800));
const requestsPerSet = isProof ? 500 : 100;
// The comparison says something only where all kinds of answers occur: it goes on until they did.
const kinds = ['permitted', 'forbidden', 'not_permitted'] as const;
const ofEachKind = runs / 50;
const atMost = 5 * runs;
// In the short form a busy machine decides less, and says so.
const budgetMs = isProof ? Number.POSITIVE_INFINITY : 4_000;

test(
  'decides like plain Cedar, whatever was sliced away, left out or remembered',
  async () => {
    const seed = Number(process.env.KEYSTEAD_SEED ?? randomInt(2 ** 31));
    console.log(`policies decided like plain Cedar: seed ${seed}, ${runs} decisions`);
    const seen = new Map<string, number>();
    let remembered = 0;
    let failures = 0;
    let done = 0;
    const until = performance.now() + budgetMs;
    const isShort = () => kinds.some((kind) => (seen.get(kind) ?? 0) <= ofEachKind);
    const goesOn = () => (done < runs ? performance.now() < until : done < atMost && isShort());
    for (let at = 0; goesOn(); at += 1) {
      const setSeed = seed + at;
      const dice = new Dice(setSeed);
      const set = randomSet(dice);
      const compiled = await compile(set);
      if (!compiled.ok) throw new Error(`seed ${setSeed}: ${JSON.stringify(compiled.problems[0])}`);
      const plain = new PlainSet(set);
      const earlier: ReturnType<typeof randomRequest>[] = [];
      for (let request = 0; request < requestsPerSet; request += 1, done += 1) {
        // Equal and nearly equal questions come again: only then is anything remembered.
        const asked =
          earlier.length > 0 && dice.chance(0.7)
            ? nearlyAgain(dice, dice.one(earlier))
            : randomRequest(dice);
        earlier.push(asked);
        const ours = decide(compiled.value, asked);
        const theirs = plain.judge(asked);
        const mine = {
          decision: ours.decision,
          reason: ours.reason,
          policyIds: ours.policyIds,
          failed: ours.errors.map(({ policyId }) => policyId).sort(),
        };
        if (JSON.stringify(mine) !== JSON.stringify(theirs)) {
          expect(mine, `seed ${setSeed}: ${JSON.stringify({ asked, set })}`).toEqual(theirs);
        }
        seen.set(ours.reason, (seen.get(ours.reason) ?? 0) + 1);
        failures += ours.errors.length;
      }
      remembered += compiled.value.counts.remembered;
      compiled.value.close();
    }
    console.log(
      `  ${done} decided: ${JSON.stringify(Object.fromEntries(seen))}, ${remembered} remembered, ${failures} policies failed`,
    );
    expect(done).toBeGreaterThanOrEqual(requestsPerSet);
    if (done < runs) return;
    expect(remembered).toBeGreaterThan(done / 10);
    for (const kind of kinds) expect(seen.get(kind), kind).toBeGreaterThan(ofEachKind);
  },
  isProof ? undefined : 30_000,
);

test('hands Cedar requests that fit the schema', () => {
  const dice = new Dice(7);
  const schema = schemaText(['Europe/Berlin', 'Asia/Kolkata', 'UTC', 'America/St_Johns']);
  for (let at = 0; at < 20; at += 1) {
    const { namespace, ...call } = wholeCall(randomRequest(dice));
    const answer = plainCedar.isAuthorized({
      ...call,
      schema,
      validateRequest: true,
      policies: { staticPolicies: 'permit(principal, action, resource);' },
    });
    expect(answer, JSON.stringify(call)).toMatchObject({
      type: 'success',
      response: { decision: 'allow' },
    });
  }
});

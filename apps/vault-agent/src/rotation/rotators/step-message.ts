/**
 * The one message that scripts and endpoints get for each step, and what they may answer.
 *
 *   {"step": "apply", "secret": {"namespace": "payments", "name": "stripe/key"}, "settings": {},
 *    "current": {"value": "…", "encoding": "text"}, "next": {"value": "…", "encoding": "text"}}
 *
 * `next` is absent in `create`; in `verify` the value to prove is `value`; in `retire` the value to end
 * is `retired`. The answer may be empty, `{"value": "…", "encoding": "text"}` to `create`, or
 * `{"problem": "some-code"}` beside a failure.
 */

import type { GenerationRules, RotatorKind } from '@keystead/contracts/agent-api/rotation';
import { valueEncoding } from '@keystead/contracts/agent-api/secrets';
import { z } from 'zod';
import { generateValue } from '../generated-value.ts';
import {
  RotationFailure,
  type RotationValue,
  type RotationWork,
  type Rotator,
  safeCode,
} from '../rotator.ts';

const answerSchema = z.object({
  value: z.string().min(1).optional(),
  encoding: valueEncoding.default('text'),
  problem: z.string().optional(),
});

export interface StepAnswer {
  succeeded: boolean;
  /** What was written or sent back. */
  text: string;
  /** What to say where it failed and no better code was given. */
  failure: string;
}

/** Sends the message of a step. @throws RotationFailure where there was no answer */
export type SendStep = (message: string, work: RotationWork) => Promise<StepAnswer>;

export function messageRotator(options: {
  kind: RotatorKind;
  timeoutMs: number;
  settings: Record<string, string>;
  creates: boolean;
  rules: GenerationRules;
  send: SendStep;
}): Rotator {
  const step = async (
    name: string,
    work: RotationWork,
    more: Record<string, RotationValue>,
  ): Promise<z.output<typeof answerSchema> | undefined> => {
    const { secret, current } = work;
    const message = JSON.stringify({
      step: name,
      secret,
      settings: options.settings,
      current,
      ...more,
    });
    const answer = await options.send(message, work);
    const parsed = parseAnswer(answer.text);
    if (answer.succeeded) return parsed;
    const code = safeCode(parsed?.problem, [current, ...Object.values(more)]);
    throw new RotationFailure(
      code ?? 'refused',
      code === undefined ? answer.failure : `${answer.failure}: ${code}`,
    );
  };
  return {
    kind: options.kind,
    timeoutMs: options.timeoutMs,
    create: async (work) => {
      if (!options.creates) return { value: generateValue(options.rules), encoding: 'text' };
      const answer = await step('create', work, {});
      if (answer?.value === undefined) {
        throw new RotationFailure('bad-answer', 'No new value was answered to "create"');
      }
      return { value: answer.value, encoding: answer.encoding };
    },
    apply: async (work, next) => void (await step('apply', work, { next })),
    verify: async (work, value) => void (await step('verify', work, { value })),
    rollBack: async (work, next) => void (await step('rollBack', work, { next })),
    retire: async (work, retired) => void (await step('retire', work, { retired })),
  };
}

function parseAnswer(text: string): z.output<typeof answerSchema> | undefined {
  if (text.trim() === '') return undefined;
  try {
    return answerSchema.parse(JSON.parse(text));
  } catch {
    // What it said beside is its own; only `create` needs an answer, and says so.
    return undefined;
  }
}

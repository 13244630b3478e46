/**
 * The one importer of Cedar. Its WebAssembly keeps 1 MiB of stack: too deep a nesting ends in a trap,
 * and after a trap every further call fails too. So an instance that trapped is dropped and a fresh
 * one takes its place, and texts that nobody has judged yet are studied in another instance than
 * the one that decides.
 */
import { createRequire } from 'node:module';
import type * as CedarModule from '@cedar-policy/cedar-wasm/nodejs';
import { limits } from './limits.ts';

type Cedar = typeof CedarModule;

const require = createRequire(import.meta.url);
const modulePath = () => require.resolve('@cedar-policy/cedar-wasm/nodejs');

function loadFresh(): Cedar {
  const path = modulePath();
  delete require.cache[path];
  const cedar = require(path) as Cedar;
  delete require.cache[path];
  return cedar;
}

/** The engine failed on its own: nothing about the policies or the request may be concluded. */
export class CedarFailure extends Error {}

export class CedarInstance {
  #cedar: Cedar | undefined;
  #generation = 0;

  /** Counts up when an instance was replaced: what was prepared before is gone. */
  get generation(): number {
    return this.#generation;
  }

  /** Runs `work`; throws {@link CedarFailure}, and starts over with the next call, when it traps. */
  run<T>(work: (cedar: Cedar) => T): T {
    this.#cedar ??= loadFresh();
    try {
      return work(this.#cedar);
    } catch (cause) {
      this.#cedar = undefined;
      this.#generation += 1;
      throw new CedarFailure('the policy engine failed', { cause });
    }
  }
}

/** Parses and validates; may see any text. */
export const study = new CedarInstance();

/** Decides; sees only policies that were found valid. */
export const bench = new CedarInstance();

export interface Prepared {
  /** The name it is prepared under, good for one generation of the instance. */
  slot: string;
  generation: number;
}

const freeSlots: string[] = [];
let slotsMade = 0;

/**
 * Prepares policies of one text; Cedar names them `policy0`, `policy1`, … in their order.
 * A text as a whole is parsed several times faster than the same policies one by one.
 */
export function prepare(text: string): Prepared {
  return bench.run((cedar) => {
    const slot = freeSlots.pop() ?? `slot${slotsMade++}`;
    const answer = cedar.preparsePolicySet(slot, { staticPolicies: text });
    if (answer.type !== 'success') {
      freeSlots.push(slot);
      throw new Error(`a valid policy could not be prepared: ${answer.errors[0]?.message}`);
    }
    return { slot, generation: bench.generation };
  });
}

/** Cedar has no way to forget; an empty text in its place is the smallest thing it can remember. */
export function release(prepared: Prepared): void {
  if (prepared.generation !== bench.generation) return;
  if (freeSlots.length >= limits.preparedSlotsKept) return;
  bench.run((cedar) => cedar.preparsePolicySet(prepared.slot, { staticPolicies: '' }));
  freeSlots.push(prepared.slot);
}

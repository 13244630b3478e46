/** Of what kind an argument has to be, for callers without a type checker. No message holds what was given. */
import { WrongKind } from './vault-error.ts';

/** @throws WrongKind */
export function requireText(what: string, given: unknown): string {
  if (typeof given !== 'string') throw new WrongKind(what, 'text', given);
  return given;
}

/** @throws WrongKind */
export function requireTexts(what: string, given: unknown): readonly string[] {
  if (!Array.isArray(given)) throw new WrongKind(what, 'a list of texts', given);
  for (const each of given) requireText(`each of ${what}`, each);
  return given;
}

/** @throws WrongKind */
export function requireFields(what: string, given: unknown): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new WrongKind(what, 'an object', given);
  }
}

/** Left out, or a whole number from `minimum` on. @throws WrongKind */
export function requireCount(what: string, given: unknown, minimum: number): void {
  if (given === undefined) return;
  if (!Number.isSafeInteger(given) || (given as number) < minimum) {
    throw new WrongKind(what, `a whole number from ${minimum} on`, given);
  }
}

/** @throws WrongKind */
export function requireOneOf(what: string, given: unknown, words: readonly string[]): void {
  if (!words.includes(given as string)) throw new WrongKind(what, words.join(' or '), given);
}

/** A whole number in a path or a query: plain digits, no sign, no exponent, no blanks. */
import { z } from 'zod';

const plainDigits = /^\d{1,16}$/;

/** From the digits to the number; a number stays as it is, so that what was read may be read again. */
export function wholeNumberText(minimum: number, maximum: number) {
  return z.preprocess(
    (given) => (typeof given === 'string' && plainDigits.test(given) ? Number(given) : given),
    z.number().int().min(minimum).max(maximum),
  );
}

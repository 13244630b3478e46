/** The work of a rekey on one page, without a database: open under the old key, seal under the new. */
import type { RandomFill } from '@keystead/envelope/keys';
import { PasswordKey } from '../password-key.ts';
import {
  Corrupt,
  openRecord,
  recordOverheadBytes,
  sealRecordInto,
  WrongKey,
} from '../record-format.ts';
import {
  type ResealedPage,
  type ResealTask,
  rowPlan,
  rowState,
  unpackRows,
} from './packed-page.ts';

export function resealPage(task: ResealTask, random?: RandomFill): ResealedPage {
  const { rows, plan } = task;
  const keys = task.derivations.map(({ oldKey, newKey, newDerivation }) => ({
    oldKey: take(oldKey),
    newKey: take(newKey),
    newDerivation,
  }));
  const states = new Uint8Array(plan.length);
  const lengths = new Uint32Array(plan.length);
  // A new value is as long as the old one: the header has one length.
  const values = Buffer.from(task.room);
  let at = 0;
  let index = 0;
  for (const row of unpackRows(rows, plan.length)) {
    const place = plan[index] as number;
    if (place === rowPlan.corrupt) states[index] = rowState.corrupt;
    else if (place === rowPlan.alreadyCurrent) states[index] = rowState.alreadyCurrent;
    else {
      const { oldKey, newKey, newDerivation } = keys[place] as (typeof keys)[number];
      try {
        const value = openRecord(oldKey, row.value, row);
        const end = at + recordOverheadBytes + value.length;
        const sealed = values.subarray(at, end);
        sealRecordInto(sealed, newKey, newDerivation, row, value, random);
        value.fill(0);
        at = end;
        lengths[index] = sealed.length;
        states[index] = rowState.matched;
      } catch (error) {
        if (error instanceof Corrupt) states[index] = rowState.corrupt;
        else if (!(error instanceof WrongKey)) throw error;
      }
    }
    index += 1;
  }
  for (const { oldKey, newKey } of keys) {
    oldKey.wipe();
    newKey.wipe();
  }
  return { rows, states, lengths, values: values.subarray(0, at) };
}

function take(bytes: Uint8Array): PasswordKey {
  const key = new PasswordKey(bytes);
  bytes.fill(0);
  return key;
}

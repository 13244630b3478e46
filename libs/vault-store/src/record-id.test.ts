import { newUuid, parseId, toId } from '@keystead/contracts/ids';
import { systemRandom } from '@keystead/envelope/keys';
import { expect, test } from 'vitest';
import { newRecordId } from './record-id.ts';

test('an id of a record is an id as all others, made of the same bytes', () => {
  const nowMs = Date.UTC(2026, 10, 24, 12);
  for (let byte = 0; byte < 256; byte += 1) {
    const random = (bytes: Uint8Array) => {
      bytes.forEach((_, index) => {
        bytes[index] = (byte + index * 37) & 255;
      });
      return bytes;
    };
    expect(newRecordId(nowMs, random)).toBe(toId('record', newUuid(nowMs, random)));
  }
  expect(parseId('record', newRecordId(nowMs, systemRandom))).toBeDefined();
});

test('later ids sort behind earlier ones', () => {
  const ids = [1, 2, 3, 400, 5_000].map((ms) =>
    newRecordId(Date.UTC(2026, 0, 1) + ms, systemRandom),
  );
  expect([...ids].sort()).toEqual(ids);
});

import { limits } from '@keystead/contracts/limits';
import { expect, test } from 'vitest';
import { AnswerSerializer } from './answer-serializer.ts';

test('an answer that the bus does not carry becomes an error that says so, and every other stays as it is', () => {
  const noticed: number[] = [];
  const serializer = new AnswerSerializer((bytes) => noticed.push(bytes));
  const sent = (result: string) => {
    const { data } = serializer.serialize({ id: '1', response: { result } });
    return JSON.parse(data) as { id: string; response: Record<string, unknown> };
  };
  expect(sent('small')).toEqual({ id: '1', response: { result: 'small' } });
  const around = Buffer.byteLength(JSON.stringify({ id: '1', response: { result: '' } }));
  const largest = 'x'.repeat(limits.busPayloadMaxBytes - around);
  expect(sent(largest).response.result).toBe(largest);
  expect(noticed).toEqual([]);
  // As many letters, more bytes.
  expect(sent(`${largest.slice(1)}ß`)).toEqual({
    id: '1',
    response: { error: { code: 'unprocessable', detail: expect.stringContaining('ask for less') } },
  });
  expect(noticed).toEqual([limits.busPayloadMaxBytes + 1]);
});

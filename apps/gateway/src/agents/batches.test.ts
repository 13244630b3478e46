import { expect, test } from 'vitest';
import { Batches } from './batches.ts';

function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

const options = { waitMs: 5, maxEntries: 10, inFlightMax: 2, timeoutMs: 200 };

async function until(condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 3_000;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error('not in time');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

test('entries leave together, full batches at once, in order and each once', async () => {
  const sent: number[][] = [];
  const batches = new Batches<number>(options, async (entries) => void sent.push(entries), fail);
  for (let entry = 0; entry < 25; entry += 1) batches.add(entry);
  await batches.finish(1_000);
  expect(sent.map((entries) => entries.length)).toEqual([10, 10, 5]);
  expect(sent.flat()).toEqual(Array.from({ length: 25 }, (_, index) => index));
});

test('while as many batches as may be are on their way, entries wait and the next one grows', async () => {
  const { open, opened } = gate();
  const sent: number[] = [];
  const batches = new Batches<number>(
    options,
    async (entries) => {
      sent.push(entries.length);
      await opened;
    },
    fail,
  );
  for (let entry = 0; entry < 28; entry += 1) batches.add(entry);
  await until(() => sent.length === 2);
  expect([batches.inFlight, batches.waiting]).toEqual([2, 8]);
  batches.tick();
  expect(batches.inFlight).toBe(2);
  open();
  await batches.finish(1_000);
  expect(sent).toEqual([10, 10, 8]);
});

test('a batch that fails or is not answered in time is handed back as failed', async () => {
  const failed: [number[], string][] = [];
  const note = (entries: number[], error: unknown) => void failed.push([entries, String(error)]);
  const refusing = new Batches<number>(options, () => Promise.reject(new Error('no')), note);
  refusing.add(1);
  await until(() => failed.length === 1);
  const hanging = new Batches<number>(options, () => new Promise(() => {}), note);
  hanging.add(2);
  await until(() => failed.length === 2);
  expect(failed).toEqual([
    [[1], 'Error: no'],
    [[2], 'Error: no answer within 200 ms'],
  ]);
  expect(hanging.inFlight).toBe(0);
});

test('a tick is an empty batch', async () => {
  const sent: number[][] = [];
  const batches = new Batches<number>(options, async (entries) => void sent.push(entries), fail);
  batches.tick();
  await batches.settled();
  expect(sent).toEqual([[]]);
});

function fail(_entries: number[], error: unknown): void {
  throw error;
}

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { Canary, CanarySearch, encodingNames, planted } from './canaries.fixture.ts';

test('there are twelve encodings, and none of them stands for another', () => {
  expect(encodingNames).toHaveLength(12);
  const { needles } = new Canary('kept');
  const distinct = new Set(needles.map(({ bytes }) => bytes.toString('latin1')));
  // Three places in base64; the alphabet for URLs may spell the same.
  expect(distinct.size).toBeGreaterThanOrEqual(13);
});

test.each(encodingNames)(
  'a value is found in what holds it as %s, wherever it stands',
  async (encoding) => {
    for (const before of [0, 1, 2, 3]) {
      const canary = new Canary(`kept${'x'.repeat(before)}`);
      const search = new CanarySearch([new Canary('other'), canary]);
      search.bytes('here', Buffer.concat([Buffer.alloc(5_000), planted(canary, encoding)]));
      expect(search.findings).toContainEqual({ canary: canary.name, encoding, place: 'here' });
    }
  },
);

test('a value is found when it is cut by the pieces of a stream, in files, and in what is compressed', async () => {
  const canary = new Canary('kept');
  for (let size = 1; size < 60; size += 7) {
    const search = new CanarySearch([canary]);
    const bytes = Buffer.concat([Buffer.alloc(30), planted(canary, 'plain'), Buffer.alloc(30)]);
    await search.stream(
      'stream',
      (async function* () {
        for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
      })(),
    );
    expect(search.findings.map(({ encoding }) => encoding)).toEqual(['plain']);
  }
  const folder = mkdtempSync(join(tmpdir(), 'keystead-canaries-'));
  writeFileSync(join(folder, 'dump'), planted(canary, 'base64'));
  const inFolder = new CanarySearch([canary]);
  await inFolder.folder(folder, 'folder');
  expect(inFolder.findings.map(({ encoding }) => encoding)).toContain('base64');
  rmSync(folder, { recursive: true });
  const inside = new CanarySearch([canary]);
  inside.bytes('archive', gzipSync(planted(canary, 'hexadecimal')));
  expect(inside.findings.map(({ encoding }) => encoding)).toEqual(['hexadecimal']);
});

test('where no value is, nothing is found, and it is said how much was looked through', () => {
  const search = new CanarySearch([new Canary('kept')]);
  search.text('here', JSON.stringify(new Canary('kept').needles.map(({ bytes }) => [...bytes])));
  expect(search.findings).toEqual([]);
  expect(search.searched.get('here')).toBeGreaterThan(1_000);
});

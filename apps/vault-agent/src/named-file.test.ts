import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readNamedFile, requireNewFile, streamNamedFile } from './named-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'named-file-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
writeFileSync(at('there'), 'content');
symlinkSync(at('round'), at('round'));

test.each([
  ['absent', 'does not exist'],
  ['there/below', 'does not exist'],
  ['', 'is a folder'],
  ['round', 'cannot be read: its links go round in a circle'],
  ['n'.repeat(300), 'cannot be read: its name is too long'],
])('a file that cannot be used is told in words: %s', (name, problem) => {
  const file = name === '' ? folder : at(name);
  expect(() => readNamedFile(file)).toThrow(`${file} ${problem}`);
  expect(() => streamNamedFile(file)).toThrow(`${file} ${problem}`);
});

test('a file that is there is read, up to the size that is wanted', async () => {
  expect(readNamedFile(at('there')).toString()).toBe('content');
  expect(Buffer.concat(await streamNamedFile(at('there')).toArray()).toString()).toBe('content');
  expect(() => readNamedFile(at('there'), 6)).toThrow(`${at('there')} has more than 6 bytes`);
});

test('a new file is not there yet, and its folder is', () => {
  requireNewFile(at('new'));
  expect(() => requireNewFile(at('there'))).toThrow(`${at('there')} is there already`);
  expect(() => requireNewFile(at('absent/new'))).toThrow(`${at('absent')} does not exist`);
  expect(() => requireNewFile(at('there/new'))).toThrow(`${at('there')} is no folder`);
});

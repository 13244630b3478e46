import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { services } from '@keystead/contracts/operation';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { prepareInstallation } from './prepare-installation.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-prepare-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const read = (path: string) => readFileSync(join(folder, path), 'utf8');
const filesIn = (path: string) =>
  readdirSync(join(folder, path), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1));
const everything = () => filesIn('.').map((path) => [path, read(path)]);

test('a second start finds everything and changes nothing', () => {
  expect(prepareInstallation(folder)).not.toEqual([]);
  const before = everything();
  expect(prepareInstallation(folder)).toEqual([]);
  expect(everything()).toEqual(before);
});

test('two installations share no secret', () => {
  prepareInstallation(folder);
  const first = ['installation.key', 'ca.key', 'signing/gateway.pem', 'passwords/owner'].map(read);
  rmSync(folder, { recursive: true });
  prepareInstallation(folder);
  for (const [index, path] of [
    'installation.key',
    'ca.key',
    'signing/gateway.pem',
    'passwords/owner',
  ].entries()) {
    expect(read(path)).not.toBe(first[index]);
  }
});

test('no service reads what is another one’s', () => {
  prepareInstallation(folder);
  const secretsOf = (service: string) => [
    read(`signing/${service}.pem`).trim(),
    read(`passwords/nats-${service}`).trim(),
  ];
  const owner = read('passwords/owner').trim();
  const authority = read('ca.key').trim();
  for (const service of services) {
    const text = filesIn(service).map(read).join('\n');
    for (const secret of secretsOf(service)) expect(text).toContain(secret);
    for (const other of services.filter((name) => name !== service)) {
      for (const secret of secretsOf(other)) expect(text).not.toContain(secret);
    }
    expect(text).not.toContain(owner);
    expect(text.includes(authority)).toBe(service === 'vault-registry');
  }
});

test('secrets of ours are readable by their user alone', () => {
  prepareInstallation(folder);
  for (const path of filesIn('.')) {
    const isPublic = /^(public|postgresql|redis|nats)\//.test(path);
    expect(statSync(join(folder, path)).mode & 0o777, path).toBe(isPublic ? 0o444 : 0o400);
  }
});

test('what was lost comes back, where it is not a secret', () => {
  prepareInstallation(folder);
  const before = read('gateway/nats.url');
  rmSync(join(folder, 'gateway'), { recursive: true });
  prepareInstallation(folder);
  expect(read('gateway/nats.url')).toBe(before);
});

test('addresses of servers elsewhere keep their protocol and their options', () => {
  prepareInstallation(folder, {
    postgresql: 'postgres://db.example.net:5433/keys?sslmode=verify-full',
    redis: 'rediss://cache.example.net:6380',
    nats: 'tls://bus.example.net:4222',
  });
  expect(read('auth/service-database.url')).toMatch(
    /^postgres:\/\/keystead_services:[0-9a-f]{48}@db\.example\.net:5433\/keys\?sslmode=verify-full\n$/,
  );
  expect(read('auth/redis.url')).toMatch(/^rediss:\/\/:[0-9a-f]{48}@cache\.example\.net:6380\n$/);
  expect(read('auth/nats.url')).toMatch(/^tls:\/\/auth:[0-9a-f]{48}@bus\.example\.net:4222\n$/);
});

describe('a known sample is refused by name', () => {
  const rfc8032 = Buffer.concat([
    Buffer.from('302e020100300506032b657004220420', 'hex'),
    Buffer.from('9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60', 'hex'),
  ]).toString('base64');

  test.each([
    ['installation.key', Buffer.alloc(32).toString('base64')],
    ['installation.key', Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')],
    ['installation.key', Buffer.from(Array.from({ length: 32 }, (_, at) => at)).toString('base64')],
    ['installation.key', 'dG9vIHNob3J0'],
    ['ca.key', 'change-me'],
    ['passwords/owner', 'changeme'],
    ['passwords/redis', '0'.repeat(48)],
    ['signing/auth.pem', `-----BEGIN PRIVATE KEY-----\n${rfc8032}\n-----END PRIVATE KEY-----\n`],
    ['signing/auth.pem', 'not a key'],
  ])('%s: %s', (path, sample) => {
    prepareInstallation(folder);
    rmSync(join(folder, path));
    writeFileSync(join(folder, path), sample);
    expect(() => prepareInstallation(folder)).toThrow(path);
  });
});

import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { destinationSuite, failure, never, temporaryFile } from './destination-suite.fixture.ts';
import { DirectoryDestination } from './directory-destination.ts';
import { FakeS3 } from './s3.fixture.ts';
import { S3Destination, type S3Options } from './s3-destination.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-destinations-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

destinationSuite('directory', async () => {
  const path = join(folder, 'deep', 'backups');
  const parts = () => readdirSync(path).filter((name) => name.endsWith('.part'));
  return {
    destination: new DirectoryDestination(path),
    leaveUnfinished: async (name) => writeFileSync(join(path, `${name}.part`), 'half'),
    unfinished: async () => (existsSync(path) ? parts().length : 0),
    putForeign: async (name) => writeFileSync(join(path, name), 'foreign'),
    dispose: () => undefined,
  };
});

async function s3Subject(more: Partial<S3Options> = {}) {
  const server = new FakeS3();
  const endpoint = await server.start();
  const { bucket, region, credentials } = server;
  const destination = new S3Destination({
    bucket,
    region,
    endpoint,
    credentials,
    pathStyle: true,
    prefix: 'agents/one/',
    idleTimeoutMs: 1_000,
    ...more,
  });
  return {
    server,
    destination,
    leaveUnfinished: async (name: string) => {
      server.uploads.set('torn', { key: `agents/one/${name}`, parts: new Map() });
    },
    unfinished: async () => server.uploads.size,
    putForeign: async (name: string) => {
      server.objects.set(`agents/one/${name}`, Buffer.from('foreign'));
    },
    dispose: () => server.stop(),
  };
}

destinationSuite('S3', () => s3Subject());

test('a folder is for its owner alone, and so is what is put there', async () => {
  const path = join(folder, 'modes');
  const destination = new DirectoryDestination(path);
  await destination.put('keystead-a.json', temporaryFile(folder, Buffer.from('x')), never);
  expect(statSync(path).mode & 0o777).toBe(0o700);
  expect(statSync(join(path, 'keystead-a.json')).mode & 0o777).toBe(0o600);
});

test('a folder that is none says so', async () => {
  const path = join(folder, 'file');
  writeFileSync(path, 'x');
  const destination = new DirectoryDestination(path);
  const file = temporaryFile(folder, Buffer.from('x'));
  expect(await failure(destination.put('keystead-a.json', file, never))).toBe('unavailable');
  expect(await failure(destination.list())).toBe('misconfigured');
  if (process.getuid?.() !== 0) {
    mkdirSync(join(folder, 'closed'));
    chmodSync(join(folder, 'closed'), 0o500);
    const closed = new DirectoryDestination(join(folder, 'closed'));
    expect(await failure(closed.put('keystead-a.json', file, never))).toBe('denied');
  }
});

test('S3: large files go in parts, small ones in one piece, all under the prefix', async () => {
  const subject = await s3Subject();
  await subject.destination.put(
    'keystead-small.json',
    temporaryFile(folder, Buffer.alloc(1_000)),
    never,
  );
  expect(subject.server.parts).toBe(0);
  const large = Buffer.alloc(20 * 1_024 * 1_024, 3);
  await subject.destination.put('keystead-large.ksbackup', temporaryFile(folder, large), never);
  expect(subject.server.parts).toBe(3);
  expect([...subject.server.objects.keys()].sort()).toEqual([
    'agents/one/keystead-large.ksbackup',
    'agents/one/keystead-small.json',
  ]);
  await subject.dispose();
});

test('S3: what passes by itself is tried again', async () => {
  const subject = await s3Subject();
  const file = temporaryFile(folder, Buffer.from('x'));
  for (const fault of ['slow_down', 'internal', 'reset', 'silent'] as const) {
    subject.server.fail(fault, 1);
    await subject.destination.put('keystead-a.json', file, never);
    subject.server.recover();
  }
  await subject.dispose();
});

test('S3: what does not pass is told for what it is', async () => {
  const subject = await s3Subject({ maxAttempts: 2 });
  const { server, destination } = subject;
  const file = temporaryFile(folder, Buffer.from('x'));
  const put = () => failure(destination.put('keystead-a.json', file, never));
  const cases = [
    ['slow_down', 'throttled'],
    ['internal', 'unavailable'],
    ['denied', 'denied'],
    ['quota', 'full'],
    ['reset', 'unavailable'],
    ['silent', 'timed_out'],
  ] as const;
  for (const [fault, reason] of cases) {
    server.fail(fault);
    expect(await put()).toBe(reason);
    expect(await failure(destination.list(never))).toBe(reason);
    server.recover();
  }
  // A store that lost what it said it kept is caught by looking.
  server.fail('lost', 1, 'PUT');
  expect(await put()).toBe('not_found');
  server.recover();
  await server.stop();
  expect(await put()).toBe('unavailable');
});

test('S3: an upload that fails in the middle leaves no parts', async () => {
  const subject = await s3Subject({ maxAttempts: 1 });
  const large = temporaryFile(folder, Buffer.alloc(20 * 1_024 * 1_024, 3));
  subject.server.fail('internal', 1, 'PUT');
  expect(await failure(subject.destination.put('keystead-l.ksbackup', large, never))).toBe(
    'unavailable',
  );
  expect(subject.server.uploads.size).toBe(0);
  await subject.dispose();
});

test('S3: wrong credentials, another region and a missing bucket are told apart', async () => {
  const file = temporaryFile(folder, Buffer.from('x'));
  const cases = [
    [{ credentials: { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'other' } }, 'denied'],
    [{ credentials: { accessKeyId: 'OTHER', secretAccessKey: 'other' } }, 'denied'],
    [{ region: 'us-east-1' }, 'misconfigured'],
    [{ bucket: 'nowhere' }, 'misconfigured'],
  ] as const;
  for (const [more, reason] of cases) {
    const subject = await s3Subject(more);
    expect(await failure(subject.destination.put('keystead-a.json', file, never))).toBe(reason);
    await subject.dispose();
  }
});

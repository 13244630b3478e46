/** Against OpenSSH's own server on loopback. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import {
  canInstallPackages,
  findProgram,
  installPackages,
} from '@keystead/test-control-plane/infrastructure/programs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BackupManifest, manifestFileName } from './backup-manifest.ts';
import { destinationSuite, failure, never, temporaryFile } from './destination-suite.fixture.ts';
import { SftpDestination, type SftpOptions } from './sftp-destination.ts';
import { StoredBackups } from './stored-backups.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-sftp-'));
const username = userInfo().username;
let server: ChildProcess | undefined;
let port = 0;
let hostKey = '';
/** Connections that were let in. */
let accepted = 0;

async function startServer(): Promise<void> {
  if (findProgram('sshd') === undefined || findProgram('ssh-keygen') === undefined) {
    if (!canInstallPackages()) throw new Error('sshd is missing: install "openssh-server"');
    await installPackages(['openssh-server', 'openssh-client'], () => undefined);
  }
  const keygen = findProgram('ssh-keygen') as string;
  for (const name of ['host', 'user', 'stranger']) {
    execFileSync(keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, name)]);
  }
  hostKey = execFileSync(keygen, ['-l', '-f', join(folder, 'host.pub')])
    .toString()
    .split(' ')[1] as string;
  // Where it separates privileges; Debian's unit makes it at the start of the machine.
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  port = await freePort();
  const configuration = join(folder, 'sshd_config');
  writeFileSync(
    configuration,
    [
      'ListenAddress 127.0.0.1',
      `Port ${port}`,
      `HostKey ${join(folder, 'host')}`,
      `AuthorizedKeysFile ${join(folder, 'user.pub')}`,
      `PidFile ${join(folder, 'sshd.pid')}`,
      'StrictModes no',
      'UsePAM no',
      'PasswordAuthentication no',
      'PermitRootLogin prohibit-password',
      'Subsystem sftp internal-sftp',
      'MaxStartups 100',
    ].join('\n'),
  );
  server = spawn(findProgram('sshd') as string, ['-D', '-e', '-f', configuration], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  server.stderr?.on('data', (bytes) => {
    said = (said + bytes).slice(-2_000);
    accepted += String(bytes).split('Accepted publickey').length - 1;
  });
  const deadlineMs = Date.now() + 10_000;
  while (!(await canConnect(port))) {
    if (Date.now() > deadlineMs) throw new Error(`sshd does not listen: ${said}`);
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.listen(0, '127.0.0.1', () => {
      const { port: free } = probe.address() as AddressInfo;
      probe.close(() => resolve(free));
    });
  });
}

function canConnect(to: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(to, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

function destination(more: Partial<SftpOptions> = {}): SftpDestination {
  return new SftpDestination({
    host: '127.0.0.1',
    port,
    username,
    path: join(folder, 'deep', 'backups'),
    hostKey,
    privateKey: readFileSync(join(folder, 'user')),
    connectTimeoutMs: 5_000,
    ...more,
  });
}

let started: Promise<void> | undefined;
const start = () => {
  started ??= startServer();
  return started;
};
beforeAll(start);
afterAll(() => {
  server?.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

destinationSuite('SFTP', async () => {
  await start();
  const path = join(folder, 'deep', 'backups');
  const parts = () => readdirSync(path).filter((name) => name.endsWith('.part'));
  return {
    destination: destination(),
    leaveUnfinished: async (name) => writeFileSync(join(path, `${name}.part`), 'half'),
    unfinished: async () => (existsSync(path) ? parts().length : 0),
    putForeign: async (name) => writeFileSync(join(path, name), 'foreign'),
    dispose: () => undefined,
  };
});

test('a host with another key is not spoken to', async () => {
  const stranger = execFileSync(findProgram('ssh-keygen') as string, [
    '-l',
    '-f',
    join(folder, 'stranger.pub'),
  ])
    .toString()
    .split(' ')[1] as string;
  expect(await failure(destination({ hostKey: stranger }).list(never))).toBe('untrusted');
});

test('a wrong key, a wrong user, a wrong port and a silent host are told apart', async () => {
  const privateKey = readFileSync(join(folder, 'stranger'));
  expect(await failure(destination({ privateKey }).list(never))).toBe('denied');
  expect(await failure(destination({ privateKey: undefined, password: 'x' }).list(never))).toBe(
    'denied',
  );
  expect(await failure(destination({ port: await freePort() }).list(never))).toBe('unavailable');
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const { port: silentPort } = silent.address() as AddressInfo;
  expect(await failure(destination({ port: silentPort, connectTimeoutMs: 300 }).list(never))).toBe(
    'timed_out',
  );
  silent.close();
});

test('a page of a hundred backups is one connection, and so is one of them', async () => {
  const path = join(folder, 'many');
  mkdirSync(path);
  const vaultId = `vlt_${'0'.repeat(26)}`;
  for (let index = 100; index < 200; index += 1) {
    const id = `bkp_${'0'.repeat(23)}${index}`;
    const manifest: BackupManifest = {
      format: 1,
      id,
      vaultId,
      createdAt: '2027-01-01T00:00:00.000Z',
      agentVersion: '1',
      contents: [],
      namespaces: 0,
      secrets: 0,
      versions: 0,
      bytes: 0,
      sha256: '0'.repeat(64),
    };
    writeFileSync(join(path, manifestFileName(manifest)), JSON.stringify(manifest));
  }
  const stored = new StoredBackups([destination({ path })], folder);
  const before = accepted;
  const page = await stored.page({ limit: 100 }, never);
  expect(page.items.map(({ manifest }) => manifest.id.slice(-3))).toEqual(
    Array.from({ length: 100 }, (_, index) => String(199 - index)),
  );
  const { manifest } = await stored.find(`bkp_${'0'.repeat(23)}150`, never);
  expect(manifest.id).toMatch(/150$/);
  await expect.poll(() => accepted).toBe(before + 2);
});

test('a label names the place and no secret', () => {
  expect(destination({ password: 'hidden' }).label).toBe(
    `sftp:${username}@127.0.0.1:${port}${join(folder, 'deep', 'backups')}`,
  );
});

test('a server that goes away in the middle is unavailable, and leaves nothing listed', async () => {
  const file = temporaryFile(folder, Buffer.alloc(60 * 1_024 * 1_024, 1));
  const put = failure(destination().put('keystead-cut.ksbackup', file, never));
  const isHalf = () => existsSync(join(folder, 'deep', 'backups', 'keystead-cut.ksbackup.part'));
  await expect.poll(isHalf, { timeout: 5_000, interval: 1 }).toBe(true);
  // The processes of the session, which are children of the server.
  const children = execFileSync('ps', ['-o', 'pid=', '--ppid', String(server?.pid)]);
  for (const line of children.toString().trim().split('\n')) {
    if (line.trim() !== '') process.kill(Number(line), 'SIGKILL');
  }
  expect(['unavailable', 'not_found']).toContain(await put);
  const names = (await destination().list(never)).map(({ name }) => name);
  expect(names).not.toContain('keystead-cut.ksbackup');
});

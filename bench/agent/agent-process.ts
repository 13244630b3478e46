/** A built agent as its owner starts it, and a bare server beside it, each on the first core. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';

const root = join(import.meta.dirname, '..', '..');
const main = join(root, 'apps', 'vault-agent', 'dist', 'main.js');
const quiet = '--disable-warning=ExperimentalWarning';

export interface Served {
  origin: string;
  process: ChildProcess;
  rssBytes: () => number;
  peakRssBytes: () => number;
  stop: () => Promise<void>;
}

export interface BenchAgent extends Served {
  key: string;
  configuration: string;
  certificateFile: string;
  keyFile: string;
}

/** On one core, where the system can do that: the load has the other. */
function start(args: readonly string[]): ChildProcess {
  const pinned = existsSync('/usr/bin/taskset');
  const [program = '', ...rest] = [
    ...(pinned ? ['/usr/bin/taskset', '-c', '0'] : []),
    process.execPath,
    ...args,
  ];
  return spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
}

async function portOf(child: ChildProcess): Promise<number> {
  let text = '';
  for await (const chunk of child.stdout ?? []) {
    text += chunk;
    const port = /"port":(\d+)/.exec(text)?.[1];
    if (port !== undefined) {
      child.stdout?.resume();
      return Number(port);
    }
  }
  throw new Error(`it did not start: ${text}`);
}

function served(child: ChildProcess, origin: string, cleanUp: () => void): Served {
  const bytesOf = (name: string) => {
    const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
    return Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) * 1_024;
  };
  return {
    origin,
    process: child,
    rssBytes: () => bytesOf('VmRSS'),
    peakRssBytes: () => bytesOf('VmHWM'),
    stop: async () => {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
      cleanUp();
    },
  };
}

export async function startAgent(tls: boolean): Promise<BenchAgent> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-agent-bench-'));
  const made = JSON.parse(
    execFileSync(
      process.execPath,
      [quiet, main, 'init', '--data', folder, '--port', '0', '--json'],
      {
        encoding: 'utf8',
      },
    ),
  ) as { key: string };
  const certificateFile = join(folder, 'server.crt');
  const keyFile = join(folder, 'server.key');
  const trust = await (await TestAuthority.create()).issueServer();
  writeFileSync(certificateFile, trust.certificateChain);
  writeFileSync(keyFile, trust.privateKey, { mode: 0o600 });
  const configuration = join(folder, 'vault.yaml');
  if (tls) {
    const text = readFileSync(configuration, 'utf8').replace(
      'server:\n',
      `server:\n  tls: { enabled: true, cert_file: ${certificateFile}, key_file: ${keyFile} }\n  rate_limit: { requests_per_second: 1000000 }\n`,
    );
    writeFileSync(configuration, text);
  }
  const child = start([quiet, main, 'run', '--config', configuration]);
  const port = await portOf(child);
  const origin = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  return {
    ...served(child, origin, () => rmSync(folder, { recursive: true, force: true })),
    key: made.key,
    configuration,
    certificateFile,
    keyFile,
  };
}

export async function startBare(
  answer: string,
  tls: { certificateFile: string; keyFile: string } | undefined,
): Promise<Served> {
  const child = start([
    quiet,
    join(import.meta.dirname, 'bare-server.ts'),
    answer,
    ...(tls ? [tls.certificateFile, tls.keyFile] : []),
  ]);
  const origin = `${tls ? 'https' : 'http'}://127.0.0.1:${await portOf(child)}`;
  return served(child, origin, () => undefined);
}

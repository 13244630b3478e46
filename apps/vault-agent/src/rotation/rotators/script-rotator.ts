/**
 * A program of the owner's, named in vault.yaml. It runs without a shell in a process group of its own,
 * with an environment that holds nothing of the agent's; values go through its standard input and never
 * through its arguments or environment. What it writes to standard error is dropped: it may hold values.
 */
import { spawn } from 'node:child_process';
import { dirname } from 'node:path';
import type { RotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { rotatorLimits } from '../rotation-limits.ts';
import { RotationFailure, type RotationWork, type Rotator } from '../rotator.ts';
import { messageRotator, type StepAnswer } from './step-message.ts';

export interface ScriptDefinition {
  /** The program, as an absolute path, and its arguments. */
  argv: readonly string[];
  timeoutMs: number;
  /** Added to a PATH and a locale; no place for secrets. */
  environment: Readonly<Record<string, string>>;
}

export function scriptRotator(
  settings: Extract<RotatorSettings, { kind: 'script' }>,
  script: ScriptDefinition,
): Rotator {
  return messageRotator({
    kind: 'script',
    timeoutMs: script.timeoutMs,
    settings: settings.settings,
    creates: settings.creates,
    rules: settings.rules,
    send: (message, work) => runScript(script, message, work),
  });
}

function runScript(
  script: ScriptDefinition,
  message: string,
  { signal }: RotationWork,
): Promise<StepAnswer> {
  const [program = '', ...args] = script.argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      shell: false,
      detached: true,
      cwd: dirname(program),
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', LANG: 'C.UTF-8', ...script.environment },
    });
    const output: Buffer[] = [];
    let bytes = 0;
    let failure: RotationFailure | undefined;
    // The whole group: what the program started must not go on with the values.
    const kill = () => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // Everybody in it has ended.
      }
    };
    const fail = (code: string, text: string) => {
      failure ??= new RotationFailure(code, text);
      kill();
    };
    const abort = () => fail('timeout', 'The script was ended: it took too long');
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > rotatorLimits.outputMaxBytes) fail('bad-answer', 'The script wrote too much');
      else output.push(chunk);
    });
    child.stderr.resume();
    // A program that does not read its input has its reasons.
    child.stdin.on('error', () => undefined);
    child.once('error', () => {
      signal.removeEventListener('abort', abort);
      reject(new RotationFailure('not-started', 'The script could not be started'));
    });
    child.once('exit', () => {
      kill();
      // One that left the group may hold the pipes open; what it writes is of no interest.
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, rotatorLimits.scriptPipeGraceMs).unref();
    });
    child.once('close', (code, killedBy) => {
      signal.removeEventListener('abort', abort);
      if (failure !== undefined) return reject(failure);
      resolve({
        succeeded: code === 0,
        text: Buffer.concat(output).toString('utf8'),
        failure:
          killedBy === null
            ? `The script ended with code ${code}`
            : `The script was ended by ${killedBy}`,
      });
    });
    child.stdin.end(message);
  });
}

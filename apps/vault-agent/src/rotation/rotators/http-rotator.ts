/**
 * An endpoint of the owner's that gets each step as a POST of JSON. HTTPS, unless the host is this
 * machine or vault.yaml allows it; no redirects, because they would carry the values elsewhere.
 */
import type { RotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { rotatorLimits } from '../rotation-limits.ts';
import { RotationFailure, type RotationWork, type Rotator } from '../rotator.ts';
import { messageRotator, type StepAnswer } from './step-message.ts';

type HttpSettings = Extract<RotatorSettings, { kind: 'http' }>;

/** What is wrong with an address, or undefined. */
export function problemOfUrl(text: string, httpHosts: readonly string[]): string | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined) return 'the url is not valid';
  if (url.username !== '' || url.password !== '') {
    return 'the url holds credentials; use "authorization" with a secret';
  }
  if (url.protocol === 'https:') return undefined;
  if (url.protocol !== 'http:') return 'the url must begin with https://';
  if (isLoopback(url.hostname) || httpHosts.includes(url.hostname)) return undefined;
  return 'the url must begin with https://, unless rotation.http_hosts in vault.yaml names its host';
}

export function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(hostname);
}

export function httpRotator(settings: HttpSettings, httpHosts: readonly string[]): Rotator {
  return messageRotator({
    kind: 'http',
    timeoutMs: settings.timeoutSeconds * 1_000,
    settings: settings.settings,
    creates: settings.creates,
    rules: settings.rules,
    send: (message, work) => postStep(settings, httpHosts, message, work),
  });
}

async function postStep(
  settings: HttpSettings,
  httpHosts: readonly string[],
  message: string,
  { signal, readSecret }: RotationWork,
): Promise<StepAnswer> {
  const { url, authorization } = settings;
  // vault.yaml may have changed since the address was accepted.
  const problem = problemOfUrl(url, httpHosts);
  if (problem !== undefined) throw new RotationFailure('not-allowed', problem);
  const headers = new Headers({ 'content-type': 'application/json', accept: 'application/json' });
  if (authorization !== undefined) {
    const credential = (await readSecret(authorization.secret)).trim();
    try {
      headers.set(authorization.header, `${authorization.prefix}${credential}`);
    } catch {
      throw new RotationFailure('bad-value', 'The secret of "authorization" fits into no header');
    }
  }
  let response: Response;
  try {
    response = await fetch(url, {
      method: 'POST',
      headers,
      body: message,
      redirect: 'manual',
      signal,
    });
  } catch {
    throw signal.aborted
      ? new RotationFailure('timeout', 'The endpoint did not answer in time')
      : new RotationFailure('unreachable', 'The endpoint could not be reached');
  }
  const text = await boundedText(response, signal);
  if (response.status >= 300 && response.status < 400) {
    throw new RotationFailure('redirected', 'The endpoint answered with a redirect');
  }
  return {
    succeeded: response.ok,
    text,
    failure: `The endpoint answered with status ${response.status}`,
  };
}

async function boundedText(response: Response, signal: AbortSignal): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += chunk.length;
      if (bytes > rotatorLimits.outputMaxBytes) {
        throw new RotationFailure('bad-answer', 'The endpoint answered too much');
      }
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof RotationFailure) throw error;
    throw signal.aborted
      ? new RotationFailure('timeout', 'The endpoint did not answer in time')
      : new RotationFailure('unreachable', 'The connection to the endpoint broke');
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Sends what was drawn as it was drawn, and says what came back and how long it took. */
import { once } from 'node:events';
import { type Agent, type IncomingMessage, request } from 'node:http';
import { problem } from '@keystead/contracts/errors';
import { expect } from 'vitest';
import type { DrawnRequest } from './requests.fixture.ts';

export interface Heard {
  status: number;
  headers: IncomingMessage['headers'];
  text: string;
  tookMs: number;
}

export async function sendDrawn(
  { method, target, headers, body }: DrawnRequest,
  to: { port: number; token: string; agent: Agent },
): Promise<Heard> {
  const startedAtMs = performance.now();
  const sent = request({
    port: to.port,
    method,
    path: target,
    agent: to.agent,
    headers: {
      ...headers,
      authorization: `Bearer ${to.token}`,
      ...(body === undefined ? {} : { 'content-length': String(body.length) }),
    },
  });
  sent.end(body);
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  return {
    status: answer.statusCode ?? 0,
    headers: answer.headers,
    text: Buffer.concat(chunks).toString(),
    tookMs: performance.now() - startedAtMs,
  };
}

/** Whatever was sent: no fault of ours, in time, and an error says what is wrong and where. */
export function expectClear(heard: Heard, what: string, withinMs: number): void {
  const { status, headers, text, tookMs } = heard;
  expect(status, `${what} ${text}`).toBeLessThan(500);
  expect(tookMs, what).toBeLessThan(withinMs);
  if (status < 400) return;
  expect(headers['content-type'], what).toMatch(/^application\/problem\+json/);
  const parsed = problem.parse(JSON.parse(text));
  expect(parsed.status, what).toBe(status);
  expect(headers['x-request-id'], what).toBe(parsed.requestId);
  expect(text, what).not.toMatch(/node_modules|\.ts:|\.js:|at \w+ \(/);
  // Once the caller is known, a refusal of what was sent says where it is wrong.
  if (parsed.code === 'invalid_request' && headers.ratelimit !== undefined) {
    expect(parsed.errors?.length, what).toBeGreaterThan(0);
  }
  for (const { message } of parsed.errors ?? []) {
    expect(message, what).not.toMatch(/^(?:Invalid|Too (?:small|big)|Unrecognized)\b/);
  }
}

/** Requests over kept connections, as many at once as there are connections. */
import { randomInt } from 'node:crypto';
import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import autocannon from 'autocannon';
import { median, round } from '../report.ts';

export interface Load {
  origin: string;
  connections: number;
  seconds: number;
  headers: Record<string, string>;
  /** Each connection sends some of them in turn. */
  requests: readonly { method: 'GET' | 'POST' | 'PUT'; path: string; body?: string }[];
}

export interface Measured {
  perSecond: number;
  p50Ms: number;
  p95Ms: number;
  p99Ms: number;
  failed: number;
}

export async function measure(load: Load): Promise<Measured> {
  const latencies = new Map<number, number>();
  let answered = 0;
  let failed = 0;
  const requests = load.requests.map((each) => ({ ...each }));
  const each = Math.min(requests.length, 200);
  const { promise, resolve, reject } = Promise.withResolvers<autocannon.Result>();
  const instance = autocannon(
    {
      url: load.origin,
      connections: load.connections,
      duration: load.seconds,
      headers: load.headers,
      requests: requests.slice(0, 1),
      // Every connection has its own part of them.
      setupClient: (client) => {
        const begin = randomInt(requests.length - each + 1);
        client.setRequests(requests.slice(begin, begin + each));
      },
    },
    (error, result) => (error ? reject(error) : resolve(result)),
  );
  instance.on('response', (_client, status, _bytes, ms) => {
    answered += 1;
    if (status >= 300) failed += 1;
    // In tenths of a millisecond.
    const bucket = Math.round(ms * 10);
    latencies.set(bucket, (latencies.get(bucket) ?? 0) + 1);
  });
  const result = await promise;
  const sorted = [...latencies].sort(([one], [other]) => one - other);
  const at = (share: number) => {
    let passed = 0;
    for (const [bucket, count] of sorted) {
      passed += count;
      if (passed >= share * answered) return bucket / 10;
    }
    return 0;
  };
  return {
    perSecond: answered / result.duration,
    p50Ms: at(0.5),
    p95Ms: at(0.95),
    p99Ms: at(0.99),
    failed: failed + result.errors + result.timeouts,
  };
}

/** Both in turn at each number of connections, and a row of each of them for people. */
export async function compare(
  connectionCounts: readonly number[],
  rounds: number,
  sides: Record<'ours' | 'floor', (connections: number) => Promise<Measured>>,
  beforeRound: () => unknown = () => undefined,
) {
  const results = connectionCounts.map((connections) => ({
    connections,
    ours: [] as Measured[],
    floor: [] as Measured[],
  }));
  for (let index = 0; index < rounds; index += 1) {
    beforeRound();
    for (const { connections, ours, floor } of results) {
      floor.push(await sides.floor(connections));
      ours.push(await sides.ours(connections));
    }
  }
  return results.map(({ connections, ours, floor }) => {
    const of = (list: Measured[], key: keyof Measured) => median(list.map((each) => each[key]));
    return {
      connections,
      'ours/s': Math.round(of(ours, 'perSecond')),
      'p50 ms': of(ours, 'p50Ms'),
      'p95 ms': of(ours, 'p95Ms'),
      'p99 ms': of(ours, 'p99Ms'),
      'bare/s': Math.round(of(floor, 'perSecond')),
      'its p95 ms': of(floor, 'p95Ms'),
      ratio: round(
        median(ours.map((each, index) => each.perSecond / (floor[index]?.perSecond ?? 1))),
      ),
      failed: ours.reduce((sum, each) => sum + each.failed, 0),
    };
  });
}

/** What the last line of such a bench says: of the run at so many connections. */
export function figuresAt(rows: Awaited<ReturnType<typeof compare>>, connections: number) {
  const row = rows.find((each) => each.connections === connections);
  return {
    ratio: row?.ratio ?? 0,
    better: 'higher' as const,
    floor: row?.['bare/s'] ?? 0,
    ours: row?.['ours/s'] ?? 0,
    p50Ms: row?.['p50 ms'] ?? 0,
    p95Ms: row?.['p95 ms'] ?? 0,
    p99Ms: row?.['p99 ms'] ?? 0,
  };
}

export type Send = (
  method: string,
  path: string,
  body?: unknown,
) => Promise<{ status: number; text: string }>;

/** For setting up: one request at a time on each of a few connections. */
export function sender(
  origin: string,
  key: string,
  connections: number,
): Send & { end: () => void } {
  const isTls = origin.startsWith('https:');
  const options = { keepAlive: true, maxSockets: connections, rejectUnauthorized: false };
  const agent = isTls ? new HttpsAgent(options) : new HttpAgent(options);
  const send: Send = (method, path, body) =>
    new Promise((resolve, reject) => {
      const sent = (isTls ? httpsRequest : httpRequest)(`${origin}${path}`, {
        method,
        agent,
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      });
      sent.on('error', reject);
      sent.on('response', (response) => {
        let text = '';
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      });
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  return Object.assign(send, { end: () => agent.destroy() });
}

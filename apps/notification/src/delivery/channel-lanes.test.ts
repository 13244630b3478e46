import http from 'node:http';
import net from 'node:net';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { AddressGuard, parseAllowList } from './address-guard.ts';
import { ChannelLanes, type LaneWork } from './channel-lanes.ts';
import { GuardedTransport } from './guarded-transport.ts';

const options = {
  perChannel: 4,
  perOrganization: 8,
  overall: 64,
  suspect: 48,
  suspectPerOrganization: 2,
  waitingPerChannel: 100,
  waiting: 10_000,
  slowAfterMs: 50,
  onError: () => undefined,
};

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

/** Work that runs until it is let go. */
function held(lanes: ChannelLanes) {
  const running = new Map<string, (good: boolean) => void>();
  const offer = (id: string, channelId: string, organizationId = 'org') =>
    lanes.offer({
      id,
      channelId,
      organizationId,
      run: () => new Promise<boolean>((resolve) => running.set(id, resolve)),
    });
  const letGo = async (id: string, good = true) => {
    running.get(id)?.(good);
    running.delete(id);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { running, offer, letGo };
}

describe('lanes', () => {
  it('run at most four deliveries of one channel at once', async () => {
    const lanes = new ChannelLanes(options);
    const { running, offer, letGo } = held(lanes);
    for (let index = 0; index < 10; index += 1) offer(`d${index}`, 'one');
    expect([...running.keys()]).toEqual(['d0', 'd1', 'd2', 'd3']);
    await letGo('d1');
    expect([...running.keys()]).toEqual(['d0', 'd2', 'd3', 'd4']);
  });

  it('never take the same delivery twice while it waits or runs', async () => {
    const lanes = new ChannelLanes(options);
    const { offer, letGo } = held(lanes);
    expect(offer('d', 'one')).toBe('taken');
    expect(offer('d', 'one')).toBe('known');
    await letGo('d');
    expect(offer('d', 'one')).toBe('taken');
  });

  it('keep an organization to its share and all to the whole', () => {
    const lanes = new ChannelLanes({ ...options, overall: 10 });
    const { running, offer } = held(lanes);
    for (let index = 0; index < 100; index += 1) offer(`a${index}`, `a${index}`, 'a');
    expect(running.size).toBe(8);
    for (let index = 0; index < 100; index += 1) offer(`b${index}`, `b${index}`, 'b');
    expect(running.size).toBe(10);
    expect(lanes.running).toBe(10);
  });

  it('serve waiting channels in turn', async () => {
    const lanes = new ChannelLanes({ ...options, overall: 1 });
    const order: string[] = [];
    const work = (id: string, channelId: string): LaneWork => ({
      id,
      channelId,
      organizationId: channelId,
      run: async () => {
        order.push(id);
        return true;
      },
    });
    for (const index of [1, 2, 3]) lanes.offer(work(`busy${index}`, 'busy'));
    lanes.offer(work('quiet1', 'quiet'));
    await lanes.idle();
    expect(order).toEqual(['busy1', 'busy2', 'quiet1', 'busy3']);
  });

  it('say that they are full rather than grow without bound', () => {
    const lanes = new ChannelLanes({ ...options, waitingPerChannel: 3 });
    const { offer } = held(lanes);
    const answers = Array.from({ length: 9 }, (_, index) => offer(`d${index}`, 'one'));
    expect(answers.filter((answer) => answer === 'taken')).toHaveLength(7);
    expect(answers.at(-1)).toBe('full');
  });

  it('give a channel that failed one place until it answers well again', async () => {
    const lanes = new ChannelLanes(options);
    const { running, offer, letGo } = held(lanes);
    offer('first', 'bad');
    await letGo('first', false);
    for (let index = 0; index < 5; index += 1) offer(`d${index}`, 'bad');
    expect(running.size).toBe(1);
    await letGo('d0', true);
    expect(running.size).toBe(4);
  });

  it('survive work that throws', async () => {
    const errors: unknown[] = [];
    const lanes = new ChannelLanes({ ...options, onError: (error) => errors.push(error) });
    lanes.offer({
      id: 'd',
      channelId: 'one',
      organizationId: 'org',
      run: () => Promise.reject(new Error('bug')),
    });
    await lanes.idle();
    expect(errors).toHaveLength(1);
    expect(lanes.running).toBe(0);
  });

  it('end what runs and forget what waits when they close', async () => {
    const lanes = new ChannelLanes(options);
    const { offer, letGo, running } = held(lanes);
    for (let index = 0; index < 6; index += 1) offer(`d${index}`, 'one');
    const closed = lanes.close();
    expect(offer('late', 'one')).toBe('full');
    for (const id of [...running.keys()]) await letGo(id);
    await closed;
    expect([lanes.running, lanes.waiting]).toEqual([0, 0]);
  });

  it('keep their bounds and finish everything in any order of offers and ends', async () => {
    const offers = fc.array(fc.record({ channel: fc.nat(8), good: fc.boolean() }), {
      maxLength: 80,
    });
    await fc.assert(
      fc.asyncProperty(offers, fc.infiniteStream(fc.nat()), async (list, picks) => {
        const small = { ...options, perChannel: 2, perOrganization: 4, overall: 6 };
        const lanes = new ChannelLanes(small);
        const running: { channel: string; organization: string; end: () => void }[] = [];
        let done = 0;
        let taken = 0;
        list.forEach(({ channel, good }, index) => {
          const place = { channel: `c${channel}`, organization: `o${channel % 3}`, end: () => {} };
          const answer = lanes.offer({
            id: String(index),
            channelId: place.channel,
            organizationId: place.organization,
            run: () =>
              new Promise<boolean>((resolve) => {
                running.push(place);
                place.end = () => {
                  done += 1;
                  resolve(good);
                };
              }),
          });
          if (answer === 'taken') taken += 1;
        });
        while (running.length > 0) {
          const count = (key: 'channel' | 'organization', value: string) =>
            running.filter((one) => one[key] === value).length;
          for (const { channel, organization } of running) {
            expect(count('channel', channel)).toBeLessThanOrEqual(2);
            expect(count('organization', organization)).toBeLessThanOrEqual(4);
          }
          expect(running.length).toBeLessThanOrEqual(6);
          const [ended] = running.splice((picks.next().value as number) % running.length, 1);
          ended?.end();
          await new Promise((resolve) => setImmediate(resolve));
        }
        expect(done).toBe(taken);
        expect([lanes.running, lanes.waiting]).toEqual([0, 0]);
      }),
      { numRuns: 40 },
    );
  });
});

describe('a receiver that hangs', () => {
  it('never delays another, not even forty of them with full queues', async () => {
    const hanging = net.createServer((socket) => socket.on('error', () => undefined));
    const answering = http.createServer((_request, response) => response.end('ok'));
    const ports = await Promise.all([hanging, answering].map(listening));
    closing.push(() => answering.close());
    const sockets = new Set<net.Socket>();
    hanging.on('connection', (socket) => sockets.add(socket));
    closing.push(() => {
      for (const socket of sockets) socket.destroy();
      hanging.close();
    });
    const stop = new AbortController();
    const transport = new GuardedTransport({
      guard: new AddressGuard(parseAllowList('127.0.0.1')),
      resolveHost: async () => [],
      timeoutMs: 15_000,
      answerKeepBytes: 1_024,
    });
    const lanes = new ChannelLanes(options);
    const send = (port: number) => async () => {
      const url = `http://127.0.0.1:${port}/`;
      const answer = await transport.post({
        url,
        organizationId: 'org_01h455vb4pex5vsknk084sn02q',
        headers: {},
        body: Buffer.from('{}'),
        signal: stop.signal,
      });
      return answer.result === 'answered';
    };
    // Three organizations fill what they may hold with receivers that never answer.
    for (let index = 0; index < 400; index += 1) {
      const channelId = `hanging${index % 40}`;
      const organizationId = `bad${index % 3}`;
      lanes.offer({ id: `h${index}`, channelId, organizationId, run: send(ports[0] ?? 0) });
    }
    expect(lanes.running).toBe(24);
    const latencies: number[] = [];
    await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const startedMs = performance.now();
        await new Promise<void>((resolve) => {
          lanes.offer({
            id: `a${index}`,
            channelId: `answering${index % 5}`,
            organizationId: 'good',
            run: async () => {
              const good = await send(ports[1] ?? 0)();
              expect(good).toBe(true);
              latencies.push(performance.now() - startedMs);
              resolve();
              return good;
            },
          });
        });
      }),
    );
    expect(Math.max(...latencies)).toBeLessThan(5_000);
    const closed = lanes.close();
    stop.abort();
    await closed;
  }, 20_000);
});

function listening(server: net.Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as net.AddressInfo).port));
  });
}

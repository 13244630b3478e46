import { readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { type LoadedConfiguration, parseConfiguration } from '../../configuration.ts';
import { closedFiles } from '../audit-files.ts';
import { fact, freshLogFile, openTrail, readLog } from '../audit-log.fixture.ts';
import type { AuditTrail } from '../audit-trail.ts';
import { AuditForwarder } from './audit-forwarder.ts';
import { AuditForwarding } from './audit-forwarding.ts';
import type { Destination } from './destination.ts';
import { forwardingLimits } from './forwarding-limits.ts';
import { LogPosition } from './log-position.ts';
import { destinationsOf } from './named-destinations.ts';
import { type Receiver, receivers } from './receivers.fixture.ts';
import { SyslogStream } from './syslog-destination.ts';
import { syslogMessage } from './syslog-message.ts';

const cleanUp: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const work of cleanUp.splice(0).reverse()) await work();
});

async function begin(rotationBytes = 20_000): Promise<{ logFile: string; trail: AuditTrail }> {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile, { rotationBytes });
  cleanUp.push(() => trail.stop());
  return { logFile, trail };
}

function forward(
  logFile: string,
  destination: Destination,
  through?: () => number | undefined,
): AuditForwarder {
  const forwarder = new AuditForwarder({
    logFile,
    source: 'agent',
    positionFile: `${logFile}.forward-test.json`,
    destination,
    log: pino({ level: 'silent' }),
    everyMs: 20,
    firstPauseMs: 50,
    through,
  });
  forwarder.start();
  cleanUp.push(() => forwarder.stop());
  return forwarder;
}

async function until(holds: () => boolean, withinMs = 8_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error('it did not come to pass in time');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const record = (trail: AuditTrail, from: number, count: number) =>
  Promise.all(Array.from({ length: count }, (_, number) => trail.record(fact(from + number))));
const logged = (logFile: string) => [...readLog(logFile).values()].flat();
const holdsAll = (receiver: Receiver, logFile: string) => {
  const arrived = new Set(receiver.lines());
  return logged(logFile).every((line) => arrived.has(line));
};
/** Nothing missing, nothing twice, in order; the trail may write a head meanwhile. */
const hasExactly = (receiver: Receiver, logFile: string) =>
  vi.waitFor(() => expect(receiver.lines()).toEqual(logged(logFile)), {
    timeout: 8_000,
    interval: 10,
  });

test.each(Object.entries(receivers))(
  '%s gets every line in order, over files, restarts and its own absence',
  async (_name, make) => {
    const receiver = await make();
    cleanUp.push(receiver.close);
    const { logFile, trail } = await begin();
    await record(trail, 0, 200);
    const first = forward(logFile, receiver.destination());
    await hasExactly(receiver, logFile);
    await record(trail, 200, 50);
    await until(() => holdsAll(receiver, logFile));
    await first.stop();
    const before = receiver.lines().length;
    expect(first.confirmed).toBe(before);
    await record(trail, 250, 50);
    const second = forward(logFile, receiver.destination());
    // What was confirmed is not sent again.
    await hasExactly(receiver, logFile);
    if (!receiver.isReliable) return;
    await receiver.goAway();
    const sinceMs = performance.now();
    await record(trail, 300, 100);
    expect(performance.now() - sinceMs).toBeLessThan(1_000);
    await until(() => second.isPaused);
    expect(second.counters.failures).toBeGreaterThan(0);
    await receiver.comeBack();
    await until(() => holdsAll(receiver, logFile));
    // At least once, and in order but for what is sent again.
    const seen = new Set<string>();
    const firsts = receiver.lines().filter((line) => !seen.has(line) && seen.add(line));
    expect(firsts).toEqual(logged(logFile));
  },
);

test('a receiver that takes lines and dies before it has read them gets them again', async () => {
  const { logFile, trail } = await begin();
  const sockets = new Set<Socket>();
  let isReading = false;
  let bytes = '';
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
    if (!isReading) socket.pause();
    else socket.on('data', (chunk) => (bytes += chunk));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  cleanUp.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  const forwarder = forward(
    logFile,
    new SyslogStream({ protocol: 'tcp', host: '127.0.0.1', port, hostname: 'a', processId: 1 }),
  );
  await record(trail, 0, 20);
  await until(() => forwarder.counters.forwarded >= 20);
  // The system took them; nobody read them.
  expect(forwarder.confirmed).toBe(0);
  isReading = true;
  for (const socket of sockets) socket.resetAndDestroy();
  await record(trail, 20, 1);
  await until(() => logged(logFile).every((line) => bytes.includes(line)));
});

test('a receiver that hangs holds up nobody', async () => {
  const { logFile, trail } = await begin();
  forward(logFile, {
    name: 'nobody',
    acknowledges: true,
    send: () => new Promise(() => undefined),
    confirm: async () => undefined,
    reset: () => undefined,
  });
  const sinceMs = performance.now();
  await record(trail, 0, 500);
  await trail.stop();
  expect(performance.now() - sinceMs).toBeLessThan(2_000);
});

test('entries that were retired before they were sent are counted, and the rest is sent', async () => {
  const make = receivers['a file'] as () => Promise<Receiver>;
  const receiver = await make();
  const { logFile, trail } = await begin(3_000);
  for (let number = 0; number < 30; number += 1) await trail.record(fact(number));
  const [oldest, next] = await closedFiles(logFile);
  rmSync(oldest?.path ?? '');
  const destination = receiver.destination();
  let failuresLeft = 2;
  const forwarder = forward(logFile, {
    ...destination,
    name: 'at first away',
    send: async (lines) => {
      failuresLeft -= 1;
      if (failuresLeft >= 0) throw new Error('away');
      await destination.send(lines);
    },
    confirm: () => destination.confirm(),
    reset: () => destination.reset(),
  });
  await until(() => holdsAll(receiver, logFile));
  // Once, however often they were found missing.
  expect(forwarder.counters.failures).toBe(2);
  expect(forwarder.skipped).toBe((next?.firstSequence ?? 0) - 1);
});

test('a position of another chain is none: after a log was replaced all of the new one is sent', async () => {
  const make = receivers['a file'] as () => Promise<Receiver>;
  const receiver = await make();
  const { logFile, trail } = await begin();
  await record(trail, 0, 20);
  const first = forward(logFile, receiver.destination());
  await until(() => holdsAll(receiver, logFile));
  await first.stop();
  await trail.stop();
  rmSync(logFile);
  const next = await openTrail(logFile, {});
  cleanUp.push(() => next.stop());
  await record(next, 20, 5);
  const second = forward(logFile, receiver.destination());
  await until(() => holdsAll(receiver, logFile));
  await until(() => second.confirmed < 20);
  // Also while it runs.
  await next.stop();
  rmSync(logFile);
  const last = await openTrail(logFile, {});
  cleanUp.push(() => last.stop());
  await record(last, 30, 2);
  await until(() => holdsAll(receiver, logFile));
});

test('what is not on the disk yet is not sent: after a power cut another entry may have its number', async () => {
  const receiver = await (receivers['a file'] as () => Promise<Receiver>)();
  const { logFile, trail } = await begin();
  await record(trail, 0, 20);
  let synced: number | undefined = 7;
  const forwarder = forward(logFile, receiver.destination(), () => synced);
  await until(() => forwarder.confirmed === 7);
  expect(receiver.lines()).toEqual(logged(logFile).slice(0, 7));
  synced = 9;
  await until(() => forwarder.confirmed === 9);
  expect(receiver.lines()).toEqual(logged(logFile).slice(0, 9));
  synced = undefined;
  await hasExactly(receiver, logFile);
});

test('what was only read when it is stopped is not sent, nor taken for sent', async () => {
  const make = receivers['a file'] as () => Promise<Receiver>;
  const receiver = await make();
  const { logFile, trail } = await begin();
  await record(trail, 0, 20);
  const first = forward(logFile, receiver.destination());
  await first.stop();
  expect(receiver.lines()).toEqual([]);
  expect(first.confirmed).toBe(0);
  forward(logFile, receiver.destination());
  await hasExactly(receiver, logFile);
});

test('who was waited for in vain writes no position over that of the next, and leaves nothing open', async () => {
  const { logFile, trail } = await begin();
  await record(trail, 0, 20);
  const sent: (() => void)[] = [];
  let resets = 0;
  const hanging: Destination = {
    name: 'slow',
    acknowledges: true,
    send: () => new Promise((resolve) => sent.push(resolve)),
    confirm: async () => undefined,
    reset: () => {
      resets += 1;
    },
  };
  const first = forward(logFile, hanging);
  await until(() => sent.length === 1);
  await first.stop(1);
  const receiver = await (receivers['a file'] as () => Promise<Receiver>)();
  const next = forward(logFile, receiver.destination());
  await record(trail, 20, 20);
  await until(() => holdsAll(receiver, logFile));
  await next.stop();
  const position = () => readFileSync(`${logFile}.forward-test.json`, 'utf8');
  const written = position();
  expect(JSON.parse(written)).toMatchObject({ sequence: next.confirmed });
  const before = resets;
  sent[0]?.();
  await until(() => resets > before);
  expect(position()).toBe(written);
});

test('another log is read from its beginning, also where the way back was to an entry of the one before', async () => {
  const { logFile, trail } = await begin();
  await record(trail, 0, 20);
  const position = new LogPosition(logFile, 15, 'f'.repeat(32));
  await position.read();
  position.rewind(15, 'f'.repeat(32));
  expect((await position.read())[0]?.sequence).toBe(1);
  position.rewind(15, position.chain);
  expect((await position.read())[0]?.sequence).toBe(16);
});

test('what is turned on while it runs gets what is kept, goes on where it was after it was off, and nobody else gets anything', async () => {
  const make = receivers['a file'] as () => Promise<Receiver>;
  const [on, siem, never] = await Promise.all([make(), make(), make()]);
  const { logFile, trail } = await begin();
  const destinations = [
    { name: 'on', receiver: on },
    { name: 'siem', receiver: siem },
    { name: 'never', receiver: never },
  ].map(({ name, receiver }) => ({
    name,
    isOn: name === 'on',
    source: 'agent' as const,
    logFile,
    positionFile: `${logFile}.forward-${name}.json`,
    open: receiver.destination,
  }));
  const forwarding = new AuditForwarding(destinations, pino({ level: 'silent' }), {
    everyMs: 20,
    through: () => trail.sequence,
  });
  cleanUp.push(() => forwarding.stop());
  forwarding.start();
  await record(trail, 0, 20);
  await until(() => holdsAll(on, logFile));
  expect(siem.lines()).toEqual([]);
  forwarding.turnOn(['siem', 'elsewhere'], ['elsewhere']);
  await until(() => holdsAll(siem, logFile));
  forwarding.turnOn([], []);
  const before = logged(logFile);
  expect(forwarding.forwarders).toHaveLength(1);
  await record(trail, 20, 20);
  await until(() => holdsAll(on, logFile));
  // At most what was on its way then.
  expect(before).toEqual(expect.arrayContaining(siem.lines()));
  // Off and on again at once, and what is on already stays as it is.
  forwarding.turnOn(['siem', 'on'], []);
  forwarding.turnOn([], []);
  forwarding.turnOn(['siem'], []);
  await until(() => forwarding.forwarders.length === 2);
  await record(trail, 40, 5);
  await until(() => holdsAll(siem, logFile) && holdsAll(on, logFile));
  await trail.stop();
  await Promise.all([on, siem].map((receiver) => hasExactly(receiver, logFile)));
  await forwarding.stop();
  for (const receiver of [on, siem]) expect(receiver.lines()).toEqual(logged(logFile));
  expect(never.lines()).toEqual([]);
});

test('receivers whose addresses differ in their query alone have positions of their own; one place is not named twice', () => {
  const of = (...urls: string[]) => {
    const forward = urls.map((url) => `{ type: http, url: "${url}" }`).join(', ');
    const configuration = parseConfiguration(
      `control_plane: { enabled: false }\naudit: { forward: [${forward}] }\n`,
    );
    const loaded = { configuration, locate: (path: string) => path } as LoadedConfiguration;
    return destinationsOf(loaded, () => undefined).map(({ positionFile }) => positionFile);
  };
  const [one, other] = ['?index=a&token=s3cret', '?index=b'].map(
    (query) => `https://logs.example.com/collector${query}`,
  ) as [string, string];
  expect(new Set(of(one, other)).size).toBe(4);
  expect(() => of(one, other, one)).toThrow(
    /^audit: http https:\/\/logs.example.com\/collector is named twice$/,
  );
});

test('a message names what happened in its header, and holds the line as it was logged', () => {
  const origin = { hostname: 'vault-1', processId: 7 };
  const line = (changes: string) =>
    `{"sequence":9,"at":"2026-01-02T03:04:05.678Z","type":"operation","action":"secret.read-value",${changes},"hash":"${'a'.repeat(64)}"}`;
  const denied = line('"phase":"outcome","result":"denied"');
  expect(syslogMessage({ sequence: 9, text: denied }, origin)).toBe(
    `<108>1 2026-01-02T03:04:05.678Z vault-1 keystead-agent 7 secret.read-value [audit@32473 sequence="9" hash="${'a'.repeat(64)}"] ${denied}`,
  );
  const done = line('"phase":"outcome","result":"done"');
  expect(syslogMessage({ sequence: 9, text: done }, origin)).toMatch(/^<109>1 /);
  expect(forwardingLimits.datagramBytes).toBeLessThan(65_507);
});

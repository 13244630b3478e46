/** What every key provider promises, checked on each of them in the same words. */
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type KeyContext,
  type KeyProvider,
  KeyProviderError,
  type KeyProviderReason,
  type WrappedKey,
} from '../key-provider.ts';
import { generateKey, KeyWiped, SecretKey } from '../keys.ts';
import { envelopeLimits } from '../limits.ts';
import type { FakeKeyService, Fault } from './key-service.fixture.ts';

export interface SuiteSubject {
  /** Opens the same key anew. */
  open(): Promise<KeyProvider>;
  /** Opens a provider of the same kind with another key. */
  openAnother(): Promise<KeyProvider>;
  dispose(): Promise<void> | void;
}

const context = { installation: 'one', purpose: 'master' };

/** Why it was refused; fails where it was not, or otherwise than a provider refuses. */
export async function refusal(work: Promise<unknown>): Promise<KeyProviderReason> {
  const error = await work.then(
    () => {
      throw new Error('it was not refused');
    },
    (caught: unknown) => caught,
  );
  if (!(error instanceof KeyProviderError)) throw error;
  return error.reason;
}

export function keyProviderSuite(name: string, make: () => Promise<SuiteSubject>): void {
  describe(`key provider ${name}`, () => {
    let subject: SuiteSubject;
    let provider: KeyProvider;
    const key = generateKey();
    let wrapped: WrappedKey;

    beforeAll(async () => {
      subject = await make();
      provider = await subject.open();
      wrapped = await provider.wrap(key, context);
    });

    afterAll(async () => {
      await provider.close();
      await subject.dispose();
    });

    test('what was wrapped comes back as it was', async () => {
      const back = await provider.unwrap(wrapped, context);
      expect(back.bytes.equals(key.bytes)).toBe(true);
    });

    test('it comes back after a restart', async () => {
      const later = await subject.open();
      const stored = { ...wrapped, bytes: Uint8Array.from(wrapped.bytes) };
      expect((await later.unwrap(stored, context)).equals(key)).toBe(true);
      await later.close();
      // One that was closed does not take others with it.
      expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
    });

    test('the order of the context does not matter, its content does', async () => {
      const turned = { purpose: 'master', installation: 'one' };
      expect((await provider.unwrap(wrapped, turned)).equals(key)).toBe(true);
      const others: KeyContext[] = [{}, { installation: 'one' }, { ...context, purpose: 'other' }];
      for (const other of others) {
        expect(await refusal(provider.unwrap(wrapped, other))).toBe('corrupt');
      }
    });

    test('wrapping again gives other bytes, which hold nothing of the key', async () => {
      const again = await provider.wrap(key, context);
      expect(Buffer.from(again.bytes).equals(wrapped.bytes)).toBe(false);
      expect(Buffer.from(again.bytes).includes(key.bytes)).toBe(false);
      expect((await provider.unwrap(again, context)).equals(key)).toBe(true);
    });

    test('another key is told apart', async () => {
      const another = await subject.openAnother();
      expect(await refusal(another.unwrap(wrapped, context))).toBe('wrong_key');
      const foreign = await another.wrap(key, context);
      expect(await refusal(provider.unwrap(foreign, context))).toBe('wrong_key');
      await another.close();
    });

    test('what another kind of provider wrapped is told apart', async () => {
      const kind = provider.kind === 'file' ? 'command' : 'file';
      expect(await refusal(provider.unwrap({ ...wrapped, provider: kind }, context))).toBe(
        'wrong_key',
      );
    });

    test('changed bytes are refused, wherever they were changed', async () => {
      const positions = [0, 1, 8, 20, wrapped.bytes.length >> 1, wrapped.bytes.length - 1];
      for (const position of positions) {
        const bytes = Buffer.from(wrapped.bytes);
        bytes[position] = (bytes[position] as number) ^ 1;
        expect(['corrupt', 'wrong_key', 'key_not_found']).toContain(
          await refusal(provider.unwrap({ ...wrapped, bytes }, context)),
        );
      }
    });

    test('cut or extended bytes are refused', async () => {
      const { bytes } = wrapped;
      const lengths = [0, 1, 2, 16, bytes.length - 1];
      const changed = [
        ...lengths.map((length) => bytes.subarray(0, length)),
        Buffer.concat([bytes, Buffer.from([0])]),
        Buffer.alloc(envelopeLimits.maxWrappedKeyBytes + 1, 1),
      ];
      for (const other of changed) {
        expect(await refusal(provider.unwrap({ ...wrapped, bytes: other }, context))).toBe(
          'corrupt',
        );
      }
    });

    test('an unknown version is refused', async () => {
      expect(['corrupt', 'key_not_found']).toContain(
        await refusal(provider.unwrap({ ...wrapped, version: '999' }, context)).catch((error) => {
          // A service that finds the version by itself takes no notice of ours.
          if (provider.kind === 'gcp-kms') return 'corrupt';
          throw error;
        }),
      );
    });

    test('many at once do not disturb each other', async () => {
      const keys = Array.from({ length: 8 }, () => generateKey());
      const backs = await Promise.all(
        keys.map(async (each, index) => {
          const place = { installation: String(index) };
          return provider.unwrap(await provider.wrap(each, place), place);
        }),
      );
      expect(backs.every((back, index) => back.equals(keys[index] as SecretKey))).toBe(true);
    });

    test('a wiped key is not wrapped', async () => {
      const wiped = generateKey();
      wiped.wipe();
      await expect(provider.wrap(wiped, context)).rejects.toThrow(KeyWiped);
    });

    test('neither description nor print-out nor error holds the key', async () => {
      const shown = [
        JSON.stringify(provider.describe()),
        inspect(provider, { depth: 10, showHidden: true }),
        JSON.stringify(provider),
        inspect(await provider.unwrap(wrapped, {}).catch((error: unknown) => error), { depth: 10 }),
      ].join('\n');
      for (const encoding of ['hex', 'base64', 'base64url'] as const) {
        expect(shown).not.toContain(key.bytes.toString(encoding).slice(0, 40));
      }
      expect(provider.describe().kind).toBe(provider.kind);
      expect(provider.describe().location).not.toBe('');
    });

    test('a closed one refuses, and may be closed twice', async () => {
      const closed = await subject.open();
      await closed.close();
      await closed.close();
      expect(await refusal(closed.wrap(key, context))).toBe('closed');
      expect(await refusal(closed.unwrap(wrapped, context))).toBe('closed');
    });
  });
}

export interface RemoteSubject extends SuiteSubject {
  service: FakeKeyService;
}

/** What a provider promises whose keys are behind a network. Opened ones try thrice and wait half a second. */
export function remoteProviderSuite(name: string, make: () => Promise<RemoteSubject>): void {
  keyProviderSuite(name, make);

  describe(`key provider ${name}, whose service fails`, () => {
    let subject: RemoteSubject;
    let provider: KeyProvider;
    const key = generateKey();
    let wrapped: WrappedKey;

    beforeAll(async () => {
      subject = await make();
      provider = await subject.open();
      wrapped = await provider.wrap(key, context);
    });

    afterAll(async () => {
      await provider.close();
      await subject.dispose();
    });

    const passing: Fault[] = ['throttled', 'unavailable', 'reset', 'slow'];
    test.each(passing)('%s once: the next try succeeds', async (fault) => {
      subject.service.fail(fault, 1);
      expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
      subject.service.fail(fault, 1);
      expect((await provider.wrap(key, context)).bytes.length).toBeGreaterThan(0);
      subject.service.recover();
    });

    const lasting: [Fault, KeyProviderReason][] = [
      ['throttled', 'throttled'],
      ['unavailable', 'unavailable'],
      ['reset', 'unavailable'],
      ['slow', 'timed_out'],
    ];
    test.each(lasting)('%s for long: refused as %s after three tries', async (fault, reason) => {
      subject.service.fail(fault);
      expect(await refusal(provider.unwrap(wrapped, context))).toBe(reason);
      expect(subject.service.calls).toBeGreaterThanOrEqual(3);
      expect(subject.service.calls).toBeLessThanOrEqual(6);
      subject.service.recover();
      expect((await provider.unwrap(wrapped, context)).equals(key)).toBe(true);
    });

    const final: [Fault, KeyProviderReason][] = [
      ['denied', 'denied'],
      ['disabled', 'key_disabled'],
      ['not_found', 'key_not_found'],
    ];
    test.each(final)('%s: refused as %s at once', async (fault, reason) => {
      subject.service.fail(fault);
      expect(await refusal(provider.unwrap(wrapped, context))).toBe(reason);
      expect(await refusal(provider.wrap(key, context))).toBe(reason);
      // A client may look at the key before it uses it.
      expect(subject.service.calls).toBeLessThanOrEqual(4);
      subject.service.recover();
    });

    test('an answer that is none does not pass for a key', async () => {
      subject.service.fail('garbage');
      expect(['unavailable', 'corrupt', 'misconfigured']).toContain(
        await refusal(provider.unwrap(wrapped, context)),
      );
      expect(['unavailable', 'corrupt', 'misconfigured']).toContain(
        await refusal(provider.wrap(key, context)),
      );
      subject.service.recover();
    });

    test('a service that is gone is unavailable', async () => {
      await subject.service.stop();
      expect(await refusal(provider.unwrap(wrapped, context))).toBe('unavailable');
    });
  });
}

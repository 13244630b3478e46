import { createPublicKey } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createCertificateRequest, generateAgentKey } from './certificate-request.ts';
import { AgentMessage } from './generated/keystead/agent/v1/session.ts';
import { appendSignature, hasValidSignature, splitSignature } from './message-signature.ts';
import { encodeAgentMessage } from './services.ts';
import { Pkcs10CertificateRequest } from './test-authority.fixture.ts';

const key = await generateAgentKey();
const publicKey = createPublicKey(key);

function message(): AgentMessage {
  return {
    version: '1.0',
    timestampUnixMs: 1_700_000_000_000,
    vaultId: 'vlt_01h455vb4pex5vsknk084sn02q',
    messageType: 6,
    payload: {
      encrypted: false,
      metadataOnly: true,
      content: {
        $case: 'event',
        value: {
          occurredAtUnixMs: 1_700_000_000_000,
          kind: { $case: 'clockJumped', value: { jumpMs: -3_600_000 } },
        },
      },
    },
    offlineCapable: true,
    bootId: '018f3f3e-0000-7000-8000-000000000000',
    sequence: 4_294_967_297,
    signature: Buffer.alloc(0),
  };
}

test('a signed message verifies and still decodes to what was sent', () => {
  const signed = appendSignature(encodeAgentMessage(message()), key);
  expect(hasValidSignature(signed, publicKey)).toBe(true);
  const decoded = AgentMessage.decode(signed);
  expect({ ...decoded, signature: Buffer.alloc(0) }).toEqual(message());
  expect(decoded.signature.length).toBeGreaterThan(60);
});

test('every changed bit is noticed', () => {
  const signed = appendSignature(encodeAgentMessage(message()), key);
  const { covered } = splitSignature(signed) ?? { covered: new Uint8Array() };
  for (let bit = 0; bit < covered.length * 8; bit += 1) {
    const changed = Buffer.from(signed);
    changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    expect(hasValidSignature(changed, publicKey)).toBe(false);
  }
});

test('bytes after the signature are not covered and therefore not accepted', () => {
  const signed = appendSignature(encodeAgentMessage(message()), key);
  const appended = Buffer.concat([signed, Buffer.from([0x0a, 0x01, 0x31])]);
  expect(hasValidSignature(appended, publicKey)).toBe(false);
});

test('another key does not verify, and no signature is no signature', async () => {
  const encoded = encodeAgentMessage(message());
  expect(hasValidSignature(appendSignature(encoded, await generateAgentKey()), publicKey)).toBe(
    false,
  );
  expect(hasValidSignature(encoded, publicKey)).toBe(false);
});

test('no bytes make the verification throw', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(hasValidSignature(bytes, publicKey)).toBe(false);
    }),
  );
});

test('a certificate request is one that others can read and verify', async () => {
  const request = new Pkcs10CertificateRequest(createCertificateRequest(key));
  expect(await request.verify()).toBe(true);
  expect(request.subject).toBe('');
  expect(Buffer.from(request.publicKey.rawData)).toEqual(
    publicKey.export({ type: 'spki', format: 'der' }),
  );
});

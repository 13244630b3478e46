import './reflection.ts';
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  webcrypto,
  X509Certificate,
} from 'node:crypto';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import { formatAgentUri, peerIdentityOf } from '@keystead/agent-protocol/peer-identity';
import {
  commandSignerUri,
  organizationSignerUri,
  verifiedSigner,
} from '@keystead/agent-protocol/policy-set-signature';
import { newUuid } from '@keystead/contracts/ids';
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { checkCertificateRequest, checkEncodedRequest } from './certificate-request.ts';
import {
  createIntermediate,
  createRoot,
  fingerprintOf,
  IssuingAuthority,
} from './issuing-authority.ts';
import { openKey, sealKey } from './sealed-key.ts';

const nowMs = Date.parse('2026-11-21T12:00:00.500Z');
const surroundings = { nowMs: () => nowMs, random: randomBytes };
const root = await createRoot('Keystead', surroundings);
const intermediate = await createIntermediate(root, 'Keystead', surroundings);
const authority = await IssuingAuthority.open(
  root.certificate,
  intermediate,
  'keystead.test',
  surroundings,
);
const dayMs = 86_400_000;

async function requestOf(key: KeyObject) {
  const checked = await checkCertificateRequest(createCertificateRequest(key));
  if (checked.outcome !== 'accepted') throw new Error(checked.detail);
  return checked.publicKey;
}

test('the root lives ten years, the intermediate two, each below the other', () => {
  const top = new X509Certificate(root.certificate);
  const middle = new X509Certificate(intermediate.certificate);
  expect(top.validToDate.getTime() - nowMs).toBeGreaterThan(3_649 * dayMs);
  expect(middle.validToDate.getTime() - nowMs).toBeLessThan(731 * dayMs);
  expect(middle.verify(top.publicKey)).toBe(true);
  expect(top.ca && middle.ca).toBe(true);
  expect(fingerprintOf(root.certificate)).toBe(
    top.fingerprint256.replaceAll(':', '').toLowerCase(),
  );
});

test('an agent certificate holds seven days from five minutes ago and names one agent', async () => {
  const agent = { organizationId: newUuid(), agentId: newUuid() };
  const key = await generateAgentKey();
  const issued = await authority.issueAgentCertificate(await requestOf(key), agent);
  const leaf = new X509Certificate(issued.certificate);
  expect(leaf.validFromDate.getTime()).toBe(Date.parse('2026-11-21T11:55:00Z'));
  expect(leaf.validToDate.getTime()).toBe(Date.parse('2026-11-28T12:00:00Z'));
  expect(leaf.subjectAltName).toBe(
    `URI:${formatAgentUri('keystead.test', agent.organizationId, agent.agentId)}`,
  );
  expect(leaf.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
  expect(leaf.ca).toBe(false);
  expect(leaf.verify(new X509Certificate(intermediate.certificate).publicKey)).toBe(true);
  expect(leaf.checkPrivateKey(key)).toBe(true);
  expect(peerIdentityOf(leaf, 'keystead.test')).toMatchObject({
    ...agent,
    serialNumber: issued.serialNumber,
  });
  expect(issued.chain).toEqual([issued.certificate, intermediate.certificate, root.certificate]);
});

test('subject and extensions of a request are ignored', async () => {
  const keys = (await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
  const { SubjectAlternativeNameExtension, BasicConstraintsExtension } = await import(
    '@peculiar/x509'
  );
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: 'CN=root',
    keys,
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
    extensions: [
      new BasicConstraintsExtension(true, 5, true),
      new SubjectAlternativeNameExtension([{ type: 'dns', value: 'evil.test' }]),
    ],
  });
  const checked = await checkCertificateRequest(new Uint8Array(request.rawData));
  if (checked.outcome !== 'accepted') throw new Error(checked.detail);
  const issued = await authority.issueAgentCertificate(checked.publicKey, {
    organizationId: newUuid(),
    agentId: newUuid(),
  });
  const leaf = new X509Certificate(issued.certificate);
  expect(leaf.subject).toBe('CN=Keystead agent');
  expect(leaf.ca).toBe(false);
  expect(leaf.subjectAltName).not.toContain('evil');
});

test('a server certificate covers names and addresses, for at most thirty days', async () => {
  const key = await generateAgentKey();
  const issued = await authority.issueServerCertificate(await requestOf(key), [
    'agents.example.com',
    '127.0.0.1',
    '::1',
  ]);
  const leaf = new X509Certificate(issued.certificate);
  expect(leaf.checkHost('agents.example.com')).toBe('agents.example.com');
  expect(leaf.checkIP('127.0.0.1')).toBe('127.0.0.1');
  expect(leaf.checkIP('::1')).toBeDefined();
  expect(leaf.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1']);
  expect(leaf.validToDate.getTime() - nowMs).toBeLessThanOrEqual(30 * dayMs);
  expect(peerIdentityOf(leaf, 'keystead.test')).toBeUndefined();
});

test('signers of policy sets and of commands are no agents, no servers, and each what it says', async () => {
  const organizationId = newUuid();
  const key = await requestOf(await generateAgentKey());
  const set = await authority.issuePolicySigner(key, organizationId);
  const command = await authority.issueCommandSigner(key);
  const expected = [
    [set, organizationSignerUri('keystead.test', organizationId), 365],
    [command, commandSignerUri('keystead.test'), 30],
  ] as const;
  for (const [{ certificate, chain }, uri, days] of expected) {
    const leaf = new X509Certificate(certificate);
    expect(leaf.subjectAltName).toBe(`URI:${uri}`);
    expect(leaf.keyUsage).toEqual(['1.3.6.1.5.5.7.3.3']);
    expect(leaf.validToDate.getTime() - nowMs).toBeLessThanOrEqual(days * dayMs);
    expect(peerIdentityOf(leaf, 'keystead.test')).toBeUndefined();
    const found = verifiedSigner(
      chain.slice(0, 2).map((pem) => new X509Certificate(pem).raw),
      { uri, root: new X509Certificate(root.certificate), nowMs },
    );
    expect(found?.serialNumber).toBe(leaf.serialNumber);
  }
});

test('no certificate outlives its issuer', async () => {
  const late = { nowMs: () => nowMs + 729 * dayMs, random: randomBytes };
  const old = await IssuingAuthority.open(root.certificate, intermediate, 'keystead.test', late);
  const issued = await old.issueAgentCertificate(await requestOf(await generateAgentKey()), {
    organizationId: newUuid(),
    agentId: newUuid(),
  });
  expect(issued.notAfter).toEqual(new X509Certificate(intermediate.certificate).validToDate);
});

test('serial numbers do not repeat and read the same everywhere', async () => {
  const publicKey = await requestOf(await generateAgentKey());
  const serials = new Set<string>();
  for (let count = 0; count < 50; count += 1) {
    const issued = await authority.issueAgentCertificate(publicKey, {
      organizationId: newUuid(),
      agentId: newUuid(),
    });
    serials.add(issued.serialNumber);
    expect(new X509Certificate(issued.certificate).serialNumber.toLowerCase()).toBe(
      issued.serialNumber,
    );
  }
  expect(serials.size).toBe(50);
});

test('an authority with the wrong key or the wrong root does not open', async () => {
  const other = await createRoot('Other', surroundings);
  await expect(
    IssuingAuthority.open(other.certificate, intermediate, 'keystead.test'),
  ).rejects.toThrow('not certified by the root');
  await expect(
    IssuingAuthority.open(
      root.certificate,
      { certificate: intermediate.certificate, privateKey: other.privateKey },
      'keystead.test',
    ),
  ).rejects.toThrow('not the key of the intermediate');
});

async function requestWith(
  generate: webcrypto.EcKeyGenParams | webcrypto.RsaHashedKeyGenParams | { name: 'Ed25519' },
  signing: object,
) {
  const keys = (await webcrypto.subtle.generateKey(generate, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: 'CN=x',
    keys,
    signingAlgorithm: signing as never,
  });
  return new Uint8Array(request.rawData);
}
const rsa = (modulusLength: number) => ({
  name: 'RSASSA-PKCS1-v1_5',
  modulusLength,
  publicExponent: new Uint8Array([1, 0, 1]),
  hash: 'SHA-256',
});

test.each([
  ['P-256', { name: 'ECDSA', namedCurve: 'P-256' }, { name: 'ECDSA', hash: 'SHA-256' }, true],
  ['P-384', { name: 'ECDSA', namedCurve: 'P-384' }, { name: 'ECDSA', hash: 'SHA-384' }, true],
  ['Ed25519', { name: 'Ed25519' }, { name: 'Ed25519' }, true],
  ['RSA 2048', rsa(2_048), { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, true],
  ['P-521', { name: 'ECDSA', namedCurve: 'P-521' }, { name: 'ECDSA', hash: 'SHA-512' }, false],
  ['RSA 1024', rsa(1_024), { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, false],
] as [string, never, object, boolean][])(
  'a request with a %s key: accepted %4$s',
  async (...row) => {
    const [, generate, signing, accepted] = row;
    const checked = await checkCertificateRequest(await requestWith(generate, signing));
    expect(checked.outcome).toBe(accepted ? 'accepted' : 'refused');
  },
);

test('a request signed by another key is refused', async () => {
  const der = createCertificateRequest(await generateAgentKey());
  const other = createCertificateRequest(await generateAgentKey());
  const publicKey = (request: Buffer) => {
    const start = request.indexOf(Buffer.from('3059', 'hex'));
    return { start, bytes: request.subarray(start, start + 91) };
  };
  const forged = Buffer.from(der);
  publicKey(other).bytes.copy(forged, publicKey(der).start);
  expect(await checkCertificateRequest(forged)).toEqual({
    outcome: 'refused',
    detail: 'the signature of the request is not by its key',
  });
});

test('no bytes are more than a refusal', async () => {
  const valid = createCertificateRequest(await generateAgentKey());
  const accepted = await checkCertificateRequest(valid);
  if (accepted.outcome !== 'accepted') throw new Error(accepted.detail);
  const ownKey = Buffer.from(accepted.publicKey.rawData);
  const signedBytes = valid.indexOf(ownKey) + ownKey.length;
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 400 }),
        fc
          .tuple(fc.nat({ max: valid.length - 1 }), fc.integer({ min: 1, max: 255 }))
          .map(([at, change]) => {
            const changed = Uint8Array.from(valid);
            changed[at] = (changed[at] ?? 0) ^ change;
            return changed;
          }),
        fc.nat({ max: valid.length - 1 }).map((end) => valid.subarray(0, end)),
        fc.uint8Array({ minLength: 1, maxLength: 20 }).map((more) => Buffer.concat([valid, more])),
      ),
      async (bytes) => {
        const checked = await checkCertificateRequest(bytes);
        if (checked.outcome === 'refused') return;
        // What the signature does not cover (how the signature itself is written down) may be
        // spelt otherwise; it is still the proof for this key and no other.
        expect(Buffer.from(checked.publicKey.rawData)).toEqual(ownKey);
        expect(Buffer.from(bytes).subarray(0, signedBytes)).toEqual(valid.subarray(0, signedBytes));
      },
    ),
    { numRuns: 400 },
  );
  expect((await checkCertificateRequest(new Uint8Array(100_000))).outcome).toBe('refused');
  expect((await checkEncodedRequest('%%%')).outcome).toBe('refused');
  expect((await checkEncodedRequest(valid.toString('base64'))).outcome).toBe('accepted');
});

test('a sealed key opens under its sealing key and purpose alone', () => {
  const sealingKey = randomBytes(32);
  const plain = intermediate.privateKey.export({ type: 'pkcs8', format: 'der' });
  const sealed = sealKey(plain, sealingKey, 'intermediate 1', randomBytes);
  expect(sealed.includes(plain)).toBe(false);
  const opened = openKey(sealed, sealingKey, 'intermediate 1');
  if (opened.outcome !== 'opened') throw new Error(opened.outcome);
  const key = createPrivateKey({ key: opened.plain, format: 'der', type: 'pkcs8' });
  expect(createPublicKey(key).export({ format: 'jwk' })).toEqual(
    createPublicKey(intermediate.privateKey).export({ format: 'jwk' }),
  );
  expect(openKey(sealed, randomBytes(32), 'intermediate 1').outcome).toBe('wrong_key');
  expect(openKey(sealed, sealingKey, 'root 1').outcome).toBe('damaged');
  expect(() => sealKey(plain, Buffer.alloc(16), 'root 1', randomBytes)).toThrow(RangeError);
});

test('every changed or missing byte of a sealed key is noticed', () => {
  const sealingKey = randomBytes(32);
  const sealed = sealKey(generatePkcs8(), sealingKey, 'root 1', randomBytes);
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = Buffer.from(sealed);
    changed.writeUInt8(changed.readUInt8(at) ^ 1, at);
    expect(openKey(changed, sealingKey, 'root 1').outcome).not.toBe('opened');
    expect(openKey(sealed.subarray(0, at), sealingKey, 'root 1').outcome).not.toBe('opened');
  }
});

function generatePkcs8(): Buffer {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return privateKey.export({ type: 'pkcs8', format: 'der' });
}

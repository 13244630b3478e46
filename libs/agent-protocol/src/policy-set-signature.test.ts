import { X509Certificate } from 'node:crypto';
import { newUuid } from '@keystead/contracts/ids';
import { expect, test } from 'vitest';
import {
  commandSignerUri,
  isPolicySetSignedBy,
  organizationSignerUri,
  policySetDigest,
  signPolicySet,
  verifiedSigner,
} from './policy-set-signature.ts';
import { type IssueOptions, TestAuthority, testTrustDomain } from './test-authority.fixture.ts';

const authority = await TestAuthority.create();
const strange = await TestAuthority.create();
const organizationId = newUuid();
const uri = organizationSignerUri(testTrustDomain, organizationId);
const root = new X509Certificate(authority.root);
const der = (pem: string) => new X509Certificate(pem).raw;

async function signer(options: IssueOptions = {}, by = authority) {
  const issued = await by.issue({ names: [{ type: 'url', value: uri }], ...options });
  return { ...issued, chain: [der(issued.certificate), der(by.intermediate)] };
}
const verified = (chain: Uint8Array[], nowMs = Date.now(), name = uri) =>
  verifiedSigner(chain, { uri: name, root, nowMs });

test('a signature holds for its digest and its key alone', async () => {
  const [one, other] = [await signer(), await signer()];
  const digest = policySetDigest(Buffer.from('a set'));
  const signature = signPolicySet(digest, one.key);
  const certificate = new X509Certificate(one.certificate);
  expect(isPolicySetSignedBy(digest, signature, certificate)).toBe(true);
  expect(isPolicySetSignedBy(digest, signature, new X509Certificate(other.certificate))).toBe(
    false,
  );
  expect(isPolicySetSignedBy(policySetDigest(Buffer.from('b')), signature, certificate)).toBe(
    false,
  );
  for (let index = 0; index < signature.length; index += 1) {
    const changed = Buffer.from(signature);
    changed[index] = (changed[index] ?? 0) ^ 1;
    expect(isPolicySetSignedBy(digest, changed, certificate), String(index)).toBe(false);
  }
  expect(isPolicySetSignedBy('not a digest', signature, certificate)).toBe(false);
});

test('a signer chains to the root, is in its time, and has exactly the one name', async () => {
  const good = await signer();
  expect(verified(good.chain)?.raw.equals(good.chain[0] ?? Buffer.alloc(0))).toBe(true);
  const day = 86_400_000;
  const twoNames = [
    { type: 'url' as const, value: uri },
    { type: 'dns' as const, value: 'keystead.test' },
  ];
  const bad: [string, Uint8Array[], number?, string?][] = [
    ['another authority', (await signer({}, strange)).chain],
    ['a foreign intermediate', [good.chain[0] as Buffer, der(strange.intermediate)]],
    ['self-signed', (await signer({ issuer: 'self' })).chain],
    ['below the root', (await signer({ issuer: 'root' })).chain],
    ['no intermediate', good.chain.slice(0, 1)],
    ['one too many', [...good.chain, der(authority.root)]],
    ['the intermediate itself', [good.chain[1] as Buffer, good.chain[1] as Buffer]],
    ['expired', good.chain, Date.now() + 8 * day],
    ['not yet valid', good.chain, Date.now() - day],
    ['two names', (await signer({ names: twoNames })).chain],
    ['an agent', (await signer({ names: [] })).chain],
    ['another purpose', good.chain, Date.now(), commandSignerUri(testTrustDomain)],
    [
      'another organization',
      good.chain,
      Date.now(),
      organizationSignerUri(testTrustDomain, newUuid()),
    ],
    ['garbage', [Buffer.from('x'), Buffer.from('y')]],
    ['nothing', []],
  ];
  for (const [what, chain, nowMs, name] of bad) {
    expect(verified(chain, nowMs, name), what).toBeUndefined();
  }
});

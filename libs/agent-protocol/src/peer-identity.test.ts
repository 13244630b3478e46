import { X509Certificate } from 'node:crypto';
import { newUuid, toId } from '@keystead/contracts/ids';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatAgentUri, parseAgentUri, peerIdentityOf } from './peer-identity.ts';
import { TestAuthority, testTrustDomain } from './test-authority.fixture.ts';

const authority = await TestAuthority.create();
const organizationId = newUuid();
const agentId = newUuid();
const uri = formatAgentUri(testTrustDomain, organizationId, agentId);

async function identityOf(names: { type: 'url' | 'dns' | 'email' | 'ip'; value: string }[]) {
  const { certificate } = await authority.issue({ names });
  return peerIdentityOf(new X509Certificate(certificate), testTrustDomain);
}

test('a certificate with exactly the one SPIFFE name is that agent', async () => {
  const identity = await identityOf([{ type: 'url', value: uri }]);
  expect(identity).toMatchObject({ trustDomain: testTrustDomain, organizationId, agentId });
  expect(identity?.serialNumber).toMatch(/^[0-9a-f]+$/);
});

test('an identity written and read again is the same, for every uuid', () => {
  fc.assert(
    fc.property(fc.uuid(), fc.uuid(), (organization, agent) => {
      expect(parseAgentUri(formatAgentUri('a.example', organization, agent))).toEqual({
        trustDomain: 'a.example',
        organizationId: organization,
        agentId: agent,
      });
    }),
  );
});

const organization = toId('organization', organizationId);
const agent = toId('agent', agentId);

test.each([
  ['another trust domain', [{ type: 'url', value: uri.replace(testTrustDomain, 'evil.test') }]],
  [
    'a second URI',
    [
      { type: 'url', value: uri },
      { type: 'url', value: uri },
    ],
  ],
  [
    'a second agent',
    [
      { type: 'url', value: uri },
      { type: 'url', value: formatAgentUri(testTrustDomain, newUuid(), newUuid()) },
    ],
  ],
  [
    'a DNS name beside it',
    [
      { type: 'url', value: uri },
      { type: 'dns', value: 'localhost' },
    ],
  ],
  [
    'a DNS name before it',
    [
      { type: 'dns', value: 'localhost' },
      { type: 'url', value: uri },
    ],
  ],
  ['the name as DNS', [{ type: 'dns', value: uri }]],
  ['the name as mail address', [{ type: 'email', value: uri }]],
  ['no name', []],
  ['a name with a separator in it', [{ type: 'url', value: `${uri}, URI:${uri}` }]],
  ['a DNS name that spells one', [{ type: 'dns', value: `x, URI:${uri}` }]],
  ['a NUL after it', [{ type: 'url', value: `${uri}\u0000.evil.test` }]],
  ['a trailing slash', [{ type: 'url', value: `${uri}/` }]],
  ['a query', [{ type: 'url', value: `${uri}?a=b` }]],
  ['a fragment', [{ type: 'url', value: `${uri}#x` }]],
  ['a port', [{ type: 'url', value: uri.replace('/org/', ':8443/org/') }]],
  ['user information', [{ type: 'url', value: uri.replace('//', '//x@') }]],
  ['an upper-case scheme', [{ type: 'url', value: uri.replace('spiffe', 'SPIFFE') }]],
  ['an upper-case id', [{ type: 'url', value: uri.replace(agent, agent.toUpperCase()) }]],
  ['percent encoding', [{ type: 'url', value: uri.replace('/agent/', '/%61gent/') }]],
  ['dot segments', [{ type: 'url', value: uri.replace('/agent/', '/../agent/') }]],
  [
    'swapped ids',
    [{ type: 'url', value: `spiffe://${testTrustDomain}/org/${agent}/agent/${organization}` }],
  ],
  ['an id that is too large', [{ type: 'url', value: uri.replace(/agt_./, 'agt_8') }]],
  ['a longer path', [{ type: 'url', value: `${uri}/agent/${agent}` }]],
] as [string, { type: 'url' | 'dns' | 'email' | 'ip'; value: string }[]][])(
  'a certificate with %s is nobody',
  async (_what, names) => {
    expect(await identityOf(names)).toBeUndefined();
  },
);

test('an authority is nobody, whatever it is called', () => {
  expect(peerIdentityOf(new X509Certificate(authority.root), testTrustDomain)).toBeUndefined();
});

test('no text makes the parser throw', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 600 }), (text) => {
      parseAgentUri(text);
      parseAgentUri(`spiffe://${text}`);
    }),
  );
});

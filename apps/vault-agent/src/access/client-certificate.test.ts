import type { PeerCertificate } from 'node:tls';
import { expect, test } from 'vitest';
import { CertificateRules } from './client-certificate.ts';

const certificate = (subject: object, subjectaltname = '') =>
  ({ subject, subjectaltname, fingerprint256: 'AB:CD' }) as unknown as PeerCertificate;

test('the first rule that fits gives its roles; none gives none', () => {
  const rules = new CertificateRules([
    { subject: 'CN=payments', roles: ['reader'] },
    { subject: 'O=Example*', san: 'DNS:*.example.com', roles: ['writer'], namespaces: ['web'] },
  ]);
  expect(rules.identify(certificate({ CN: 'payments', O: 'Example' }))).toMatchObject({
    id: 'CN=payments,O=Example',
    name: 'payments',
    roles: ['reader'],
  });
  const web = certificate({ CN: 'web', O: 'Example Ltd' }, 'DNS:a.test, DNS:b.example.com');
  expect(rules.identify(web)).toMatchObject({ roles: ['writer'], namespaces: ['web'] });
  expect(rules.identify(certificate({ CN: 'web', O: 'Example Ltd' }))).toMatchObject({ roles: [] });
});

test('a name inside a name is none', () => {
  const rules = new CertificateRules([{ subject: 'CN=admin', roles: ['admin'] }]);
  for (const subject of [{ CN: 'x,CN=admin' }, { O: 'x,CN=admin' }, { CN: 'CN=admin' }]) {
    expect(rules.identify(certificate(subject)), JSON.stringify(subject)).toMatchObject({
      roles: [],
    });
  }
  const names = new CertificateRules([{ san: 'DNS:admin.test', roles: ['admin'] }]);
  // As Node writes a name that holds a comma.
  expect(names.identify(certificate({ CN: 'x' }, 'DNS:"evil, DNS:admin.test"'))).toMatchObject({
    roles: [],
  });
});

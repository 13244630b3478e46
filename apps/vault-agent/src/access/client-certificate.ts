/** Whose client certificate that is: pure, from what TLS has verified against the CA of clients. */
import type { PeerCertificate } from 'node:tls';
import type { CallerIdentity } from './caller.ts';
import { type NameMatcher, nameMatcher } from './name-pattern.ts';

export interface CertificateRule {
  /** A pattern for the subject, e.g. `CN=payments,O=Example`, or for one name in it: `CN=payments`. */
  subject?: string | undefined;
  /** A pattern for one subject alternative name, e.g. `DNS:*.example.com`, `URI:spiffe://…`. */
  san?: string | undefined;
  roles: readonly string[];
  namespaces?: readonly string[] | undefined;
}

interface ReadyRule {
  subject: NameMatcher | undefined;
  san: NameMatcher | undefined;
  rule: CertificateRule;
}

export class CertificateRules {
  readonly #rules: readonly ReadyRule[];

  constructor(rules: readonly CertificateRule[]) {
    this.#rules = rules.map((rule) => ({
      subject: rule.subject === undefined ? undefined : nameMatcher(rule.subject),
      san: rule.san === undefined ? undefined : nameMatcher(rule.san),
      rule,
    }));
  }

  /** The first rule that fits says the roles; without one the certificate is known and may nothing. */
  identify(certificate: PeerCertificate): CallerIdentity {
    const names = subjectNames(certificate);
    const subject = names.join(',');
    const alternatives = alternativeNames(certificate.subjectaltname ?? '');
    const found = this.#rules.find(
      (each) =>
        (each.subject !== undefined || each.san !== undefined) &&
        (each.subject === undefined || [subject, ...names].some(each.subject)) &&
        (each.san === undefined || alternatives.some(each.san)),
    );
    const name = certificate.subject?.CN;
    return Object.freeze({
      kind: 'certificate' as const,
      id: subject === '' ? (alternatives[0] ?? certificate.fingerprint256) : subject,
      name: (Array.isArray(name) ? name[0] : name) ?? alternatives[0] ?? subject,
      roles: found?.rule.roles ?? [],
      ...(found?.rule.namespaces === undefined ? {} : { namespaces: found.rule.namespaces }),
    });
  }
}

/** `CN=…`, `O=…`, in the order of the certificate's subject. */
function subjectNames(certificate: PeerCertificate): string[] {
  return Object.entries(certificate.subject ?? {}).flatMap(([type, value]) =>
    (Array.isArray(value) ? value : [value]).map((each) => `${type}=${escaped(String(each))}`),
  );
}

// A comma inside a name must not look like the next name.
const escaped = (value: string) => value.replaceAll(/[,\\=]/g, (mark) => `\\${mark}`);

/**
 * Node writes `DNS:a, URI:b` and quotes what holds a comma; what is quoted is left out, because no
 * name that a rule should trust needs it.
 */
function alternativeNames(text: string): string[] {
  if (text === '' || text.includes('"')) return [];
  return text.split(', ');
}

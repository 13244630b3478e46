/**
 * An agent is its certificate: the one URI subject alternative name
 * `spiffe://<trust domain>/org/<org_…>/agent/<agt_…>`, and the serial number.
 */
import type { X509Certificate } from 'node:crypto';
import { parseId, toId } from '@keystead/contracts/ids';

export interface PeerIdentity {
  trustDomain: string;
  /** uuid. */
  organizationId: string;
  /** uuid. */
  agentId: string;
  /** Lower-case hexadecimal without leading zeros beyond whole bytes, as X.509 writes it. */
  serialNumber: string;
  notBeforeMs: number;
  notAfterMs: number;
}

/** The SPIFFE id of an agent. Ids are uuids; the trust domain is a lower-case DNS name. */
export function formatAgentUri(
  trustDomain: string,
  organizationId: string,
  agentId: string,
): string {
  if (!trustDomainPattern.test(trustDomain)) {
    throw new TypeError(`not a trust domain: ${trustDomain}`);
  }
  return `spiffe://${trustDomain}/org/${toId('organization', organizationId)}/agent/${toId('agent', agentId)}`;
}

const label = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
const trustDomainPattern = new RegExp(`^(?=.{1,253}$)${label}(?:\\.${label})*$`);
const id = '[0-7][0-9a-hjkmnp-tv-z]{25}';
const uriPattern = new RegExp(
  `^spiffe://(${label}(?:\\.${label})*)/org/(org_${id})/agent/(agt_${id})$`,
);

/** The parts of an agent's SPIFFE id, or undefined where the text is anything else. */
export function parseAgentUri(
  uri: string,
): { trustDomain: string; organizationId: string; agentId: string } | undefined {
  if (uri.length > 400) return undefined;
  const match = uriPattern.exec(uri);
  if (!match) return undefined;
  const [, trustDomain = '', organization = '', agent = ''] = match;
  const organizationId = parseId('organization', organization);
  const agentId = parseId('agent', agent);
  if (organizationId === undefined || agentId === undefined) return undefined;
  return { trustDomain, organizationId, agentId };
}

/**
 * Who a verified certificate says it is, or undefined. Node writes every subject alternative name
 * into one text and quotes what could be mistaken for a separator; comparing that whole text with
 * one plain URI means that a second name, a name of another kind, or a trick inside a name cannot
 * be read as an identity.
 */
export function peerIdentityOf(
  certificate: X509Certificate,
  trustDomain: string,
): PeerIdentity | undefined {
  const names = certificate.subjectAltName;
  if (names === undefined || !names.startsWith('URI:') || certificate.ca) return undefined;
  const parsed = parseAgentUri(names.slice(4));
  if (parsed === undefined || parsed.trustDomain !== trustDomain) return undefined;
  return {
    ...parsed,
    serialNumber: certificate.serialNumber.toLowerCase(),
    notBeforeMs: certificate.validFromDate.getTime(),
    notAfterMs: certificate.validToDate.getTime(),
  };
}

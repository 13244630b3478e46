/**
 * Where a webhook may go. Receivers are named by tenants, so an address is refused unless it is
 * globally routable unicast: not the installation's own network, not the cloud's metadata, not
 * the machine itself, however it is spelt and whatever it is embedded in. The installer's allow
 * list makes exceptions.
 *
 * `KEYSTEAD_WEBHOOK_ALLOW` is a comma-separated list of CIDRs (or single addresses) that may be
 * reached although they are private, there also by `http:`. An entry may be limited to
 * organizations, named after an `@` and joined by `+`:
 *
 *     10.20.0.0/16, fd12:3456::/32, 192.168.7.9@org_01h455vb4pex5vsknk084sn02q+org_01h…
 */
import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;

export interface AllowEntry {
  network: Address;
  prefixLength: number;
  /** Public ids; undefined is every organization. */
  organizations: ReadonlySet<string> | undefined;
}

export type AddressVerdict =
  | {
      verdict: 'public' | 'allowed';
      /** The address to connect to, in its plain form (a mapped IPv4 address is unwrapped). */
      address: string;
      family: 4 | 6;
    }
  | { verdict: 'refused'; address: string; why: string };

export type UrlErrorCode =
  | 'malformed'
  | 'too_long'
  | 'scheme'
  | 'insecure'
  | 'credentials'
  | 'port'
  | 'host'
  | 'refused_address';

export type WebhookTarget = {
  ok: true;
  /** Normalised by the WHATWG rules: what is stored, shown and connected to. */
  url: URL;
  hostname: string;
  port: number;
  secure: boolean;
  /** Set where the host is an address rather than a name. */
  literal: AddressVerdict | undefined;
};

export type UrlVerdict = WebhookTarget | { ok: false; code: UrlErrorCode; message: string };

export const webhookUrlMaxLength = 2_048;

/** Ports of other protocols that a request could be smuggled into (those the Fetch standard blocks). */
const otherProtocolPorts = new Set([
  1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669,
  6679, 6697, 10080,
]);

const idShape = /^org_[0-7][0-9a-hjkmnp-tv-z]{25}$/;

/** @throws TypeError that names the entry which cannot be read */
export function parseAllowList(text: string): AllowEntry[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map((part) => {
      const [cidr = '', organizations, ...rest] = part.split('@').map((half) => half.trim());
      const wrong = (why: string) => new TypeError(`KEYSTEAD_WEBHOOK_ALLOW: "${part}" ${why}`);
      if (rest.length > 0) throw wrong('has more than one @');
      const ids = organizations?.split('+').map((id) => id.trim());
      for (const id of ids ?? []) {
        if (!idShape.test(id)) throw wrong(`names "${id}", which is not an organization's id`);
      }
      const [network, prefixLength] = parseCidr(cidr) ?? [];
      if (!network || prefixLength === undefined) {
        throw wrong('is not a CIDR such as 10.20.0.0/16 or an address');
      }
      return { network, prefixLength, organizations: ids && new Set(ids) };
    });
}

function parseCidr(text: string): [Address, number] | undefined {
  const [address = '', length, ...rest] = text.split('/');
  const network = parsePlain(address);
  if (!network || rest.length > 0) return undefined;
  const most = network.kind() === 'ipv4' ? 32 : 128;
  if (length === undefined) return [network, most];
  if (!/^\d{1,3}$/.test(length) || Number(length) > most) return undefined;
  return [network, Number(length)];
}

/** Only the plain spellings: four decimal parts, or IPv6 without a zone. */
function parsePlain(text: string): Address | undefined {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text);
  if (text.includes(':') && !text.includes('%') && ipaddr.IPv6.isValid(text)) {
    return ipaddr.IPv6.parse(text);
  }
  return undefined;
}

export class AddressGuard {
  readonly #allow: readonly AllowEntry[];
  readonly #own: ReadonlySet<string>;

  /** @param ownAddresses those of this machine's interfaces, refused even where they are public */
  constructor(allow: readonly AllowEntry[], ownAddresses: readonly string[] = []) {
    this.#allow = allow;
    this.#own = new Set(ownAddresses.flatMap((text) => parsePlain(text)?.toString() ?? []));
  }

  /** Judges one address as a resolver or a socket gives it. What cannot be read is refused. */
  judge(text: string, organizationId: string): AddressVerdict {
    const parsed = parsePlain(text);
    if (!parsed) return { verdict: 'refused', address: text, why: 'it is not an address' };
    const address = unmapped(parsed);
    const plain = address.toString();
    const family = address.kind() === 'ipv4' ? 4 : 6;
    if (this.#isAllowed(address, organizationId)) {
      return { verdict: 'allowed', address: plain, family };
    }
    const why = this.#own.has(plain) ? 'it is this machine' : whyNotPublic(address);
    if (why) return { verdict: 'refused', address: plain, why };
    return { verdict: 'public', address: plain, family };
  }

  /** Whether some private address may be reached for the organization, so `http:` can make sense. */
  allowsAnything(organizationId: string): boolean {
    return this.#allow.some((entry) => entry.organizations?.has(organizationId) ?? true);
  }

  /**
   * Judges a URL as a person typed it. A name is judged only by its spelling here; its addresses
   * are judged when they are known, which is at each delivery.
   */
  judgeUrl(text: string, organizationId: string): UrlVerdict {
    const wrong = (code: UrlErrorCode, message: string) => ({ ok: false, code, message }) as const;
    if (text.length > webhookUrlMaxLength) {
      return wrong('too_long', `must have at most ${webhookUrlMaxLength} characters`);
    }
    // The WHATWG parser drops tabs and line breaks and reads a backslash as a slash.
    if (/[\p{Cc}\p{Zs}\p{Zl}\p{Zp}\\]/u.test(text)) {
      return wrong('malformed', 'must not hold spaces, control characters or backslashes');
    }
    if (!/^https?:\/\/[^/]/i.test(text)) {
      return /^[a-z][a-z0-9+.-]*:/i.test(text) && !/^https?:/i.test(text)
        ? wrong('scheme', 'must start with https://')
        : wrong('malformed', 'must be a URL that starts with https://');
    }
    let url: URL;
    try {
      url = new URL(text);
    } catch {
      return wrong('malformed', 'is not a URL with a host');
    }
    if (url.username !== '' || url.password !== '' || /^https?:\/\/[^/?#]*@/i.test(text)) {
      return wrong('credentials', 'must not hold a user name or a password');
    }
    url.hash = '';
    const secure = url.protocol === 'https:';
    const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
    const usual = secure ? 443 : 80;
    if ((port < 1_024 && port !== usual) || otherProtocolPorts.has(port)) {
      return wrong(
        'port',
        `must use port ${usual} or one from 1024 that is not another protocol's`,
      );
    }
    const hostname = url.hostname.replace(/^\[|\]$/g, '');
    const literal =
      url.hostname.startsWith('[') || ipaddr.IPv4.isValidFourPartDecimal(hostname)
        ? this.judge(hostname, organizationId)
        : undefined;
    if (literal?.verdict === 'refused') {
      return wrong('refused_address', `leads to ${literal.address}: ${literal.why}`);
    }
    if (!literal && !isHostName(hostname)) {
      return wrong('host', 'has a host that is neither a name nor an address');
    }
    if (!literal && isLoopbackName(hostname) && !this.#allowsLoopback(organizationId)) {
      return wrong('refused_address', `leads to ${hostname}: it is this machine`);
    }
    if (
      !secure &&
      (literal ? literal.verdict !== 'allowed' : !this.allowsAnything(organizationId))
    ) {
      return wrong('insecure', 'must start with https://');
    }
    return { ok: true, url, hostname, port, secure, literal };
  }

  #allowsLoopback(organizationId: string): boolean {
    return ['127.0.0.1', '::1'].some((ip) => this.judge(ip, organizationId).verdict === 'allowed');
  }

  #isAllowed(address: Address, organizationId: string): boolean {
    return this.#allow.some(
      (entry) =>
        (entry.organizations?.has(organizationId) ?? true) &&
        entry.network.kind() === address.kind() &&
        address.match(entry.network as never, entry.prefixLength),
    );
  }
}

/** `localhost` and names below it are this machine whatever a resolver says (RFC 6761). */
export function isLoopbackName(hostname: string): boolean {
  return /(^|\.)localhost\.?$/.test(hostname);
}

function isHostName(hostname: string): boolean {
  return (
    hostname.length <= 254 &&
    /^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}\.?$/.test(hostname)
  );
}

function unmapped(address: Address): Address {
  return address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress()
    ? address.toIPv4Address()
    : address;
}

const rangeNames: Record<string, string> = {
  unspecified: 'it names no machine',
  broadcast: 'it is a broadcast address',
  multicast: 'it is a multicast address',
  linkLocal: 'it is a link-local address, as cloud metadata services have',
  loopback: 'it is this machine',
  carrierGradeNat: 'it is in the shared address space of providers',
  private: 'it is a private address',
  uniqueLocal: 'it is a private address',
};

function whyNotPublic(address: Address): string | undefined {
  const range = address.range() as string;
  if (address instanceof ipaddr.IPv4) {
    // Azure's metadata and DNS service answers on an address that looks public.
    if (address.toString() === '168.63.129.16') return 'it is a metadata service';
    return range === 'unicast' ? undefined : (rangeNames[range] ?? 'it is a reserved address');
  }
  // DNS64 gives IPv6-only machines this form of ordinary IPv4 receivers: the inner one decides.
  if (address.match(ipaddr.IPv6.parse('64:ff9b::'), 96)) {
    return whyNotPublic(new ipaddr.IPv4(address.toByteArray().slice(12)));
  }
  if (range !== 'unicast') return rangeNames[range] ?? 'it is a reserved or embedding address';
  if (!address.match(ipaddr.IPv6.parse('2000::'), 3)) return 'it is not a public address';
  // ISATAP interface ids carry an IPv4 address that the router of the site tunnels to.
  const [high = 0, low = 0] = [address.parts[4], address.parts[5]];
  if ((high & 0xfdff) === 0 && low === 0x5efe) {
    return whyNotPublic(new ipaddr.IPv4(address.toByteArray().slice(12)));
  }
  return undefined;
}

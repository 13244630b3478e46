/** Which networks an address belongs to. */
import ipaddr from 'ipaddr.js';
import { canonicalRange } from './policy-document.ts';

type Address = ipaddr.IPv4 | ipaddr.IPv6;

export interface Located {
  /** As Cedar writes it: an IPv4 address that came in an IPv6 coat is told as what it is. */
  address: string;
  networks: readonly string[];
}

const builtIn: Record<string, string> = {
  loopback: 'loopback',
  private: 'private',
  uniqueLocal: 'private',
  linkLocal: 'private',
  carrierGradeNat: 'private',
  unicast: 'public',
};

export class Networks {
  readonly #ranges: { name: string; base: Address; bits: number }[] = [];
  readonly #located = new Map<string, Located | undefined>();

  constructor(named: Readonly<Record<string, readonly string[]>>) {
    for (const [name, ranges] of Object.entries(named)) {
      for (const range of ranges) {
        const written = canonicalRange(range) ?? '';
        const [base, bits] = written.includes('/')
          ? ipaddr.parseCIDR(written)
          : [ipaddr.parse(written), written.includes(':') ? 128 : 32];
        this.#ranges.push({ name, base: base as Address, bits: bits as number });
      }
    }
  }

  /** Undefined for what is no address. */
  locate(text: string): Located | undefined {
    if (this.#located.has(text)) return this.#located.get(text);
    const located = this.#find(text);
    if (this.#located.size >= 10_000) this.#located.clear();
    this.#located.set(text, located);
    return located;
  }

  #find(text: string): Located | undefined {
    const percent = text.indexOf('%');
    const written = percent < 0 ? text : text.slice(0, percent);
    if (!ipaddr.IPv4.isValidFourPartDecimal(written) && !ipaddr.IPv6.isValid(written)) {
      return undefined;
    }
    const address = ipaddr.process(written);
    const networks = new Set<string>();
    const kind = builtIn[address.range()];
    if (kind !== undefined) networks.add(kind);
    for (const { name, base, bits } of this.#ranges) {
      if (
        base.kind() === address.kind() &&
        (address as ipaddr.IPv4).match(base as ipaddr.IPv4, bits)
      ) {
        networks.add(name);
      }
    }
    return { address: address.toString(), networks: [...networks].sort() };
  }
}

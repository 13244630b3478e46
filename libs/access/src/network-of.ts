/** What one customer of a network provider holds: an IPv4 address, or the first 64 bits of an IPv6 one. */
import { isIPv4, isIPv6 } from 'node:net';

const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;

export function networkOf(address: string): string {
  const bare = address.split('%')[0] as string;
  const inside = mapped.exec(bare)?.[1];
  if (inside && isIPv4(inside)) return inside;
  if (!isIPv6(bare)) return bare;
  const [head = '', tail] = bare.toLowerCase().split('::');
  const groups = head === '' ? [] : head.split(':');
  // An address in which `::` stands for the rest has zeros there.
  const filled = tail === undefined ? groups : fill(groups, tail);
  const network = filled.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${network.join(':')}::/64`;
}

function fill(head: string[], tail: string): string[] {
  const rest = tail === '' ? [] : tail.split(':');
  // A dotted end stands for two groups.
  const length = head.length + rest.length + (rest.at(-1)?.includes('.') ? 1 : 0);
  return [...head, ...Array<string>(Math.max(0, 8 - length)).fill('0'), ...rest];
}

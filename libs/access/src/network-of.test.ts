import fc from 'fast-check';
import { expect, test } from 'vitest';
import { networkOf } from './network-of.ts';

test('every spelling of an IPv6 address is in the network of its first 64 bits', () => {
  for (const address of [
    '2001:db8:0:1::1',
    '2001:0DB8:0000:0001:ffff:ffff:ffff:ffff',
    '2001:db8:0:1:0:0:192.0.2.1',
    '2001:db8::1:0:0:192.0.2.1',
    '2001:db8:0:1::%eth0',
  ]) {
    expect(networkOf(address), address).toBe('2001:db8:0:1::/64');
  }
  expect(networkOf('::1')).toBe('0:0:0:0::/64');
  expect(networkOf('fe80::1')).toBe('fe80:0:0:0::/64');
});

test('an IPv4 address is its own network, also when it is spelt as IPv6', () => {
  expect(networkOf('192.0.2.7')).toBe('192.0.2.7');
  expect(networkOf('::ffff:192.0.2.7')).toBe('192.0.2.7');
});

test('two addresses are in one network exactly when their first 64 bits are equal', () => {
  const group = fc.integer({ min: 0, max: 0xffff });
  const spelt = (groups: number[]) => groups.map((part) => part.toString(16)).join(':');
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), group, fc.nat(7), (...given) => {
      const [groups, value, index] = given;
      const other = groups.with(index, value);
      const same = index >= 4 || groups[index] === value;
      // The host of a URL is the shortest spelling.
      const short = new URL(`http://[${spelt(other)}]`).hostname.slice(1, -1);
      fc.pre(!short.startsWith('::ffff:') && !spelt(groups).startsWith('0:0:0:0:0:ffff:'));
      expect(networkOf(spelt(groups)) === networkOf(short)).toBe(same);
    }),
  );
});

test('what is no address is taken as it stands', () => {
  expect(networkOf('unknown')).toBe('unknown');
});

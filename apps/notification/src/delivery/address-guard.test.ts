import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressGuard, parseAllowList } from './address-guard.ts';
import { insideAddresses, insideHosts } from './inside-spellings.fixture.ts';

const one = 'org_01h455vb4pex5vsknk084sn02q';
const other = 'org_01h455vb4pex5vsknk084sn02r';
const closed = new AddressGuard([]);

describe('addresses', () => {
  it('inside are refused in every embedding', () => {
    const passed = insideAddresses.filter((text) => closed.judge(text, one).verdict !== 'refused');
    expect(passed).toEqual([]);
    expect(insideAddresses.length).toBeGreaterThan(200);
  });

  it('that are public pass, also as DNS64 and mapped spell them', () => {
    const expected = {
      '1.1.1.1': '1.1.1.1',
      '93.184.215.14': '93.184.215.14',
      '172.15.255.255': '172.15.255.255',
      '172.32.0.1': '172.32.0.1',
      '100.63.255.255': '100.63.255.255',
      '100.128.0.1': '100.128.0.1',
      '::ffff:1.1.1.1': '1.1.1.1',
      '64:ff9b::1.1.1.1': '64:ff9b::101:101',
      '2606:4700:4700::1111': '2606:4700:4700::1111',
      '2a00:1450:4001:830::200e': '2a00:1450:4001:830::200e',
    };
    for (const [text, address] of Object.entries(expected)) {
      expect(closed.judge(text, one)).toMatchObject({ verdict: 'public', address });
    }
  });

  it('that cannot be read are refused, never thrown', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(['refused', 'public']).toContain(closed.judge(text, one).verdict);
      }),
    );
    for (const text of ['', 'localhost', '127.1', '0x7f.0.0.1', '2130706433', 'fe80::1%eth0']) {
      expect(closed.judge(text, one).verdict).toBe('refused');
    }
  });

  it('of this very machine are refused even where they are public', () => {
    const guard = new AddressGuard([], ['203.0.113.9', '8.8.4.4', '2606:4700::1', 'fe80::1%eth0']);
    expect(guard.judge('8.8.4.4', one).verdict).toBe('refused');
    expect(guard.judge('::ffff:8.8.4.4', one).verdict).toBe('refused');
    expect(guard.judge('2606:4700::1', one).verdict).toBe('refused');
    expect(guard.judge('8.8.8.8', one).verdict).toBe('public');
  });

  it('refused say why', () => {
    for (const [address, why] of [
      ['127.0.0.1', 'this machine'],
      ['169.254.169.254', 'metadata'],
      ['168.63.129.16', 'metadata'],
      ['10.1.2.3', 'private'],
      ['fd00::1', 'private'],
      ['224.0.0.1', 'multicast'],
      ['100.64.0.1', 'shared address space'],
    ] as const) {
      const verdict = closed.judge(address, one);
      expect(verdict.verdict === 'refused' && verdict.why).toContain(why);
    }
  });
});

describe('URLs', () => {
  it('never lead inside, in none of more than 400 spellings', () => {
    expect(new Set(insideHosts).size).toBeGreaterThan(400);
    const passed = insideHosts
      .flatMap((host) => [`https://${host}/hook`, `https://${host}:8443/`, `http://${host}/hook`])
      .filter((url) => closed.judgeUrl(url, one).ok);
    expect(passed).toEqual([]);
  });

  it('of public receivers pass and are normalised', () => {
    for (const [text, normalised] of [
      ['https://hooks.example.com/a?b=c', 'https://hooks.example.com/a?b=c'],
      ['HTTPS://Hooks.Example.COM:443/a#part', 'https://hooks.example.com/a'],
      ['https://1.1.1.1:8443/', 'https://1.1.1.1:8443/'],
      ['https://[2606:4700:4700::1111]/x', 'https://[2606:4700:4700::1111]/x'],
      ['https://bücher.example/', 'https://xn--bcher-kva.example/'],
      ['https://a_b.example/', 'https://a_b.example/'],
    ] as const) {
      const verdict = closed.judgeUrl(text, one);
      expect(verdict.ok && verdict.url.href).toBe(normalised);
    }
  });

  it('are refused with what is wrong', () => {
    for (const [text, code] of [
      ['', 'malformed'],
      ['hooks.example.com', 'malformed'],
      ['https://', 'malformed'],
      ['https:example.com', 'malformed'],
      ['https:///example.com', 'malformed'],
      ['https://exa mple.com/', 'malformed'],
      ['https://example.com/a\nb', 'malformed'],
      ['https://example.com\\@1.1.1.1/', 'malformed'],
      ['https://example.com:99999/', 'malformed'],
      ['https://[::1/', 'malformed'],
      ['https://[fe80::1%25eth0]/', 'malformed'],
      ['https://exa\u0000mple.com/', 'malformed'],
      ['ftp://example.com/', 'scheme'],
      ['javascript:alert(1)', 'scheme'],
      ['file:///etc/passwd', 'scheme'],
      ['unix:///run/docker.sock', 'scheme'],
      ['http://example.com/', 'insecure'],
      ['https://user:pass@example.com/', 'credentials'],
      ['https://user@example.com/', 'credentials'],
      ['https://@example.com/', 'credentials'],
      ['https://example.com:22/', 'port'],
      ['https://example.com:80/', 'port'],
      ['https://example.com:6667/', 'port'],
      ['https://example.com:0/', 'port'],
      ['https://exa$mple.com/', 'host'],
      [`https://example.com/${'a'.repeat(2_048)}`, 'too_long'],
      ['https://127.0.0.1/', 'refused_address'],
    ] as const) {
      const verdict = closed.judgeUrl(text, one);
      expect([text, verdict.ok ? 'passed' : verdict.code]).toEqual([text, code]);
      expect(!verdict.ok && verdict.message.length).toBeGreaterThan(10);
    }
  });

  it('of any shape get a verdict, never an exception', () => {
    fc.assert(
      fc.property(fc.oneof(fc.webUrl(), fc.string(), fc.string({ unit: 'binary' })), (text) => {
        expect(typeof closed.judgeUrl(text, one).ok).toBe('boolean');
        expect(typeof closed.judgeUrl(`https://${text}/`, one).ok).toBe('boolean');
      }),
    );
  });
});

describe('the allow list', () => {
  const guard = new AddressGuard(
    parseAllowList(
      `10.20.0.0/16, 127.0.0.1 ,fd12:3456::/32,192.168.7.9@${one}+${other},172.16.0.0/12@${other}`,
    ),
  );

  it('lets private receivers be reached, there also by http', () => {
    expect(guard.judge('10.20.30.40', one)).toMatchObject({ verdict: 'allowed' });
    expect(guard.judge('::ffff:10.20.30.40', one)).toMatchObject({
      verdict: 'allowed',
      address: '10.20.30.40',
      family: 4,
    });
    expect(guard.judge('fd12:3456::9', one)).toMatchObject({ verdict: 'allowed', family: 6 });
    expect(guard.judgeUrl('http://10.20.0.1/hook', one).ok).toBe(true);
    expect(guard.judgeUrl('http://localhost:8025/hook', one).ok).toBe(true);
    expect(guard.judgeUrl('https://10.20.0.1/hook', one).ok).toBe(true);
  });

  it('opens nothing beside what it names', () => {
    expect(guard.judge('10.21.0.1', one).verdict).toBe('refused');
    expect(guard.judge('127.0.0.2', one).verdict).toBe('refused');
    expect(guard.judge('64:ff9b::10.20.30.40', one).verdict).toBe('refused');
    expect(guard.judge('2002:a14:1e28::1', one).verdict).toBe('refused');
    expect(guard.judgeUrl('http://1.1.1.1/hook', one)).toMatchObject({ code: 'insecure' });
  });

  it('holds for the named organizations alone', () => {
    expect(guard.judge('192.168.7.9', one).verdict).toBe('allowed');
    expect(guard.judge('192.168.7.9', other).verdict).toBe('allowed');
    expect(guard.judge('172.16.0.1', other).verdict).toBe('allowed');
    expect(guard.judge('172.16.0.1', one).verdict).toBe('refused');
    expect(guard.judge('192.168.7.9', 'org_01h455vb4pex5vsknk084sn02s').verdict).toBe('refused');
    const limited = new AddressGuard(parseAllowList(`10.0.0.0/8@${other}`));
    expect(limited.judgeUrl('http://inside.example/', one)).toMatchObject({ code: 'insecure' });
    expect(limited.judgeUrl('http://inside.example/', other).ok).toBe(true);
  });

  it('that cannot be read stops the start and names the entry', () => {
    expect(parseAllowList('')).toEqual([]);
    expect(parseAllowList(' , ')).toEqual([]);
    for (const text of [
      'localhost',
      '10.0.0.0/33',
      '10.0.0/8',
      '10.0.0.0/8/8',
      '0x0a.0.0.0/8',
      'fd00::/129',
      'fe80::1%eth0',
      '10.0.0.0/8@',
      '10.0.0.0/8@acme',
      `10.0.0.0/8@${one}@${other}`,
      `10.0.0.0/8@${one}+`,
    ]) {
      expect(() => parseAllowList(`10.1.0.0/16,${text}`)).toThrow(text.trim());
    }
  });
});

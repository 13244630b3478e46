/** A certificate authority for tests, which also issues what no authority should. */
import 'reflect-metadata';
import { createPrivateKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto';
import { newUuid } from '@keystead/contracts/ids';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
  X509CrlGenerator,
} from '@peculiar/x509';
import type { ClientTrust } from './link-client.ts';
import type { ServerTrust } from './link-server.ts';
import { formatAgentUri } from './peer-identity.ts';

cryptoProvider.set(webcrypto);
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

export { ExtendedKeyUsage, Pkcs10CertificateRequest } from '@peculiar/x509';

export const testTrustDomain = 'keystead.test';

export interface IssueOptions {
  names?: JsonGeneralName[];
  usages?: ExtendedKeyUsage[];
  notBefore?: Date;
  notAfter?: Date;
  /** Signed by the root, by the intermediate, or by itself. */
  issuer?: 'root' | 'intermediate' | 'self';
  /** Used instead of a fresh key, for fleets. */
  keys?: webcrypto.CryptoKeyPair;
}

export interface Issued {
  /** PEM of the leaf alone. */
  certificate: string;
  /** PEM: leaf and intermediate. */
  certificateChain: string;
  privateKey: string;
  key: KeyObject;
}

export interface TestAgent extends Issued {
  organizationId: string;
  agentId: string;
}

export class TestAuthority {
  readonly #root: X509Certificate;
  readonly #rootKeys: webcrypto.CryptoKeyPair;
  readonly #intermediate: X509Certificate;
  readonly #intermediateKeys: webcrypto.CryptoKeyPair;

  private constructor(
    root: X509Certificate,
    rootKeys: webcrypto.CryptoKeyPair,
    intermediate: X509Certificate,
    intermediateKeys: webcrypto.CryptoKeyPair,
  ) {
    this.#root = root;
    this.#rootKeys = rootKeys;
    this.#intermediate = intermediate;
    this.#intermediateKeys = intermediateKeys;
  }

  static async create(name = 'Test'): Promise<TestAuthority> {
    const rootKeys = await generateKeys();
    const intermediateKeys = await generateKeys();
    const notBefore = new Date(Date.now() - 60_000);
    const notAfter = new Date(Date.now() + 10 * 365 * 86_400_000);
    const root = await X509CertificateGenerator.createSelfSigned({
      serialNumber: serial(),
      name: `CN=${name} Root`,
      notBefore,
      notAfter,
      signingAlgorithm: algorithm,
      keys: rootKeys,
      extensions: [
        new BasicConstraintsExtension(true, 1, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(rootKeys.publicKey),
      ],
    });
    const intermediate = await X509CertificateGenerator.create({
      serialNumber: serial(),
      subject: `CN=${name} Intermediate`,
      issuer: root.subject,
      notBefore,
      notAfter,
      signingAlgorithm: algorithm,
      publicKey: intermediateKeys.publicKey,
      signingKey: rootKeys.privateKey,
      extensions: [
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(intermediateKeys.publicKey),
        await AuthorityKeyIdentifierExtension.create(rootKeys.publicKey),
      ],
    });
    return new TestAuthority(root, rootKeys, intermediate, intermediateKeys);
  }

  get root(): string {
    return this.#root.toString('pem');
  }

  get rootDer(): Buffer {
    return Buffer.from(this.#root.rawData);
  }

  get intermediate(): string {
    return this.#intermediate.toString('pem');
  }

  async issue(options: IssueOptions = {}): Promise<Issued> {
    const keys = options.keys ?? (await generateKeys());
    return this.#finish(keys, await this.#certify(keys.publicKey, options));
  }

  /** A certificate for a public key that came in a request. */
  async certify(publicKey: webcrypto.CryptoKey, options: IssueOptions): Promise<string> {
    return (await this.#certify(publicKey, options)).toString('pem');
  }

  /** PEM: what an authority of this one has revoked. @param signedBy who signs it instead of its issuer */
  async revocationList(
    issuer: 'root' | 'intermediate',
    options: {
      revoked?: readonly string[];
      until?: Date;
      signedBy?: TestAuthority;
    } = {},
  ): Promise<string> {
    const { revoked = [], until = new Date(Date.now() + 86_400_000), signedBy = this } = options;
    const isRoot = issuer === 'root';
    const list = await X509CrlGenerator.create({
      issuer: (isRoot ? this.#root : this.#intermediate).subject,
      thisUpdate: new Date(Math.min(Date.now(), until.getTime()) - 60_000),
      nextUpdate: until,
      entries: revoked.map((pem) => ({
        serialNumber: new X509Certificate(pem).serialNumber,
        revocationDate: new Date(Date.now() - 60_000),
      })),
      signingAlgorithm: algorithm,
      signingKey: (isRoot ? signedBy.#rootKeys : signedBy.#intermediateKeys).privateKey,
    });
    // What OpenSSL knows it by.
    return list.toString('pem').replaceAll(/(BEGIN|END) CRL/g, '$1 X509 CRL');
  }

  async #certify(publicKey: webcrypto.CryptoKey, options: IssueOptions): Promise<X509Certificate> {
    const issuer = options.issuer ?? 'intermediate';
    const extensions: Extension[] = [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension(options.usages ?? [ExtendedKeyUsage.clientAuth]),
    ];
    if (options.names !== undefined && options.names.length > 0) {
      extensions.push(new SubjectAlternativeNameExtension(options.names));
    }
    return X509CertificateGenerator.create({
      serialNumber: serial(),
      subject: 'CN=test',
      issuer:
        issuer === 'root'
          ? this.#root.subject
          : issuer === 'self'
            ? 'CN=test'
            : this.#intermediate.subject,
      notBefore: options.notBefore ?? new Date(Date.now() - 300_000),
      notAfter: options.notAfter ?? new Date(Date.now() + 7 * 86_400_000),
      signingAlgorithm: algorithm,
      publicKey,
      signingKey: issuer === 'root' ? this.#rootKeys.privateKey : this.#intermediateKeys.privateKey,
      extensions,
    });
  }

  async #finish(keys: webcrypto.CryptoKeyPair, certificate: X509Certificate): Promise<Issued> {
    const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
    const key = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
    const pem = certificate.toString('pem');
    return {
      certificate: pem,
      certificateChain: `${pem}\n${this.intermediate}\n`,
      privateKey: key.export({ type: 'pkcs8', format: 'pem' }) as string,
      key,
    };
  }

  async issueAgent(
    options: IssueOptions & { organizationId?: string; agentId?: string } = {},
  ): Promise<TestAgent> {
    const organizationId = options.organizationId ?? newUuid();
    const agentId = options.agentId ?? newUuid();
    const uri = formatAgentUri(testTrustDomain, organizationId, agentId);
    const issued = await this.issue({ names: [{ type: 'url', value: uri }], ...options });
    return { ...issued, organizationId, agentId };
  }

  async issueServer(options: IssueOptions = {}): Promise<ServerTrust> {
    const issued = await this.issue({
      names: [
        { type: 'dns', value: 'localhost' },
        { type: 'ip', value: '127.0.0.1' },
      ],
      usages: [ExtendedKeyUsage.serverAuth],
      ...options,
    });
    return {
      certificateChain: `${issued.certificateChain}${this.root}\n`,
      privateKey: issued.privateKey,
      authorities: [this.root, this.intermediate],
    };
  }

  clientTrust(identity?: Issued): ClientTrust {
    return {
      root: this.root,
      ...(identity === undefined
        ? {}
        : {
            identity: {
              certificateChain: identity.certificateChain,
              privateKey: identity.privateKey,
            },
          }),
    };
  }
}

export async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(algorithm, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
}

function serial(): string {
  return `01${randomBytes(15).toString('hex')}`;
}

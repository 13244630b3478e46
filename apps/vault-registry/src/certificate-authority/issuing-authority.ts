/**
 * The two-level certificate authority, without a database: a root that is needed only to certify
 * the next intermediate and can be kept offline, and an intermediate that issues.
 *
 * Certificates are P-256 with ECDSA and SHA-256. An agent's has one name, its SPIFFE id, for client
 * authentication only; a gateway's has host names and addresses, for server authentication only;
 * so neither can stand in for the other.
 */
import './reflection.ts';
import {
  createHash,
  createPrivateKey,
  type KeyObject,
  X509Certificate as NodeCertificate,
  randomBytes,
  webcrypto,
} from 'node:crypto';
import { isIP } from 'node:net';
import { formatAgentUri } from '@keystead/agent-protocol/peer-identity';
import {
  commandSignerUri,
  organizationSignerUri,
} from '@keystead/agent-protocol/policy-set-signature';
import { limits } from '@keystead/contracts/limits';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  type PublicKey,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const dayMs = 86_400_000;
export const rootLifeMs = 3_652 * dayMs;
export const intermediateLifeMs = 730 * dayMs;
export const agentCertificateLifeMs = limits.certificateTtlSeconds * 1_000;
export const serverCertificateLifeMs = 30 * dayMs;
const backdateMs = limits.certificateBackdateSeconds * 1_000;

/** Time and randomness, so that tests decide both. */
export interface Surroundings {
  nowMs: () => number;
  random: (bytes: number) => Buffer;
}

export const realSurroundings: Surroundings = { nowMs: () => Date.now(), random: randomBytes };

/** A certificate with its private key; the certificate is PEM. */
export interface Authority {
  certificate: string;
  privateKey: KeyObject;
}

export interface IssuedCertificate {
  /** PEM of the leaf. */
  certificate: string;
  /** PEM each: leaf, intermediate, root. */
  chain: [string, string, string];
  /** Lower-case hexadecimal, as the agent link reads it from the handshake. */
  serialNumber: string;
  notBefore: Date;
  notAfter: Date;
}

/** SHA-256 of a certificate's DER, 64 lower-case hexadecimal digits: what an agent pins. */
export function fingerprintOf(certificate: string): string {
  return createHash('sha256').update(new NodeCertificate(certificate).raw).digest('hex');
}

/** A self-signed root of ten years that may have one level of intermediates below it. */
export async function createRoot(
  name: string,
  surroundings: Surroundings = realSurroundings,
): Promise<Authority> {
  const keys = await generateKeys();
  const period = periodOf(surroundings, rootLifeMs);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(surroundings),
    name: [{ CN: [`${name} Root`] }],
    ...period,
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 1, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: pem(certificate), privateKey: await exportKey(keys) };
}

/** An intermediate of two years, certified by the root; it may issue leaves only. */
export async function createIntermediate(
  root: Authority,
  name: string,
  surroundings: Surroundings = realSurroundings,
): Promise<Authority> {
  const keys = await generateKeys();
  const parent = new X509Certificate(root.certificate);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: newSerial(surroundings),
    subject: [{ CN: [`${name} Intermediate`] }],
    issuer: parent.subjectName,
    ...periodOf(surroundings, intermediateLifeMs, parent.notAfter),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey: await importKey(root.privateKey),
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      await AuthorityKeyIdentifierExtension.create(parent.publicKey),
    ],
  });
  return { certificate: pem(certificate), privateKey: await exportKey(keys) };
}

/** Issues under one intermediate. Holds its private key in memory, and no other state. */
export class IssuingAuthority {
  readonly root: string;
  readonly intermediate: string;
  readonly trustDomain: string;
  /** Of the root: what an agent pins. */
  readonly fingerprint: string;
  readonly #parent: X509Certificate;
  readonly #signingKey: webcrypto.CryptoKey;
  readonly #surroundings: Surroundings;

  private constructor(
    root: string,
    intermediate: string,
    trustDomain: string,
    signingKey: webcrypto.CryptoKey,
    surroundings: Surroundings,
  ) {
    this.root = root;
    this.intermediate = intermediate;
    this.trustDomain = trustDomain;
    this.fingerprint = fingerprintOf(root);
    this.#parent = new X509Certificate(intermediate);
    this.#signingKey = signingKey;
    this.#surroundings = surroundings;
  }

  /** @throws where the intermediate is not certified by the root or the key is not its key */
  static async open(
    root: string,
    intermediate: Authority,
    trustDomain: string,
    surroundings: Surroundings = realSurroundings,
  ): Promise<IssuingAuthority> {
    const parent = new NodeCertificate(intermediate.certificate);
    const top = new NodeCertificate(root);
    if (!parent.checkIssued(top) || !parent.verify(top.publicKey)) {
      throw new Error('the intermediate is not certified by the root');
    }
    if (!parent.checkPrivateKey(intermediate.privateKey)) {
      throw new Error('the private key is not the key of the intermediate');
    }
    return new IssuingAuthority(
      root,
      intermediate.certificate,
      trustDomain,
      await importKey(intermediate.privateKey),
      surroundings,
    );
  }

  /** A certificate of seven days for client authentication. Ids are uuids. */
  issueAgentCertificate(
    publicKey: PublicKey,
    agent: { organizationId: string; agentId: string },
  ): Promise<IssuedCertificate> {
    const uri = formatAgentUri(this.trustDomain, agent.organizationId, agent.agentId);
    return this.#issue(publicKey, {
      commonName: 'Keystead agent',
      names: [{ type: 'url', value: uri }],
      usage: ExtendedKeyUsage.clientAuth,
      lifeMs: agentCertificateLifeMs,
    });
  }

  /**
   * A certificate of at most thirty days for the agent link's server.
   * @param hosts DNS names and IP addresses, at least one
   */
  issueServerCertificate(publicKey: PublicKey, hosts: string[]): Promise<IssuedCertificate> {
    if (hosts.length === 0) throw new RangeError('a server certificate needs a host');
    return this.#issue(publicKey, {
      commonName: 'Keystead gateway',
      names: [...new Set(hosts)].map((host) =>
        isIP(host) === 0 ? { type: 'dns', value: host } : { type: 'ip', value: host },
      ),
      usage: ExtendedKeyUsage.serverAuth,
      lifeMs: serverCertificateLifeMs,
    });
  }

  /** A certificate of a year for the key that signs an organization's policy sets. Id: a uuid. */
  issuePolicySigner(publicKey: PublicKey, organizationId: string): Promise<IssuedCertificate> {
    return this.#issue(publicKey, {
      commonName: 'Keystead policy sets',
      names: [{ type: 'url', value: organizationSignerUri(this.trustDomain, organizationId) }],
      usage: ExtendedKeyUsage.codeSigning,
      lifeMs: limits.organizationSignerTtlSeconds * 1_000,
    });
  }

  /** A certificate of thirty days for a key that signs what agents are told to do. */
  issueCommandSigner(publicKey: PublicKey): Promise<IssuedCertificate> {
    return this.#issue(publicKey, {
      commonName: 'Keystead commands',
      names: [{ type: 'url', value: commandSignerUri(this.trustDomain) }],
      usage: ExtendedKeyUsage.codeSigning,
      lifeMs: limits.commandSignerTtlSeconds * 1_000,
    });
  }

  async #issue(
    publicKey: PublicKey,
    what: { commonName: string; names: JsonGeneralName[]; usage: ExtendedKeyUsage; lifeMs: number },
  ): Promise<IssuedCertificate> {
    const serialNumber = newSerial(this.#surroundings);
    const period = periodOf(this.#surroundings, what.lifeMs, this.#parent.notAfter);
    const extensions: Extension[] = [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([what.usage]),
      new SubjectAlternativeNameExtension(what.names),
      await SubjectKeyIdentifierExtension.create(publicKey),
      await AuthorityKeyIdentifierExtension.create(this.#parent.publicKey),
    ];
    const certificate = await X509CertificateGenerator.create({
      serialNumber,
      subject: [{ CN: [what.commonName] }],
      issuer: this.#parent.subjectName,
      ...period,
      signingAlgorithm: algorithm,
      publicKey,
      signingKey: this.#signingKey,
      extensions,
    });
    const text = pem(certificate);
    return {
      certificate: text,
      chain: [text, this.intermediate, this.root],
      serialNumber,
      ...period,
    };
  }
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(algorithm, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
}

async function exportKey(keys: webcrypto.CryptoKeyPair): Promise<KeyObject> {
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
}

function importKey(key: KeyObject): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey(
    'pkcs8',
    key.export({ type: 'pkcs8', format: 'der' }),
    algorithm,
    false,
    ['sign'],
  );
}

/** 127 random bits, positive, without a leading zero: sixteen bytes in every notation. */
function newSerial({ random }: Surroundings): string {
  const bytes = random(16);
  bytes.writeUInt8((bytes.readUInt8(0) & 0x3f) | 0x40, 0);
  return bytes.toString('hex');
}

/** Backdated against slow clocks, in whole seconds as X.509 counts, never beyond the issuer. */
function periodOf({ nowMs }: Surroundings, lifeMs: number, issuerNotAfter?: Date) {
  const now = Math.floor(nowMs() / 1_000) * 1_000;
  const latest = issuerNotAfter?.getTime() ?? Number.POSITIVE_INFINITY;
  return {
    notBefore: new Date(now - backdateMs),
    notAfter: new Date(Math.min(now + lifeMs, latest)),
  };
}

function pem(certificate: X509Certificate): string {
  return `${certificate.toString('pem').trim()}\n`;
}

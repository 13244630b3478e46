/**
 * The agent's identity on disk: private key (0600), certificate chain, pinned root. A renewed pair
 * waits in `<key>.pending` until a session proved it. It is the journal of the change as well: key
 * and certificate are two files, and after a crash between them the pending pair is complete.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { ClientTrust } from '@keystead/agent-protocol/link-client';
import { certificateFingerprint } from '@keystead/agent-protocol/link-client';
import { parseAgentUri } from '@keystead/agent-protocol/peer-identity';
import { toId } from '@keystead/contracts/ids';
import { z } from 'zod';
import { makePrivateFolder, removeDurably, writeDurably } from './durable-file.ts';

export interface IdentityPaths {
  certificate: string;
  privateKey: string;
  root: string;
}

export interface Identity {
  privateKey: KeyObject;
  leaf: X509Certificate;
  serialNumber: string;
  notBeforeMs: number;
  notAfterMs: number;
  trust: ClientTrust;
}

/** What the registry said at enrolment; names may have changed since. */
const description = z.object({
  organizationId: z.string(),
  vaultId: z.string(),
  agentId: z.string(),
  vaultName: z.string(),
  agentName: z.string(),
});
export type IdentityDescription = z.infer<typeof description>;

export class IdentityError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'IdentityError';
  }
}

export class IdentityStore {
  readonly #paths: IdentityPaths;
  #current: Identity | undefined;
  #pending: Identity | undefined;

  constructor(paths: IdentityPaths) {
    this.#paths = paths;
  }

  get exists(): boolean {
    return existsSync(this.#paths.privateKey) || existsSync(this.#paths.certificate);
  }

  /** Writes a first identity. The certificate comes last: with it the identity is there. */
  create(
    privateKey: KeyObject,
    certificateChain: Buffer[],
    root: Buffer,
    described: IdentityDescription,
  ): void {
    for (const path of Object.values(this.#paths)) makePrivateFolder(dirname(path));
    writeDurably(this.#paths.root, new X509Certificate(root).toString(), 0o644);
    writeDurably(this.#descriptionPath, `${JSON.stringify(described, null, 2)}\n`, 0o644);
    writeDurably(this.#paths.privateKey, pemOfKey(privateKey), 0o600);
    writeDurably(this.#paths.certificate, pemOfChain(certificateChain), 0o644);
    removeDurably(this.#pendingPath);
  }

  /** @throws IdentityError where there is no usable identity */
  load(): void {
    const root = this.#read(this.#paths.root, 'the pinned root');
    const pending = existsSync(this.#pendingPath)
      ? readPair(readFileSync(this.#pendingPath, 'utf8'), root)
      : undefined;
    const current = readPair(
      `${this.#read(this.#paths.privateKey, 'the private key')}\n${this.#read(this.#paths.certificate, 'the certificate')}`,
      root,
    );
    if (current === undefined) {
      if (pending === undefined) {
        throw new IdentityError(
          `${this.#paths.privateKey} and ${this.#paths.certificate} are not a pair`,
        );
      }
      // The crash was between the two files: the pair had proved itself.
      this.#pending = pending;
      this.promote();
      return;
    }
    this.#current = current;
    this.#pending = pending?.serialNumber === current.serialNumber ? undefined : pending;
  }

  get current(): Identity {
    if (this.#current === undefined) throw new IdentityError('the identity is not loaded');
    return this.#current;
  }

  /** A renewed pair that has not proved itself yet. */
  get pending(): Identity | undefined {
    return this.#pending;
  }

  describe(): IdentityDescription {
    return description.parse(JSON.parse(this.#read(this.#descriptionPath, 'the description')));
  }

  /**
   * Keeps a renewed pair beside the current one.
   * @throws IdentityError where the certificate is not for that key, that agent, or that root
   */
  keepPending(privateKey: KeyObject, certificateChain: Buffer[]): void {
    const text = `${pemOfKey(privateKey)}\n${pemOfChain(certificateChain)}`;
    const pair = readPair(text, this.current.trust.root);
    if (pair === undefined) throw new IdentityError('the new certificate is not for the new key');
    if (pair.leaf.subjectAltName !== this.current.leaf.subjectAltName) {
      throw new IdentityError('the new certificate is for another agent');
    }
    const issuer = certificateChain[1] && new X509Certificate(certificateChain[1]);
    const root = new X509Certificate(this.current.trust.root);
    if (!issuer?.verify(root.publicKey) || !pair.leaf.verify(issuer.publicKey)) {
      throw new IdentityError('the new certificate does not lead to the pinned root');
    }
    writeDurably(this.#pendingPath, text, 0o600);
    this.#pending = pair;
  }

  /** The pending pair proved itself: it replaces the current one. */
  promote(): void {
    const pending = this.#pending;
    if (pending?.trust.identity === undefined) return;
    writeDurably(this.#paths.privateKey, pending.trust.identity.privateKey, 0o600);
    writeDurably(this.#paths.certificate, pending.trust.identity.certificateChain, 0o644);
    removeDurably(this.#pendingPath);
    this.#current = pending;
    this.#pending = undefined;
  }

  /** The pending pair was refused: the current one stays. */
  dropPending(): void {
    this.#pending = undefined;
    removeDurably(this.#pendingPath);
  }

  /** @throws IdentityError where the root is not the one that the configuration pins */
  checkRoot(fingerprint: string): void {
    const root = new X509Certificate(this.current.trust.root);
    if (certificateFingerprint(root.raw) !== fingerprint) {
      throw new IdentityError(`${this.#paths.root} does not have the fingerprint ${fingerprint}`);
    }
  }

  get #pendingPath(): string {
    return `${this.#paths.privateKey}.pending`;
  }

  get #descriptionPath(): string {
    return `${this.#paths.certificate}.json`;
  }

  #read(path: string, what: string): string {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      throw new IdentityError(`${what} cannot be read from ${path}: enrol first`);
    }
  }
}

/** The public ids in a certificate. */
export function agentIdOf(identity: Identity): string {
  const uri = parseAgentUri((identity.leaf.subjectAltName ?? '').replace(/^URI:/, ''));
  return uri === undefined ? '' : toId('agent', uri.agentId);
}

/** A key and a chain in one text, when they belong together. */
function readPair(text: string, root: string): Identity | undefined {
  const certificates = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(text)?.[0];
  if (certificates?.[0] === undefined || key === undefined) return undefined;
  try {
    const leaf = new X509Certificate(certificates[0]);
    const privateKey = createPrivateKey(key);
    if (!leaf.checkPrivateKey(privateKey)) return undefined;
    return {
      privateKey,
      leaf,
      serialNumber: leaf.serialNumber.toLowerCase(),
      notBeforeMs: leaf.validFromDate.getTime(),
      notAfterMs: leaf.validToDate.getTime(),
      trust: {
        root,
        identity: { certificateChain: `${certificates.join('\n')}\n`, privateKey: `${key}\n` },
      },
    };
  } catch {
    return undefined;
  }
}

function pemOfKey(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }) as string;
}

function pemOfChain(chain: Buffer[]): string {
  return chain.map((der) => new X509Certificate(der).toString()).join('');
}

/** The audit's own key (Ed25519): it signs the heads in the log, whether or not the agent is enrolled. */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type AuditHeadFacts, signAuditHead } from '@keystead/agent-protocol/audit-head';
import { makePrivateFolder, writeDurably } from '../durable-file.ts';

export class AuditSigner {
  readonly #privateKey: KeyObject;
  /** SubjectPublicKeyInfo in DER. */
  readonly publicKey: Buffer;

  constructor(privateKey: KeyObject) {
    this.#privateKey = privateKey;
    this.publicKey = publicKeyOf(privateKey);
  }

  /** Reads the key, or makes one where there is none. @throws where the file is no usable key */
  static atFile(file: string): AuditSigner {
    if (existsSync(file)) return new AuditSigner(createPrivateKey(readFileSync(file)));
    const { privateKey } = generateKeyPairSync('ed25519');
    makePrivateFolder(dirname(file));
    writeDurably(file, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 0o600);
    return new AuditSigner(privateKey);
  }

  sign(head: AuditHeadFacts): Buffer {
    return signAuditHead(head, this.#privateKey);
  }

  signRetirement(retirement: Retirement): Buffer {
    return sign(null, retirementMessage(retirement), this.#privateKey);
  }
}

/** What a line says that lets entries go: nobody without the key can let them go. */
export interface Retirement {
  /** 32 hexadecimal digits. */
  chain: string;
  through: number;
  lastHash: string;
  before: string;
  retentionDays: number;
}

export function isRetirementSignedBy(
  retirement: Retirement,
  signature: Buffer,
  publicKey: Buffer,
): boolean {
  try {
    const key = createPublicKey({ key: publicKey, format: 'der', type: 'spki' });
    return verify(null, retirementMessage(retirement), key, signature);
  } catch {
    return false;
  }
}

/** One line of ASCII; no head begins like it. */
function retirementMessage(retirement: Retirement): Buffer {
  const { chain, through, lastHash, before, retentionDays } = retirement;
  return Buffer.from(
    `keystead.audit-retired.v1\0${chain} ${through} ${lastHash} ${before} ${retentionDays}`,
  );
}

/** Undefined where there is no key to read. */
export function readPublicKey(file: string): Buffer | undefined {
  try {
    return publicKeyOf(createPrivateKey(readFileSync(file)));
  } catch {
    return undefined;
  }
}

function publicKeyOf(privateKey: KeyObject): Buffer {
  return createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
}

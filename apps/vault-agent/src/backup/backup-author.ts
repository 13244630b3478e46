/**
 * Who made a backup. What seals one is a public key or a secret that several have, so that anybody who
 * has it could make one up: a vault therefore signs the manifest, which names the sealed file by its
 * SHA-256, with a key of its own (Ed25519). The key follows from the vault's keys: it is the same for
 * ever and on every agent of the store, and is kept nowhere.
 */
import {
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  sign as signWith,
  verify as verifyWith,
} from 'node:crypto';
import { associatedData } from '@keystead/envelope/aad';
import type { SecretKey } from '@keystead/envelope/keys';
import type { KeyRing } from '../keys/key-ring.ts';
import type { BackupManifest } from './backup-manifest.ts';

const prefix = 'keystead-author-';
export const authorForm = /^keystead-author-[A-Za-z0-9_-]{43}$/;
/** What comes before the 32 bytes of an Ed25519 key in PKCS #8 and SPKI (RFC 8410). */
const privateStart = Buffer.from('302e020100300506032b657004220420', 'hex');
const publicStart = Buffer.from('302a300506032b6570032100', 'hex');

type Facts = Omit<BackupManifest, 'author'>;

export class BackupAuthor {
  readonly #key: KeyObject;
  /** `keystead-author-…`, to be named where its backups are to be taken. */
  readonly publicKey: string;

  /** Of a vault. */
  static of(keys: Pick<KeyRing, 'derive'>): BackupAuthor {
    const seed = keys.derive('backup-author');
    try {
      return new BackupAuthor(seed);
    } finally {
      seed.wipe();
    }
  }

  /** @param seed 32 bytes */
  constructor(seed: SecretKey) {
    const der = Buffer.concat([privateStart, seed.bytes]);
    this.#key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
    der.fill(0);
    const spki = createPublicKey(this.#key).export({ format: 'der', type: 'spki' });
    this.publicKey = `${prefix}${spki.subarray(publicStart.length).toString('base64url')}`;
  }

  sign(facts: Facts): BackupManifest {
    const signature = signWith(null, signedBytes(facts, this.publicKey), this.#key);
    return { ...facts, author: { key: this.publicKey, signature: signature.toString('base64') } };
  }
}

/** The key that the manifest is signed with; undefined where it is not, or not as it is. */
export function authorOf(manifest: BackupManifest): string | undefined {
  const { author, ...facts } = manifest;
  if (author === undefined || !authorForm.test(author.key)) return undefined;
  const bytes = Buffer.from(author.key.slice(prefix.length), 'base64url');
  try {
    const der = Buffer.concat([publicStart, bytes]);
    const key = createPublicKey({ key: der, format: 'der', type: 'spki' });
    const signature = Buffer.from(author.signature, 'base64');
    return verifyWith(null, signedBytes(facts, author.key), key, signature)
      ? author.key
      : undefined;
  } catch {
    return undefined;
  }
}

/** The facts in one order, whatever order they came in. */
function signedBytes(facts: Facts, key: string): Buffer {
  const entries = Object.entries(facts).sort(([one], [other]) => (one < other ? -1 : 1));
  return associatedData('backup-manifest', key, JSON.stringify(entries));
}

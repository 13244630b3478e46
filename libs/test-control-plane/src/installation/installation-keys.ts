/**
 * The keys of one installation, made when it first starts and kept in its state folder, each file with
 * mode 0600. They are never printed and never leave the machine; who takes the folder away takes the
 * installation's identity with it.
 *
 *   SERVICE.key.pem        Ed25519, PKCS#8: signs what the service says to another
 *   public/SERVICE.pem     its public half, read by every service
 *   installation.key       32 random bytes: cursors, session tokens and what lies encrypted in PostgreSQL
 *   ca.key                 32 random bytes: encrypts the certificate authority's keys
 *   database.json          passwords of the two logins the services use
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { serviceNames } from '../infrastructure/infrastructure.ts';

export interface InstallationKeys {
  readonly folder: string;
  readonly publicKeysFolder: string;
  readonly installationKeyFile: string;
  readonly certificateAuthorityKeyFile: string;
  readonly signingKeyFile: (service: string) => string;
  readonly databasePasswords: { readonly service: string; readonly across: string };
  /** Whether they were made now: an installation that never ran before. */
  readonly created: boolean;
}

export function ensureInstallationKeys(folder: string): InstallationKeys {
  const publicKeysFolder = join(folder, 'public');
  mkdirSync(publicKeysFolder, { recursive: true, mode: 0o700 });
  chmodSync(folder, 0o700);
  let created = false;
  const once = (file: string, make: () => string) => {
    if (existsSync(file)) return;
    created = true;
    // Readable by nobody else from its first moment; `wx` never overwrites a key.
    writeFileSync(file, make(), { mode: 0o600, flag: 'wx' });
  };
  const signingKeyFile = (service: string) => join(folder, `${service}.key.pem`);
  for (const service of serviceNames) {
    const publicFile = join(publicKeysFolder, `${service}.pem`);
    if (existsSync(signingKeyFile(service)) && existsSync(publicFile)) continue;
    const { privateKey, publicKey } = generateKeyPairSync('ed25519', {
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    });
    writeFileSync(signingKeyFile(service), privateKey, { mode: 0o600 });
    writeFileSync(publicFile, publicKey, { mode: 0o600 });
    created = true;
  }
  const installationKeyFile = join(folder, 'installation.key');
  const certificateAuthorityKeyFile = join(folder, 'ca.key');
  const databaseFile = join(folder, 'database.json');
  once(installationKeyFile, () => `${randomBytes(32).toString('base64')}\n`);
  once(certificateAuthorityKeyFile, () => `${randomBytes(32).toString('base64')}\n`);
  once(databaseFile, () =>
    JSON.stringify({
      service: randomBytes(24).toString('hex'),
      across: randomBytes(24).toString('hex'),
    }),
  );
  return {
    folder,
    publicKeysFolder,
    installationKeyFile,
    certificateAuthorityKeyFile,
    signingKeyFile,
    databasePasswords: JSON.parse(readFileSync(databaseFile, 'utf8')),
    created,
  };
}

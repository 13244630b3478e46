/** From what vault.yaml says about storage and keys to what opens them. */
import type { KeyProviderConfiguration } from '@keystead/envelope/key-provider-configuration';
import type { SqlOptions } from '@keystead/vault-store/sql/sql-store';
import { type Configuration, ConfigurationError, durationMs } from './configuration.ts';
import { readNamedFile } from './named-file.ts';

type Locate = (path: string) => string;
/** Reads one variable of the environment. */
export type ReadVariable = (name: string) => string | undefined;

export interface SecretSource {
  variable?: string | undefined;
  file?: string | undefined;
}

/** @throws ConfigurationError where it is not there */
export function readSecret(
  source: SecretSource,
  locate: Locate,
  readVariable: ReadVariable,
): string {
  if (source.variable !== undefined) {
    const value = readVariable(source.variable);
    if (value) return value;
    throw new ConfigurationError([`the variable ${source.variable} is not set`]);
  }
  const file = locate(source.file ?? '');
  try {
    const value = readNamedFile(file)
      .toString('utf8')
      .replace(/\r?\n$/, '');
    if (value !== '') return value;
  } catch (error) {
    throw new ConfigurationError([(error as Error).message]);
  }
  throw new ConfigurationError([`${file}: is empty`]);
}

/** @throws ConfigurationError */
export function sqlOptionsOf(
  storage: Configuration['storage'],
  locate: Locate,
  readVariable: ReadVariable,
): SqlOptions {
  if (storage.type === 'sqlite') return { kind: 'sqlite', file: locate(storage.path) };
  return {
    kind: storage.type,
    connectionString:
      storage.connection_string ??
      readSecret(storage.connection_string_from ?? {}, locate, readVariable),
    connectionsMax: storage.max_connections,
    connectTimeoutMs: durationMs(storage.connection_timeout),
  };
}

const located = (source: SecretSource, locate: Locate) =>
  source.file === undefined ? { variable: source.variable } : { file: locate(source.file) };

export function keyProviderOf(
  encryption: Configuration['encryption'],
  locate: Locate,
): KeyProviderConfiguration {
  const { key_management: by, hsm, cloud_kms: cloud } = encryption;
  if (by === 'passphrase' && encryption.passphrase) {
    return { provider: 'passphrase', from: located(encryption.passphrase, locate) };
  }
  if (by === 'environment' && encryption.environment) {
    return { provider: 'environment', variable: encryption.environment.variable };
  }
  if (by === 'command' && encryption.command) {
    const { argv, timeout } = encryption.command;
    const [program = '', ...rest] = argv;
    return { provider: 'command', command: [program, ...rest], timeoutMs: durationMs(timeout) };
  }
  if (by === 'hsm' && hsm) {
    return {
      provider: 'pkcs11',
      library: locate(hsm.library),
      tokenLabel: hsm.token_label,
      keyLabel: hsm.key_label,
      pin: located(hsm.pin, locate),
      create: hsm.create,
      timeoutMs: durationMs(hsm.timeout),
    };
  }
  if (by === 'cloud_kms' && cloud) return cloudKeyOf(cloud, locate);
  return { provider: 'file', path: locate(encryption.key_file), create: true };
}

function cloudKeyOf(
  cloud: NonNullable<Configuration['encryption']['cloud_kms']>,
  locate: Locate,
): KeyProviderConfiguration {
  const timeoutMs = durationMs(cloud.timeout);
  if (cloud.provider === 'aws') {
    const { key_id: keyId, region, endpoint } = cloud;
    return { provider: 'aws-kms', keyId, region, timeoutMs, ...(endpoint ? { endpoint } : {}) };
  }
  if (cloud.provider === 'gcp') {
    const { key_name: keyName, endpoint, credentials_file: file } = cloud;
    return {
      provider: 'gcp-kms',
      keyName,
      timeoutMs,
      ...(endpoint ? { endpoint } : {}),
      ...(file ? { keyFile: locate(file) } : {}),
    };
  }
  const { vault_url: vaultUrl, key_name: keyName } = cloud;
  return { provider: 'azure-key-vault', vaultUrl, keyName, timeoutMs };
}

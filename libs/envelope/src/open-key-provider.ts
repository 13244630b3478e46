/** From what a configuration says to the provider. Only what is configured is loaded. */
import { readFileSync } from 'node:fs';
import { type KeyProvider, KeyProviderError, type KeyProviderKind } from './key-provider.ts';
import type { KeyProviderConfiguration } from './key-provider-configuration.ts';
import { envelopeLimits as limits } from './limits.ts';

/**
 * @param readVariable reads one variable of the environment: whoever may do that is the configuration
 * @throws KeyProviderError where the provider cannot be opened
 */
export async function openKeyProvider(
  configuration: KeyProviderConfiguration,
  readVariable: (name: string) => string | undefined,
): Promise<KeyProvider> {
  switch (configuration.provider) {
    case 'file': {
      const { openFileKey } = await import('./providers/file.ts');
      return openFileKey(configuration);
    }
    case 'passphrase': {
      const { openPassphrase } = await import('./providers/passphrase.ts');
      const { value, location } = readSecret('passphrase', configuration.from, readVariable);
      return openPassphrase({ passphrase: value, location });
    }
    case 'environment': {
      const { openEnvironmentKey } = await import('./providers/environment.ts');
      const { variable } = configuration;
      return openEnvironmentKey({ name: variable, value: readVariable(variable) });
    }
    case 'command': {
      const { openCommandKey } = await import('./providers/command.ts');
      const { command, timeoutMs } = configuration;
      return openCommandKey({ command, ...(timeoutMs === undefined ? {} : { timeoutMs }) });
    }
    case 'aws-kms': {
      const { openAwsKms } = await import('./providers/aws-kms.ts');
      const { keyId, region, endpoint, timeoutMs } = configuration;
      return openAwsKms({
        keyId,
        region,
        ...(endpoint === undefined ? {} : { endpoint }),
        ...(timeoutMs === undefined ? {} : { call: { timeoutMs } }),
      });
    }
    case 'gcp-kms': {
      const { openGcpKms } = await import('./providers/gcp-kms.ts');
      const { keyName, endpoint, keyFile, timeoutMs } = configuration;
      return openGcpKms({
        keyName,
        ...(endpoint === undefined ? {} : { endpoint }),
        ...(keyFile === undefined ? {} : { keyFile }),
        ...(timeoutMs === undefined ? {} : { call: { timeoutMs } }),
      });
    }
    case 'azure-key-vault': {
      const { openAzureKeyVault } = await import('./providers/azure-key-vault.ts');
      const { vaultUrl, keyName, timeoutMs } = configuration;
      return openAzureKeyVault({
        vaultUrl,
        keyName,
        ...(timeoutMs === undefined ? {} : { call: { timeoutMs } }),
      });
    }
    case 'pkcs11': {
      const { openPkcs11 } = await import('./providers/pkcs11.ts');
      const { library, tokenLabel, keyLabel, create, timeoutMs } = configuration;
      return openPkcs11({
        library,
        tokenLabel,
        keyLabel,
        create,
        pin: readSecret('pkcs11', configuration.pin, readVariable).value,
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      });
    }
  }
}

function readSecret(
  kind: KeyProviderKind,
  source: { variable?: string | undefined; file?: string | undefined },
  readVariable: (name: string) => string | undefined,
): { value: string; location: string } {
  if (source.variable !== undefined) {
    const value = readVariable(source.variable);
    if (value === undefined || value === '') {
      throw new KeyProviderError(
        kind,
        'key_not_found',
        `the variable ${source.variable} is not set`,
      );
    }
    return { value, location: `the variable ${source.variable}` };
  }
  const file = source.file ?? '';
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    throw new KeyProviderError(
      kind,
      'misconfigured',
      `${file} cannot be read: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`,
    );
  }
  const value = content.replace(/\r?\n$/, '');
  if (value === '' || value.length > limits.maxPasswordBytes) {
    throw new KeyProviderError(kind, 'misconfigured', `${file} is empty or too long`);
  }
  return { value, location: file };
}

/**
 * A version's value as it is stored: 32 random bytes, then the value sealed under the key that these
 * bytes derive from the namespace's. It is bound to the namespace, the secret and the version, so that
 * no row opens in another's place.
 */
import { randomFillSync } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import { associatedData } from '@keystead/envelope/aad';
import { deriveKey, type SecretKey } from '@keystead/envelope/keys';
import { Corrupt, Opener, seal, WrongKey } from '@keystead/envelope/sealed';

export interface VersionPlace {
  namespaceId: string;
  secretId: string;
  version: number;
}

const saltBytes = 32;

export function sealValue(namespaceKey: SecretKey, place: VersionPlace, value: Uint8Array): Buffer {
  const salt = randomFillSync(Buffer.alloc(saltBytes));
  using key = deriveKey(namespaceKey, salt);
  return Buffer.concat([salt, seal(key, value, placeData(place))]);
}

/** What opens one version again and again. @throws ServiceError `internal`: the row was damaged or moved */
export function valueOpener(
  namespaceKey: SecretKey,
  place: VersionPlace,
  stored: Uint8Array,
): Opener {
  const bytes = Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
  if (bytes.length <= saltBytes) throw damaged(place, 'it is too short');
  const key = deriveKey(namespaceKey, bytes.subarray(0, saltBytes));
  try {
    return new Opener(key, bytes.subarray(saltBytes), placeData(place));
  } catch (error) {
    key.wipe();
    throw explained(error, place);
  }
}

/** The value, in memory of its own. @throws ServiceError `internal` */
export function openWith(opener: Opener, place: VersionPlace): Buffer {
  try {
    return opener.open();
  } catch (error) {
    throw explained(error, place);
  }
}

/** @throws ServiceError `internal` */
export function openValue(
  namespaceKey: SecretKey,
  place: VersionPlace,
  stored: Uint8Array,
): Buffer {
  const opener = valueOpener(namespaceKey, place, stored);
  try {
    return openWith(opener, place);
  } finally {
    opener.wipeKey();
  }
}

function explained(error: unknown, place: VersionPlace): unknown {
  const isDamage = error instanceof Corrupt || error instanceof WrongKey;
  return isDamage ? damaged(place, error.message) : error;
}

function placeData({ namespaceId, secretId, version }: VersionPlace): Buffer {
  return associatedData('secret-version', namespaceId, secretId, version);
}

function damaged(place: VersionPlace, reason: string): ServiceError {
  return new ServiceError('internal', {
    detail: 'The stored value is damaged, or not where it belongs',
    internal: `version ${place.version} of ${place.secretId} does not open: ${reason}`,
  });
}

/** Metadata of a record: a small map of strings, not encrypted, by which records are found. */
import { hash } from 'node:crypto';
import { associatedData } from '@keystead/envelope/aad';
import { vaultLimits } from './limits.ts';
import { InvalidData } from './vault-error.ts';

export type RecordData = Readonly<Record<string, string>>;

/** @throws InvalidData */
export function requireData(data: RecordData): RecordData {
  // A list or a Map has entries of other kinds, or none that are seen.
  if (typeof data !== 'object' || data === null || Symbol.iterator in data) {
    throw new InvalidData('it is an object whose values are texts');
  }
  const entries = Object.entries(data);
  const { maxDataEntries, maxDataNameCharacters, maxDataValueCharacters } = vaultLimits;
  if (entries.length > maxDataEntries) {
    throw new InvalidData(`it has at most ${maxDataEntries} entries`);
  }
  for (const [name, value] of entries) {
    if (name === '' || name.length > maxDataNameCharacters || !name.isWellFormed()) {
      throw new InvalidData(`a name has 1 to ${maxDataNameCharacters} characters`);
    }
    if (typeof value !== 'string' || value.length > maxDataValueCharacters) {
      throw new InvalidData(`a value is text of at most ${maxDataValueCharacters} characters`);
    }
    if (!value.isWellFormed()) throw new InvalidData('a value is well-formed text');
  }
  if (Buffer.byteLength(encodeData(data)) > vaultLimits.maxDataBytes) {
    throw new InvalidData(`it has at most ${vaultLimits.maxDataBytes} bytes`);
  }
  return data;
}

/** In one order, so that equal maps are equal texts. */
export function encodeData(data: RecordData): string {
  const names = Object.keys(data).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${JSON.stringify(data[name])}`).join(',')}}`;
}

/** Undefined where the text is no map of strings. */
export function decodeData(text: string): RecordData | undefined {
  if (text === '{}') return {};
  try {
    const data: unknown = JSON.parse(text);
    if (typeof data !== 'object' || data === null || Array.isArray(data)) return undefined;
    const entries = Object.entries(data);
    if (entries.some(([, value]) => typeof value !== 'string')) return undefined;
    return Object.fromEntries(entries);
  } catch {
    return undefined;
  }
}

/** Equality on any database, whatever it thinks of letters: a hash of name and value. */
export function dataTag(name: string, value: string): string {
  return hash('sha256', associatedData('vault data', name, value), 'hex').slice(0, 32);
}

export function dataTags(data: RecordData): string[] {
  return Object.entries(data).map(([name, value]) => dataTag(name, value));
}

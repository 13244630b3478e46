/** A record as callers see it, and as its row holds it. */
import type { Selectable } from 'kysely';
import { decodeData, type RecordData } from './record-data.ts';
import { never, type VaultTable } from './schema.ts';
import { CorruptRecord } from './vault-error.ts';

export interface VaultRecord {
  /** Never changes. */
  readonly id: string;
  /** Never changes. */
  readonly token: string;
  /** The value, encrypted: a password opens it. */
  readonly sealedValue: Uint8Array;
  readonly data: RecordData;
  readonly createdAtMs: number;
  /** Of the value, the metadata or the expiry; a rekey does not show here. */
  readonly updatedAtMs: number;
  readonly expiresAtMs: number | null;
  readonly softDeletedAtMs: number | null;
}

export type RecordColumn = keyof VaultRecord;

/** A record by either of its names; a {@link VaultRecord} is one. */
export type RecordReference = { readonly id: string } | { readonly token: string };

export type VaultRow = Selectable<VaultTable>;

export const columnNames = {
  id: 'id',
  token: 'token',
  sealedValue: 'value',
  data: 'data',
  createdAtMs: 'created_at',
  updatedAtMs: 'updated_at',
  expiresAtMs: 'expires_at',
  softDeletedAtMs: 'soft_deleted_at',
} as const satisfies Record<RecordColumn, keyof VaultTable>;

export const recordColumns = Object.keys(columnNames) as readonly RecordColumn[];

/** @throws CorruptRecord where the metadata is not what was stored */
export function toRecord(row: Partial<VaultRow>): Partial<VaultRecord> {
  const record: { -readonly [Column in RecordColumn]?: VaultRecord[Column] } = {};
  if (row.id !== undefined) record.id = row.id;
  if (row.token !== undefined) record.token = row.token;
  if (row.value !== undefined) record.sealedValue = row.value;
  if (row.data !== undefined) {
    const data = decodeData(row.data);
    if (data === undefined) throw new CorruptRecord(row.id ?? 'without an id');
    record.data = data;
  }
  if (row.created_at !== undefined) record.createdAtMs = row.created_at;
  if (row.updated_at !== undefined) record.updatedAtMs = row.updated_at;
  if (row.expires_at !== undefined) record.expiresAtMs = fromTime(row.expires_at);
  if (row.soft_deleted_at !== undefined) record.softDeletedAtMs = fromTime(row.soft_deleted_at);
  return record;
}

export const fromTime = (stored: number): number | null => (stored === never ? null : stored);
export const toTime = (timeMs: number | null): number => timeMs ?? never;

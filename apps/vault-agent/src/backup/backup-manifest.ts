/**
 * What lies beside a backup and says what it is without opening it: written last, so that a backup
 * without one is none. Nobody needs a key to check the checksum; of what it says, a restore believes what
 * a known author has signed.
 */
import { type Backup, backupContents } from '@keystead/contracts/agent-api/backup';
import { z } from 'zod';
import { authorOf } from './backup-author.ts';

const count = z.number().int().min(0);

export const backupManifest = z.strictObject({
  format: z.literal(1),
  id: z.string().regex(/^bkp_[0-9a-z]{26}$/),
  vaultId: z.string().regex(/^vlt_[0-9a-z]{26}$/),
  createdAt: z.iso.datetime(),
  agentVersion: z.string().max(64),
  contents: z.array(z.enum(backupContents)).max(backupContents.length),
  namespaces: count,
  secrets: count,
  versions: count,
  bytes: count,
  /** Of the backup's file. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** Who made it; backups of before say nothing of that. */
  author: z.strictObject({ key: z.string().max(100), signature: z.base64().max(200) }).optional(),
});
export type BackupManifest = z.output<typeof backupManifest>;

const nameStart = (manifest: Pick<BackupManifest, 'id' | 'vaultId'>) =>
  `keystead-${manifest.vaultId}-${manifest.id}`;

export function backupFileName(manifest: Pick<BackupManifest, 'id' | 'vaultId'>): string {
  return `${nameStart(manifest)}.ksbackup`;
}

export function manifestFileName(manifest: Pick<BackupManifest, 'id' | 'vaultId'>): string {
  return `${nameStart(manifest)}.json`;
}

/** Undefined for a file whose name says that it is no manifest. */
export function manifestIdOf(fileName: string): { vaultId: string; id: string } | undefined {
  const match = /^keystead-(vlt_[0-9a-z]{26})-(bkp_[0-9a-z]{26})\.json$/.exec(fileName);
  return match === null ? undefined : { vaultId: match[1] ?? '', id: match[2] ?? '' };
}

/** Undefined where it is none, or one of another file. */
export function parseManifest(text: string, fileName: string): BackupManifest | undefined {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    return undefined;
  }
  const parsed = backupManifest.safeParse(content);
  return parsed.success && manifestFileName(parsed.data) === fileName ? parsed.data : undefined;
}

export function backupOf(manifest: BackupManifest, destinations: readonly string[]): Backup {
  const { format: _format, author: _author, ...facts } = manifest;
  return { ...facts, author: authorOf(manifest) ?? null, destinations: [...destinations] };
}

/**
 * What is written down of a rekey while it runs: how far it is and what it found. Progress is written
 * in the transaction of the records themselves, so after a crash both are there or neither.
 *
 * A journal holds no password and no hash of one. Whether a later run has the same two passwords is told
 * by a proof that only both together make; it is gone with the end of the run.
 */
import { randomUUID, timingSafeEqual } from 'node:crypto';
import { associatedData } from '@keystead/envelope/aad';
import { deriveKey, type RandomFill, type SecretKey, systemRandom } from '@keystead/envelope/keys';
import { Corrupt } from '@keystead/envelope/sealed';
import { vaultLimits } from '../limits.ts';
import type { VaultSchema } from '../schema.ts';
import type { Queries, SqlStore } from '../sql/sql-store.ts';
import { VaultError } from '../vault-error.ts';

/** Counts of records; ids of the first thousand, where they are of use to somebody. */
export interface Findings {
  matched: number;
  otherPassword: number;
  /** Upgrade only: nothing to do. */
  alreadyCurrent: number;
  corrupt: number;
  corruptIds: string[];
  changedMeanwhile: number;
  changedIds: string[];
}

export const nothingFound: Findings = {
  matched: 0,
  otherPassword: 0,
  alreadyCurrent: 0,
  corrupt: 0,
  corruptIds: [],
  changedMeanwhile: 0,
  changedIds: [],
};

/** Another run took this one over, as after a crash that was none. Nothing is lost. */
export class RekeyTakenOver extends VaultError {
  constructor() {
    super('rekey_taken_over', 'another run of the same passwords has taken over');
  }
}

export interface JournalState {
  afterPosition: number;
  findings: Findings;
  startedAtMs: number;
}

/** What a rekey is told apart by. */
export interface JournalPurpose {
  /** `rekey`, or an upgrade and to what. */
  name: string;
  /** A key of each password, under the salt of that journal; the journal wipes them. */
  keysFor(derivation: Uint8Array): Promise<{ oldKey: SecretKey; newKey: SecretKey }>;
  /** Of a new journal. */
  derivation: Uint8Array;
}

const nonceBytes = 16;
const macBytes = 32;

export class RekeyJournal {
  readonly #store: SqlStore<VaultSchema>;
  readonly #id: string;
  readonly #owner: string;
  readonly #now: () => number;
  readonly state: JournalState;
  readonly isResumed: boolean;

  private constructor(
    store: SqlStore<VaultSchema>,
    now: () => number,
    entry: { id: string; owner: string; state: JournalState; isResumed: boolean },
  ) {
    this.#store = store;
    this.#now = now;
    this.#id = entry.id;
    this.#owner = entry.owner;
    this.state = entry.state;
    this.isResumed = entry.isResumed;
  }

  /** The unfinished journal of the same passwords, taken over; else a new one. */
  static async open(
    store: SqlStore<VaultSchema>,
    purpose: JournalPurpose,
    now: () => number,
    random: RandomFill = systemRandom,
  ): Promise<RekeyJournal> {
    const owner = randomUUID();
    const open = await store.db
      .selectFrom('vault_rekey')
      .selectAll()
      .orderBy('started_at', 'desc')
      .orderBy('id')
      .execute();
    for (const row of open) {
      if (!(await isProof(row.proof, purpose))) continue;
      const taken = await store.write((queries) =>
        queries
          .updateTable('vault_rekey')
          .set({ owner, updated_at: now() })
          .where('id', '=', row.id)
          .executeTakeFirst(),
      );
      if (taken.numUpdatedRows === 0n) continue;
      // Read again: whoever had it may have written until this moment.
      const current = await store.write((queries) =>
        queries.selectFrom('vault_rekey').selectAll().where('id', '=', row.id).executeTakeFirst(),
      );
      if (current === undefined) continue;
      return new RekeyJournal(store, now, {
        id: row.id,
        owner,
        isResumed: true,
        state: {
          afterPosition: current.after_position,
          findings: { ...nothingFound, ...JSON.parse(current.found) },
          startedAtMs: current.started_at,
        },
      });
    }
    const startedAtMs = now();
    const id = randomUUID();
    const nonce = Buffer.alloc(nonceBytes);
    random(nonce);
    const proof = await makeProof(purpose, purpose.derivation, nonce);
    await store.write(async (queries) => {
      await queries
        .insertInto('vault_rekey')
        .values({
          id,
          owner,
          proof,
          after_position: 0,
          found: JSON.stringify(nothingFound),
          started_at: startedAtMs,
          updated_at: startedAtMs,
        })
        .execute();
      const forgotten = open.slice(vaultLimits.maxOpenJournals - 1).map((row) => row.id);
      if (forgotten.length > 0) {
        await queries.deleteFrom('vault_rekey').where('id', 'in', forgotten).execute();
      }
    });
    return new RekeyJournal(store, now, {
      id,
      owner,
      isResumed: false,
      state: { afterPosition: 0, findings: nothingFound, startedAtMs },
    });
  }

  /** In the transaction of the records. @throws RekeyTakenOver */
  async advance(
    queries: Queries<VaultSchema>,
    afterPosition: number,
    findings: Findings,
  ): Promise<void> {
    const { numUpdatedRows } = await queries
      .updateTable('vault_rekey')
      .set({
        after_position: afterPosition,
        found: JSON.stringify(findings),
        updated_at: this.#now(),
      })
      .where('id', '=', this.#id)
      .where('owner', '=', this.#owner)
      .executeTakeFirst();
    if (numUpdatedRows === 0n) throw new RekeyTakenOver();
  }

  /** All is done: nothing of it stays. @throws RekeyTakenOver */
  async finish(): Promise<void> {
    const { numDeletedRows } = await this.#store.write((queries) =>
      queries
        .deleteFrom('vault_rekey')
        .where('id', '=', this.#id)
        .where('owner', '=', this.#owner)
        .executeTakeFirst(),
    );
    if (numDeletedRows === 0n) throw new RekeyTakenOver();
  }
}

/** Derivation, nonce, and a MAC that takes both passwords to make. */
async function makeProof(
  purpose: JournalPurpose,
  derivation: Uint8Array,
  nonce: Uint8Array,
): Promise<Buffer> {
  const { oldKey, newKey } = await purpose.keysFor(derivation);
  const info = associatedData('rekey journal', purpose.name, nonce);
  const half = deriveKey(newKey, info);
  const mac = deriveKey(oldKey, associatedData('rekey journal', info, half.bytes));
  const proof = Buffer.concat([derivation, nonce, mac.bytes]);
  for (const key of [half, mac, oldKey, newKey]) key.wipe();
  return proof;
}

async function isProof(stored: Uint8Array, purpose: JournalPurpose): Promise<boolean> {
  const derivation = stored.subarray(0, -(nonceBytes + macBytes));
  const nonce = stored.subarray(derivation.length, derivation.length + nonceBytes);
  try {
    const expected = await makeProof(purpose, derivation, nonce);
    return expected.length === stored.length && timingSafeEqual(expected, stored);
  } catch (error) {
    // A journal that cannot be read is not this one.
    if (error instanceof Corrupt) return false;
    throw error;
  }
}

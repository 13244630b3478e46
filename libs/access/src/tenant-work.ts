/**
 * The one shape of reading and writing on behalf of a caller. A write is one transaction: the
 * idempotency key is claimed, the work is done, the audit row is written, the answer is kept.
 */
import { createHash } from 'node:crypto';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import type { Input, Operation, Output } from '@keystead/contracts/operation';
import type { Database, Transaction } from '@keystead/database/database';
import { type AuditNote, writeAudit } from './audit.ts';
import type { InstallationKey } from './sealing.ts';

export type Note = (note: AuditNote) => void;

export class TenantWork {
  readonly #database: Database;
  readonly #key: InstallationKey;

  constructor(database: Database, key: InstallationKey) {
    this.#database = database;
    this.#key = key;
  }

  async read<T>(ctx: TenantCtx, work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return this.#database.withTenant(ctx, work);
  }

  /**
   * Runs a change. `note` says what the audit row tells beyond who, when and which operation.
   * A repeated `Idempotency-Key` answers what the first run answered and changes nothing.
   */
  async write<O extends Operation>(
    ctx: TenantCtx,
    operation: O,
    input: Input<O>,
    work: (transaction: Transaction, note: Note) => Promise<Output<O>>,
  ): Promise<Output<O>> {
    return this.#database.withTenant(ctx, async (transaction) => {
      const claim = await this.#claim(transaction, ctx, operation, input);
      if (claim.kind === 'answered') return claim.answer as Output<O>;
      const notes: AuditNote = {};
      const answer = await work(transaction, (note) => Object.assign(notes, note));
      await writeAudit(transaction, ctx, ctx.organizationId, operation.id, notes);
      await claim.keep(answer);
      return answer;
    });
  }

  async #claim(
    transaction: Transaction,
    ctx: TenantCtx,
    operation: Operation,
    input: unknown,
  ): Promise<
    | { kind: 'answered'; answer: unknown }
    | { kind: 'claimed'; keep: (answer: unknown) => Promise<void> }
  > {
    const key = ctx.idempotencyKey;
    if (key === null) return { kind: 'claimed', keep: async () => {} };
    const { organizationId } = ctx;
    const actorId = ctx.actor.id;
    const keyHash = sha256(key);
    const requestHash = sha256(`${operation.id}\n${JSON.stringify(input)}`);
    // A concurrent first run holds the row: this waits for its commit, then finds its answer.
    const inserted = await transaction.$executeRaw`
      insert into auth.idempotency_record
        (organization_id, actor_id, key_hash, operation, request_hash, answer)
      values (${organizationId}::uuid, ${actorId}, ${keyHash}, ${operation.id}, ${requestHash}, ''::bytea)
      on conflict do nothing`;
    const where = {
      organizationId_actorId_keyHash: { organizationId, actorId, keyHash: bytes(keyHash) },
    };
    const bound = `${organizationId}/${actorId}`;
    if (inserted === 1) {
      return {
        kind: 'claimed',
        keep: async (answer) => {
          // The answer may hold a credential that is shown once, so only the key itself opens it.
          const sealed = this.#key.seal('idempotency', bound, JSON.stringify(answer ?? null), key);
          await transaction.idempotencyRecord.update({ where, data: { answer: bytes(sealed) } });
        },
      };
    }
    const record = await transaction.idempotencyRecord.findUniqueOrThrow({ where });
    if (Buffer.compare(Buffer.from(record.requestHash), requestHash) !== 0) {
      throw new ServiceError('idempotency_conflict');
    }
    const plain = this.#key.open('idempotency', bound, record.answer, key);
    return { kind: 'answered', answer: JSON.parse(plain.toString('utf8')) };
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** Prisma wants a plain array over its own buffer. */
export function bytes(buffer: Buffer): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer);
}

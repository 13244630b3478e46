/**
 * The two doors to PostgreSQL. `withTenant` sets the organization for one transaction, and
 * row-level security does the rest: a query that forgets its WHERE sees one organization.
 * `acrossTenants` logs in as another role, names its purpose, and is for duties without a caller.
 */
import { ServiceError } from '@keystead/contracts/errors';
import { PrismaPg } from '@prisma/adapter-pg';
import { type Prisma, PrismaClient } from './generated/client.ts';
import type { Purpose } from './purposes.ts';

/** One open transaction. */
export type Transaction = Prisma.TransactionClient;

export interface DatabaseOptions {
  /** Login of a member of `keystead_service`. */
  serviceUrl: string;
  /** Login of a member of `keystead_across`. */
  acrossUrl: string;
  /** Connections of each of the two pools. */
  poolSize?: number;
  /** A unit of work that takes longer is rolled back. Default 15 s. */
  transactionTimeoutMs?: number;
  onAcross?: (purpose: Purpose) => void;
}

export interface Tenant {
  organizationId: string;
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const conflictTries = 5;

export class Database {
  readonly #service: PrismaClient;
  readonly #across: PrismaClient;
  readonly #timing: { timeout: number; maxWait: number };
  readonly #onAcross: (purpose: Purpose) => void;

  constructor(options: DatabaseOptions) {
    const max = options.poolSize ?? 10;
    const client = (connectionString: string) =>
      new PrismaClient({
        adapter: new PrismaPg({
          connectionString,
          max,
          connectionTimeoutMillis: 5_000,
          idleTimeoutMillis: 30_000,
          keepAlive: true,
        }),
      });
    this.#service = client(options.serviceUrl);
    this.#across = client(options.acrossUrl);
    this.#timing = { timeout: options.transactionTimeoutMs ?? 15_000, maxWait: 10_000 };
    this.#onAcross = options.onAcross ?? (() => {});
  }

  /** One unit of work inside one organization. Rolled back as a whole when `work` throws. */
  async withTenant<T>(tenant: Tenant, work: (transaction: Transaction) => Promise<T>): Promise<T> {
    const { organizationId } = tenant;
    if (!uuid.test(organizationId)) throw new TypeError('withTenant needs an organization');
    return again(() =>
      this.#service.$transaction(async (transaction) => {
        await transaction.$executeRaw`select set_config('app.organization_id', ${organizationId}, true)`;
        return work(transaction);
      }, this.#timing),
    );
  }

  /** One unit of work that sees every organization, for a listed purpose. */
  async acrossTenants<T>(
    purpose: Purpose,
    work: (transaction: Transaction) => Promise<T>,
  ): Promise<T> {
    this.#onAcross(purpose);
    return again(() => this.#across.$transaction(work, this.#timing));
  }

  /** Whether both logins answer. @throws what the database says */
  async ping(): Promise<void> {
    await Promise.all([this.#service.$queryRaw`select 1`, this.#across.$queryRaw`select 1`]);
  }

  async close(): Promise<void> {
    await Promise.all([this.#service.$disconnect(), this.#across.$disconnect()]);
  }
}

/** Deadlocks and serialization failures are the database's way to say "once more". */
async function again<T>(unit: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await unit();
    } catch (error) {
      if (isOutOfReach(error)) {
        throw new ServiceError('unavailable', {
          retryAfterSeconds: 1,
          internal: 'the database cannot be reached, or has no connection to spare',
          cause: error,
        });
      }
      if (attempt >= conflictTries || !isTransactionConflict(error)) throw error;
    }
  }
}

// Prisma's own codes, those of PostgreSQL for connections, and what the driver says in words.
const outOfReachCode = /^(?:P1001|P1002|P1008|P1017|P2024|P2028|08\w{3}|53300|57P0[1-3]|E[A-Z]+)$/;
const outOfReachText =
  /timeout exceeded when trying to connect|connection terminated|connection error and is not queryable/i;

/** Whether nobody is to blame but the way to the database: the same call may succeed later. */
function isOutOfReach(error: unknown): boolean {
  if (error instanceof ServiceError || !(error instanceof Error)) return false;
  return outOfReachText.test(error.message) || codesOf(error).some((c) => outOfReachCode.test(c));
}

function isTransactionConflict(error: unknown): boolean {
  return codesOf(error).some((code) => code === '40P01' || code === '40001' || code === 'P2034');
}

/** Whether the error is a violated unique key, by Prisma's or by PostgreSQL's code. */
export function isUniqueViolation(error: unknown): boolean {
  return codesOf(error).some((code) => code === 'P2002' || code === '23505');
}

function codesOf(error: unknown): string[] {
  const codes: string[] = [];
  let current = error as
    | { code?: unknown; originalCode?: unknown; meta?: unknown; cause?: unknown }
    | undefined;
  for (let depth = 0; current && typeof current === 'object' && depth < 6; depth += 1) {
    for (const code of [current.code, current.originalCode]) {
      if (typeof code === 'string') codes.push(code);
    }
    const meta = current.meta as { code?: unknown; driverAdapterError?: unknown } | undefined;
    if (typeof meta?.code === 'string') codes.push(meta.code);
    current = (meta?.driverAdapterError ?? current.cause) as typeof current;
  }
  return codes;
}

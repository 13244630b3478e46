/**
 * Connections to a database server that give up a query after a time, and are then thrown away: what
 * becomes of the query is not known, and a connection that is half open would hold each following one.
 * What their errors say holds no literal of a statement.
 */
import type { MysqlPool, MysqlPoolConnection, PostgresPool, PostgresPoolClient } from 'kysely';

/** The server did not answer a query in time; the connection is gone. */
export class QueryTimeout extends Error {
  readonly code = 'ETIMEDOUT';

  constructor(timeoutMs: number) {
    super(`the database did not answer a query within ${timeoutMs} ms`);
    this.name = 'QueryTimeout';
  }
}

/** What of a driver's connection is reached for beyond what kysely asks of it. */
interface Wire {
  on?(event: 'error', listener: () => void): void;
  stream?: { destroy(): void };
  connection?: { stream?: { destroy(): void } };
}

const isHeard = new WeakSet<object>();

/** A connection that breaks under a query says so twice: to the query, and to nobody. */
function hear(connection: object): void {
  if (isHeard.has(connection)) return;
  isHeard.add(connection);
  (connection as Wire).on?.('error', () => undefined);
}

export function impatientPostgresql(pool: PostgresPool, timeoutMs: number): PostgresPool {
  return {
    options: pool.options,
    connect: async () => {
      const client = await pool.connect();
      hear(client);
      return impatientClient(client, timeoutMs);
    },
    end: () => pool.end(),
  };
}

function impatientClient(client: PostgresPoolClient, timeoutMs: number): PostgresPoolClient {
  let givenUp: QueryTimeout | undefined;
  const query = (statement: string, parameters: readonly unknown[]) =>
    new Promise((resolve, reject) => {
      // Taking back what is lost anyway says why it is lost.
      if (givenUp !== undefined) return reject(givenUp);
      const timer = setTimeout(() => {
        givenUp = new QueryTimeout(timeoutMs);
        reject(givenUp);
        (client as Wire).connection?.stream?.destroy();
      }, timeoutMs);
      client
        .query(statement, parameters)
        .then(resolve, (error) => reject(withoutLiterals(error)))
        .finally(() => clearTimeout(timer));
      return undefined;
    });
  return {
    ...(client.processID === undefined ? {} : { processID: client.processID }),
    query: query as PostgresPoolClient['query'],
    release: (destroy) => client.release(givenUp !== undefined || destroy),
  };
}

export function impatientMysql(pool: MysqlPool, timeoutMs: number): MysqlPool {
  // One wrapper for each connection: by it kysely knows which one is new.
  const known = new WeakMap<MysqlPoolConnection, MysqlPoolConnection>();
  return {
    getConnection: (callback) =>
      pool.getConnection((error, connection) => {
        if (error) return callback(withoutLiterals(error), connection);
        hear(connection);
        const impatient = known.get(connection) ?? impatientConnection(connection, timeoutMs);
        known.set(connection, impatient);
        callback(error, impatient);
      }),
    end: (callback) => pool.end(callback),
  };
}

function impatientConnection(
  connection: MysqlPoolConnection,
  timeoutMs: number,
): MysqlPoolConnection {
  let givenUp: QueryTimeout | undefined;
  const destroy = () => {
    connection.destroy();
    (connection as Wire).stream?.destroy();
  };
  return {
    config: connection.config,
    threadId: connection.threadId,
    connect: (callback) => connection.connect(callback),
    destroy,
    release: () => connection.release(),
    query: (statement, parameters, callback) => {
      let isAnswered = false;
      const answer: NonNullable<typeof callback> = (error, result) => {
        if (isAnswered) return;
        isAnswered = true;
        clearTimeout(timer);
        callback?.(givenUp ?? (error && withoutLiterals(error)), result);
      };
      const timer = setTimeout(() => {
        givenUp = new QueryTimeout(timeoutMs);
        answer(givenUp, []);
        destroy();
      }, timeoutMs);
      return connection.query(statement, parameters, answer);
    },
  };
}

/**
 * The error without what it quotes: drivers hang the whole statement on it, with a password in it where
 * the statement sets one, and servers quote the value or the place they stumbled over.
 */
export function withoutLiterals(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const quoting = error as Error & Record<string, unknown>;
  for (const name of ['sql', 'sqlMessage', 'detail', 'where', 'internalQuery']) {
    delete quoting[name];
  }
  const said = error.message;
  const kept = said
    .replace(/(Duplicate entry ).*( for key )/s, '$1…$2')
    .replace(/( value: ).*( for column )/s, '$1…$2')
    .replace(/(right syntax to use near ).*( at line )/s, '$1…$2');
  if (kept !== said) {
    error.stack = error.stack?.replace(said, () => kept) ?? '';
    error.message = kept;
  }
  return error;
}

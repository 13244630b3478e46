/** What people ask of an audit log that is being written. */
import type {
  AuditEntry,
  AuditHeadView,
  AuditVerification,
  auditLogs,
  listAudit,
  listAuditHeads,
  TrustedHead,
} from '@keystead/contracts/agent-api/audit';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import { ServiceError } from '@keystead/contracts/errors';
import type { ResourceReference, Sees } from '../access/caller.ts';
import type { OperationLine } from './audit-entry.ts';
import { type AuditPage, AuditSearch } from './audit-search.ts';
import { readPublicKey } from './audit-signer.ts';
import { verifyAudit } from './audit-verification.ts';
import { commandsLogOf } from './commands-log.ts';

type ListQuery = AgentInput<typeof listAudit>['query'];
type HeadsQuery = AgentInput<typeof listAuditHeads>['query'];

export class AuditReader {
  readonly #logFile: string;
  readonly #keyFile: string;
  readonly #searches: Record<(typeof auditLogs)[number], AuditSearch>;
  #verifying = false;

  constructor({ logFile, keyFile }: { logFile: string; keyFile: string }) {
    this.#logFile = logFile;
    this.#keyFile = keyFile;
    this.#searches = {
      agent: new AuditSearch(logFile),
      commands: new AuditSearch(commandsLogOf(logFile)),
    };
  }

  async list(
    { from, to, limit, cursor, log, ...filter }: ListQuery,
    sees?: Sees,
  ): Promise<AuditPage<AuditEntry>> {
    const found = await this.#searches[log].operations(
      {
        ...filter,
        fromMs: from === undefined ? undefined : Date.parse(from),
        toMs: to === undefined ? undefined : Date.parse(to),
      },
      { limit, cursor },
      sees === undefined ? undefined : (entry) => sees(resourceOf(entry)),
    );
    return { items: found.items.map(shown), nextCursor: found.nextCursor };
  }

  heads({ log, ...page }: HeadsQuery): Promise<AuditPage<AuditHeadView>> {
    return this.#searches[log].heads(page);
  }

  /** Reads the whole log: one at a time. @throws ServiceError `rate_limited` */
  async verify(
    trustedHeads: readonly TrustedHead[],
    log: (typeof auditLogs)[number] = 'agent',
  ): Promise<AuditVerification> {
    if (this.#verifying) {
      throw new ServiceError('rate_limited', {
        detail: 'the audit is being verified for somebody else',
        retryAfterSeconds: 5,
      });
    }
    this.#verifying = true;
    try {
      const [file, keyFile] =
        log === 'agent'
          ? [this.#logFile, this.#keyFile]
          : [commandsLogOf(this.#logFile), `${commandsLogOf(this.#logFile)}.key`];
      const key = readPublicKey(keyFile)?.toString('base64');
      return await verifyAudit(file, {
        trustedHeads,
        ...(key === undefined ? {} : { signerKeys: [key] }),
      });
    } finally {
      this.#verifying = false;
    }
  }
}

function resourceOf({ namespace, secret, other }: OperationLine): ResourceReference {
  return {
    ...(namespace === undefined ? {} : { namespace }),
    ...(secret === undefined ? {} : { secret }),
    ...(other === undefined ? {} : { other }),
  };
}

export function shown(entry: OperationLine): AuditEntry {
  return {
    sequence: entry.sequence,
    at: entry.at,
    requestId: entry.requestId,
    identity: entry.identity,
    address: entry.address,
    action: entry.action,
    operation: entry.operation,
    namespace: entry.namespace ?? null,
    secret: entry.secret ?? null,
    other: entry.other ?? null,
    phase: entry.phase,
    result: entry.result,
    code: entry.code ?? null,
    decidedBy: entry.decidedBy ?? [],
    context: entry.context ?? {},
    hash: entry.hash,
  };
}

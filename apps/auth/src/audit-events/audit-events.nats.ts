import { listAuditEvents } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { AuditEvents } from './audit-events.ts';

@Controller()
export class AuditEventsBus {
  constructor(@Inject(AuditEvents) private readonly auditEvents: AuditEvents) {}

  @Answers(listAuditEvents)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listAuditEvents>) {
    return this.auditEvents.list(ctx, input);
  }
}

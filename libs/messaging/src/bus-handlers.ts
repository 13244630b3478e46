/**
 * The answering side: `@Answers(operation)` on a controller method, whose parameters are
 * `@Caller()` and `@Given()`. The guard has verified the token, the permission and the payload
 * before the method runs; the interceptor cuts the answer to its contract.
 */
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, ServiceError, toWireError } from '@keystead/contracts/errors';
import { inOurWords } from '@keystead/contracts/issue-text';
import { type NudgeName, nudges } from '@keystead/contracts/nudges';
import { type InternalCall, inputSchema, type Operation } from '@keystead/contracts/operation';
import type { Permission } from '@keystead/contracts/permissions';
import {
  type ArgumentsHost,
  applyDecorators,
  type CallHandler,
  type CanActivate,
  Catch,
  createParamDecorator,
  type ExceptionFilter,
  type ExecutionContext,
  Inject,
  Injectable,
  type NestInterceptor,
  SetMetadata,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { EventPattern, MessagePattern, type NatsContext } from '@nestjs/microservices';
import { map, type Observable, of } from 'rxjs';
import type { z } from 'zod';
import { tracing } from './bus.ts';
import { type ServiceKeys, verifyCall } from './service-token.ts';

const declaredKey = 'keystead:declared';
export const SERVICE_KEYS = Symbol('SERVICE_KEYS');
export const ERROR_LOG = Symbol('ERROR_LOG');

type Declared = Operation | InternalCall;
type Verified = { ctx: Ctx; input: unknown };

const verified = new WeakMap<object, Verified>();
const schemas = new WeakMap<object, z.ZodType>();

function schemaOf(declared: Declared): z.ZodType {
  if (!('method' in declared)) return declared.input;
  let schema = schemas.get(declared);
  if (!schema) {
    // Transforms and defaults ran at the door; running them twice must change nothing.
    schema = inputSchema(declared);
    schemas.set(declared, schema);
  }
  return schema;
}

/** The method answers this operation or internal call; replicas of a service share the load. */
export function Answers(declared: Declared): MethodDecorator {
  return applyDecorators(
    SetMetadata(declaredKey, declared),
    MessagePattern(declared.subject, { queue: declared.service }),
  );
}

/** The method runs on a nudge. `everyReplica` for what each process holds by itself. */
export function OnNudge(name: NudgeName, everyReplica = false): MethodDecorator {
  return EventPattern(
    nudges[name].subject as string,
    everyReplica ? {} : { queue: `nudge-${name}` },
  ) as MethodDecorator;
}

export const Caller = createParamDecorator(
  (_: unknown, host: ExecutionContext) => verified.get(host.switchToRpc().getContext())?.ctx,
);
export const Given = createParamDecorator(
  (_: unknown, host: ExecutionContext) => verified.get(host.switchToRpc().getContext())?.input,
);

@Injectable()
export class BusGuard implements CanActivate {
  readonly #reflector: Reflector;
  readonly #keys: ServiceKeys;

  constructor(@Inject(Reflector) reflector: Reflector, @Inject(SERVICE_KEYS) keys: ServiceKeys) {
    this.#reflector = reflector;
    this.#keys = keys;
  }

  async canActivate(host: ExecutionContext): Promise<boolean> {
    if (host.getType() !== 'rpc') return true;
    const declared = this.#reflector.get<Declared | undefined>(declaredKey, host.getHandler());
    if (!declared) return true;
    const context = host.switchToRpc().getContext<NatsContext>();
    const payload: unknown = host.switchToRpc().getData();
    const token: unknown = context.getHeaders()?.get('keystead-token');
    if (typeof payload !== 'string' || typeof token !== 'string') {
      throw new ServiceError('unauthenticated', { internal: 'a call without token or payload' });
    }
    const isOperation = 'method' in declared;
    const { ctx } = await verifyCall(this.#keys, {
      subject: declared.subject,
      payload,
      token,
      callers: isOperation ? ['gateway'] : declared.callers,
    });
    if (isOperation) authorize(ctx, declared.permission);
    const parsed = schemaOf(declared).safeParse(JSON.parse(payload), inOurWords);
    if (!parsed.success) throw invalidRequest('body', parsed.error.issues);
    verified.set(context, { ctx, input: parsed.data });
    return true;
  }
}

/** @throws ServiceError unless the caller holds what the operation asks for */
export function authorize(
  ctx: Ctx,
  permission: Permission | 'public' | 'signedIn',
): asserts ctx is TenantCtx {
  if (permission === 'public') return;
  if (ctx.organizationId === null) throw new ServiceError('unauthenticated');
  if (permission === 'signedIn') return;
  if (!ctx.permissions.includes(permission)) {
    throw new ServiceError('permission_denied', { detail: `this needs ${permission}` });
  }
}

@Injectable()
export class BusInterceptor implements NestInterceptor {
  readonly #reflector: Reflector;

  constructor(@Inject(Reflector) reflector: Reflector) {
    this.#reflector = reflector;
  }

  intercept(host: ExecutionContext, next: CallHandler): Observable<unknown> {
    if (host.getType() !== 'rpc') return next.handle();
    const declared = this.#reflector.get<Declared | undefined>(declaredKey, host.getHandler());
    if (!declared) return next.handle();
    const traceparent = host
      .switchToRpc()
      .getContext<NatsContext>()
      .getHeaders()
      ?.get('traceparent');
    const handle = () =>
      next.handle().pipe(map((result) => ({ result: declared.output.parse(result ?? null) })));
    return typeof traceparent === 'string' ? tracing.run({ traceparent }, handle) : handle();
  }
}

/** What says that something of ours is wrong, rather than the request. */
const worthLogging = new Set<string>(['internal', 'unauthenticated', 'unavailable']);

@Catch()
@Injectable()
export class BusErrorFilter implements ExceptionFilter {
  readonly #log: (error: unknown, what: string) => void;

  constructor(@Inject(ERROR_LOG) log: (error: unknown, what: string) => void) {
    this.#log = log;
  }

  catch(error: unknown, host: ArgumentsHost): Observable<unknown> {
    const wire = toWireError(error);
    const subject = host.switchToRpc().getContext<NatsContext>().getSubject();
    if (worthLogging.has(wire.code)) this.#log(error, subject);
    return of({ error: wire });
  }
}

/**
 * What each service may say and hear on NATS, out of the contracts: it asks what it is named as
 * caller of, hears what it answers, and says and hears the nudges it is named for. A service that
 * was taken over can ask no more than it could before.
 */
import * as agentLink from '@keystead/contracts/agent-link';
import { type Nudge, nudges } from '@keystead/contracts/nudges';
import { type InternalCall, type ServiceName, services } from '@keystead/contracts/operation';
import { operations } from '@keystead/contracts/operations';

export interface BusRights {
  service: ServiceName;
  publish: string[];
  subscribe: string[];
  /** May answer on the reply subject of what it hears. */
  allowResponses: true;
}

const internalCalls = (Object.values(agentLink) as unknown[]).filter(
  (value): value is InternalCall =>
    typeof value === 'object' && value !== null && 'callers' in value && 'subject' in value,
);

export function busRights(): BusRights[] {
  const all: readonly Nudge[] = Object.values(nudges);
  return services.map((service) => ({
    service,
    publish: [
      ...(service === 'gateway' ? operations.map(({ subject }) => subject) : []),
      ...internalCalls
        .filter(({ callers }) => callers.includes(service))
        .map(({ subject }) => subject),
      ...all.filter(({ publishers }) => publishers.includes(service)).map(({ subject }) => subject),
    ].sort(),
    subscribe: [
      // Answers to what it asks.
      `_INBOX.${service}.>`,
      ...(operations.some((operation) => operation.service === service) ||
      internalCalls.some((call) => call.service === service)
        ? [`${service}.>`]
        : []),
      ...all.filter(({ listeners }) => listeners.includes(service)).map(({ subject }) => subject),
    ].sort(),
    allowResponses: true,
  }));
}

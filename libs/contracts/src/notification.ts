/** Channels, subscriptions and deliveries: the way of an alert to people. */
import { z } from 'zod';
import { commaList, email, instant, listQuery, name, page, tags } from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { alertKind, alertKinds } from './monitoring.ts';
import { operation } from './operation.ts';

export const channelKinds = ['email', 'slack', 'webhook'] as const;
export const channelKind = z.enum(channelKinds);

const url = z.string().max(2_048, 'must have at most 2048 characters');
const recipients = z.array(email).min(1).max(limits.channelRecipientsMax);

export const channel = z.object({
  id: idSchema('channel'),
  kind: channelKind,
  name: z.string(),
  config: z.object({
    /** For mail. */
    to: z.array(z.string()).optional(),
    /** Addresses whose owner has not confirmed yet: nothing else is sent to them. */
    unconfirmed: z.array(z.string()).optional(),
    /** For a webhook; for Slack the path, which is a credential, is cut off. */
    url: z.string().optional(),
  }),
  enabled: z.boolean(),
  /** Why it is disabled. */
  disabledReason: z.enum(['by_operator', 'failing', 'gone']).nullable(),
  failingSince: instant.nullable(),
  lastDeliveredAt: instant.nullable(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});
const channelParams = z.strictObject({ id: idSchema('channel') });
const channelSorts = [
  'createdAt',
  'name',
  'kind',
  'lastDeliveredAt',
  'failingSince',
  'updatedAt',
] as const;

export const listChannels = operation('notification', 'channels.list', {
  method: 'GET',
  path: '/v1/channels',
  summary: 'List channels',
  tag: 'Channels',
  permission: 'channels.read',
  sorts: channelSorts,
  query: listQuery(channelSorts, {
    kind: commaList(channelKind).optional(),
    enabled: z.enum(['true', 'false']).optional(),
  }),
  output: page(channel),
});

export const getChannel = operation('notification', 'channels.get', {
  method: 'GET',
  path: '/v1/channels/{id}',
  summary: 'Show a channel',
  tag: 'Channels',
  permission: 'channels.read',
  params: channelParams,
  output: channel,
});

export const createChannel = operation('notification', 'channels.create', {
  method: 'POST',
  path: '/v1/channels',
  summary: 'Create a channel; the secret of a webhook is answered once',
  tag: 'Channels',
  permission: 'channels.write',
  body: z.discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('email'),
      name,
      config: z.strictObject({ to: recipients }),
    }),
    z.strictObject({ kind: z.literal('slack'), name, config: z.strictObject({ url }) }),
    z.strictObject({ kind: z.literal('webhook'), name, config: z.strictObject({ url }) }),
  ]),
  output: z.object({ ...channel.shape, secret: z.string().optional() }),
});

export const updateChannel = operation('notification', 'channels.update', {
  method: 'PATCH',
  path: '/v1/channels/{id}',
  summary: 'Rename, re-address, enable or disable a channel',
  tag: 'Channels',
  permission: 'channels.write',
  params: channelParams,
  body: z
    .strictObject({
      name,
      config: z.strictObject({ to: recipients, url }).partial(),
      enabled: z.boolean(),
    })
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: channel,
});

export const deleteChannel = operation('notification', 'channels.delete', {
  method: 'DELETE',
  path: '/v1/channels/{id}',
  summary: 'Delete a channel and what still waits for it',
  tag: 'Channels',
  permission: 'channels.write',
  params: channelParams,
  output: z.null(),
  status: 204,
});

export const rotateChannelSecret = operation('notification', 'channels.rotate-secret', {
  method: 'POST',
  path: '/v1/channels/{id}/rotate-secret',
  summary: 'Make a new webhook secret; both sign for 24 hours',
  tag: 'Channels',
  permission: 'channels.write',
  params: channelParams,
  output: z.object({ secret: z.string(), previousValidUntil: instant }),
  status: 200,
});

/** One alert's way to one channel. */
export const delivery = z.object({
  id: idSchema('delivery'),
  channel: z.object({ id: idSchema('channel'), name: z.string(), kind: channelKind }),
  /** An alert kind, or `channel.test`, `channel.disabled`. */
  kind: z.string(),
  alertIds: z.array(idSchema('alert')),
  status: z.enum(['collecting', 'pending', 'retrying', 'delivered', 'dead', 'suppressed']),
  attempts: z.array(
    z.object({
      number: z.number().int(),
      startedAt: instant,
      durationMs: z.number().int(),
      outcome: z.enum(['delivered', 'temporary', 'permanent', 'interrupted']),
      /** HTTP or SMTP status. */
      statusCode: z.number().int().nullable(),
      /** The start of the answer, or what went wrong. */
      answer: z.string().nullable(),
    }),
  ),
  createdAt: instant,
  nextAttemptAt: instant.nullable(),
  deliveredAt: instant.nullable(),
});
const deliveryParams = z.strictObject({ id: idSchema('delivery') });
const deliverySorts = ['createdAt', 'nextAttemptAt', 'deliveredAt', 'status', 'kind'] as const;

export const listDeliveries = operation('notification', 'deliveries.list', {
  method: 'GET',
  path: '/v1/deliveries',
  summary: 'List deliveries; `status=dead` lists the dead letters',
  tag: 'Deliveries',
  permission: 'deliveries.read',
  sorts: deliverySorts,
  query: listQuery(
    deliverySorts,
    {
      status: commaList(delivery.shape.status).optional(),
      channelId: idSchema('channel').optional(),
      alertId: idSchema('alert').optional(),
      kind: z.string().max(64).optional(),
      since: instant.optional(),
      until: instant.optional(),
    },
    '-createdAt',
  ),
  output: page(delivery),
});

export const getDelivery = operation('notification', 'deliveries.get', {
  method: 'GET',
  path: '/v1/deliveries/{id}',
  summary: 'Show a delivery with every attempt',
  tag: 'Deliveries',
  permission: 'deliveries.read',
  params: deliveryParams,
  output: delivery,
});

export const replayDelivery = operation('notification', 'deliveries.replay', {
  method: 'POST',
  path: '/v1/deliveries/{id}/replay',
  summary: 'Send a delivery again, with the same id',
  tag: 'Deliveries',
  permission: 'deliveries.replay',
  params: deliveryParams,
  output: delivery,
  status: 202,
});

export const testChannel = operation('notification', 'channels.test', {
  method: 'POST',
  path: '/v1/channels/{id}/test',
  summary: 'Send a test message at once and answer how it went',
  tag: 'Channels',
  permission: 'channels.test',
  params: channelParams,
  output: delivery,
  status: 200,
});

export const confirmRecipient = operation('notification', 'channels.confirm', {
  method: 'POST',
  path: '/v1/channels/confirm',
  summary: 'Confirm a mail address with the token from the mail',
  tag: 'Channels',
  permission: 'public',
  body: z.strictObject({ token: z.string().max(512) }),
  output: z.object({ email: z.string() }),
  status: 200,
});

export const subscription = z.object({
  id: idSchema('subscription'),
  name: z.string(),
  channelIds: z.array(idSchema('channel')),
  events: z.array(alertKind),
  /** Vaults that carry one of these tags; empty: every vault. */
  vaultTags: z.array(z.string()),
  enabled: z.boolean(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});
const subscriptionParams = z.strictObject({ id: idSchema('subscription') });
const subscriptionSorts = ['createdAt', 'name'] as const;
const subscriptionBody = {
  name,
  channelIds: z.array(idSchema('channel')).min(1).max(limits.subscriptionChannelsMax),
  events: z.array(alertKind).min(1).max(alertKinds.length),
  vaultTags: tags,
  enabled: z.boolean(),
};

export const listSubscriptions = operation('notification', 'subscriptions.list', {
  method: 'GET',
  path: '/v1/subscriptions',
  summary: 'List subscriptions',
  tag: 'Subscriptions',
  permission: 'channels.read',
  sorts: subscriptionSorts,
  query: listQuery(subscriptionSorts, {
    channelId: idSchema('channel').optional(),
    event: alertKind.optional(),
  }),
  output: page(subscription),
});

export const getSubscription = operation('notification', 'subscriptions.get', {
  method: 'GET',
  path: '/v1/subscriptions/{id}',
  summary: 'Show a subscription',
  tag: 'Subscriptions',
  permission: 'channels.read',
  params: subscriptionParams,
  output: subscription,
});

export const createSubscription = operation('notification', 'subscriptions.create', {
  method: 'POST',
  path: '/v1/subscriptions',
  summary: 'Say which events of which vaults go to which channels',
  tag: 'Subscriptions',
  permission: 'channels.write',
  body: z.strictObject({
    ...subscriptionBody,
    vaultTags: tags.default([]),
    enabled: z.boolean().default(true),
  }),
  output: subscription,
});

export const updateSubscription = operation('notification', 'subscriptions.update', {
  method: 'PATCH',
  path: '/v1/subscriptions/{id}',
  summary: 'Change a subscription',
  tag: 'Subscriptions',
  permission: 'channels.write',
  params: subscriptionParams,
  body: z
    .strictObject(subscriptionBody)
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: subscription,
});

export const deleteSubscription = operation('notification', 'subscriptions.delete', {
  method: 'DELETE',
  path: '/v1/subscriptions/{id}',
  summary: 'Delete a subscription',
  tag: 'Subscriptions',
  permission: 'channels.write',
  params: subscriptionParams,
  output: z.null(),
  status: 204,
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type RoutedAlert, type RoutingSubscription, route } from './routing.ts';

const alert = (changes: Partial<RoutedAlert> = {}): RoutedAlert => ({
  organizationId: 'acme',
  id: 'a1',
  kind: 'vault.offline',
  vaultTags: ['env=production'],
  muted: false,
  ...changes,
});
const subscription = (changes: Partial<RoutingSubscription> = {}): RoutingSubscription => ({
  organizationId: 'acme',
  events: ['vault.offline'],
  vaultTags: [],
  channelIds: ['c1'],
  ...changes,
});

describe('routing', () => {
  it('puts all alerts of a kind for a channel into one group', () => {
    const alerts = Array.from({ length: 200 }, (_, index) => alert({ id: `a${index}` }));
    const groups = route(alerts, [subscription({ channelIds: ['c1', 'c2'] })]);
    expect(groups.map(({ channelId, alertIds }) => [channelId, alertIds.length])).toEqual([
      ['c1', 200],
      ['c2', 200],
    ]);
  });

  it('tells a channel once, however many subscriptions lead to it', () => {
    const groups = route(
      [alert()],
      [subscription(), subscription(), subscription({ vaultTags: ['env=production'] })],
    );
    expect(groups).toHaveLength(1);
    expect(groups[0]?.alertIds).toEqual(['a1']);
  });

  it('follows event kinds and vault tags', () => {
    expect(route([alert()], [subscription({ events: ['vault.recovered'] })])).toEqual([]);
    expect(route([alert()], [subscription({ vaultTags: ['env=test'] })])).toEqual([]);
    expect(
      route([alert()], [subscription({ vaultTags: ['env=test', 'env=production'] })]),
    ).toHaveLength(1);
  });

  it('sets muted alerts apart', () => {
    const groups = route([alert(), alert({ id: 'a2', muted: true })], [subscription()]);
    expect(groups.map(({ suppressed, alertIds }) => [suppressed, alertIds])).toEqual([
      [false, ['a1']],
      [true, ['a2']],
    ]);
  });

  it('never crosses organizations, never loses and never doubles, whatever the subscriptions', () => {
    const organization = fc.constantFrom('acme', 'beta');
    const kind = fc.constantFrom('vault.offline' as const, 'vault.recovered' as const);
    const tags = fc.subarray(['x', 'y', 'z']);
    const alerts = fc.array(
      fc.record({ organizationId: organization, kind, vaultTags: tags, muted: fc.boolean() }),
    );
    const subscriptions = fc.array(
      fc.record({
        organizationId: organization,
        events: fc.subarray(['vault.offline', 'vault.recovered']),
        vaultTags: tags,
        channels: fc.subarray(['1', '2', '3']),
      }),
    );
    fc.assert(
      fc.property(alerts, subscriptions, (raised, wanted) => {
        const all = raised.map((one, index) => ({ ...one, id: `${one.organizationId}/${index}` }));
        const told = route(
          all,
          wanted.map(({ channels, ...one }) => ({
            ...one,
            channelIds: channels.map((channel) => `${one.organizationId}-${channel}`),
          })),
        ).flatMap(({ channelId, alertIds }) => alertIds.map((id) => `${channelId} ${id}`));
        const expected = all.flatMap((one) =>
          ['1', '2', '3']
            .filter((channel) =>
              wanted.some(
                (sub) =>
                  sub.organizationId === one.organizationId &&
                  sub.channels.includes(channel) &&
                  sub.events.includes(one.kind) &&
                  (sub.vaultTags.length === 0 ||
                    sub.vaultTags.some((tag) => one.vaultTags.includes(tag))),
              ),
            )
            .map((channel) => `${one.organizationId}-${channel} ${one.id}`),
        );
        expect(told.sort()).toEqual(expected.sort());
      }),
    );
  });
});

import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Watch } from '../monitoring.fixture.ts';

let watch: Watch;
beforeAll(async () => {
  watch = await Watch.open();
});
afterAll(() => watch.close());

describe('silence', () => {
  it('is pending before the first heartbeat and never offline', async () => {
    const organization = await watch.organization();
    const agent = await watch.agent(organization, await watch.vault(organization));
    await watch.keeper.reconcile();
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('pending');
    await watch.beat(agent);
    expect(await watch.status(agent)).toBe('online');
  });

  it('opens one outage and tells once, however many sweepers run', async () => {
    const agents = await Promise.all(Array.from({ length: 40 }, () => watch.fleet(1)));
    const all = agents.flat();
    await watch.age(271, ...all);
    const sweepers = [watch.sweep, watch.another(), watch.another(), watch.another()];
    await Promise.all(sweepers.map((sweep) => sweep.run()));
    await Promise.all(sweepers.map((sweep) => sweep.run()));
    for (const agent of all) {
      expect(await watch.status(agent)).toBe('offline');
      expect(await watch.outages(agent)).toHaveLength(1);
      expect(await watch.told(agent.vaultId)).toEqual(['vault.offline']);
    }
  });

  it('is late after three intervals and offline only at the threshold', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(91, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('late');
    await watch.age(175, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('late');
    await watch.age(5, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('offline');
    const [outage] = await watch.outages(agent);
    expect(outage.opened_at - outage.silent_since).toBeGreaterThanOrEqual(270_000);
  });

  it('ends with the next heartbeat: outage closed and recovery raised in the same transaction', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(300, agent);
    await watch.sweep.run();
    await watch.beat(agent);
    expect(await watch.status(agent)).toBe('online');
    const [outage] = await watch.outages(agent);
    expect(outage.closed_by).toBe('heartbeat');
    expect(await watch.told(agent.vaultId)).toEqual(['vault.offline', 'vault.recovered']);
    const [opening, recovery] = await watch.alerts(agent.vaultId);
    expect(opening.status).toBe('resolved');
    expect(recovery.resolves_id).toBe(opening.id);
    expect(recovery.outage_seconds).toBeGreaterThan(299);
  });

  it('is not broken by a repeated or late heartbeat', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(271, agent);
    const answer = await watch.beatAgain(agent);
    expect(answer.results[0]?.outcome).toBe('recorded');
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('offline');
  });

  it('of an unknown agent is answered as unknown and stored nowhere', async () => {
    const stranger = {
      organizationId: await watch.organization(),
      vaultId: newUuid(),
      agentId: newUuid(),
      bootId: newUuid(),
      sequence: 0,
    };
    const answer = await watch.beat(stranger);
    expect(answer.results[0]?.outcome).toBe('unknown');
    expect(await watch.status(stranger)).toBeUndefined();
  });
});

describe('a vault of several agents', () => {
  it('degrades, then goes offline in its place, then recovers once, naming its agents', async () => {
    const [first, second] = await watch.fleet(2);
    if (!first || !second) throw new Error('no agents');
    await watch.age(271, first);
    await watch.sweep.run();
    expect(await watch.told(first.vaultId)).toEqual(['vault.degraded']);
    await watch.age(271, second);
    await watch.sweep.run();
    expect(await watch.told(first.vaultId)).toEqual(['vault.degraded', 'vault.offline']);
    const [degraded, offline] = await watch.alerts(first.vaultId);
    expect(degraded.superseded_by_id).toBe(offline.id);
    await watch.beat(first, second);
    expect(await watch.told(first.vaultId)).toEqual([
      'vault.degraded',
      'vault.offline',
      'vault.recovered',
    ]);
    const [, , recovery] = await watch.alerts(first.vaultId);
    const named = await watch.rows(
      'select agent_id from monitoring.alert_agent where alert_id = $1',
      recovery.id,
    );
    expect(named).toHaveLength(2);
  });

  it('raises one alert when two sweepers each find one of its agents', async () => {
    for (let round = 0; round < 10; round += 1) {
      const fleet = await watch.fleet(2);
      await watch.age(271, ...fleet);
      await Promise.all([watch.sweep.run(), watch.another().run()]);
      await Promise.all([watch.sweep.run(), watch.another().run()]);
      const open = (await watch.alerts(fleet[0]?.vaultId as string)).filter(
        (alert) => alert.status === 'open',
      );
      expect(open.map((alert) => alert.kind)).toEqual(['vault.offline']);
    }
  });
});

describe('a flapping vault', () => {
  it('is told at its third outage and recovers only after a calm while', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    for (let outage = 0; outage < 5; outage += 1) {
      await watch.age(271, agent);
      await watch.sweep.run();
      await watch.beat(agent);
    }
    expect(await watch.outages(agent)).toHaveLength(5);
    expect(await watch.told(agent.vaultId)).toEqual([
      'vault.offline',
      'vault.recovered',
      'vault.offline',
      'vault.recovered',
      'vault.offline',
    ]);
    const open = (await watch.alerts(agent.vaultId)).find((alert) => alert.status === 'open');
    expect(open.flapping).toBe(true);
    await watch.database.acrossTenants('calm-alerts', (transaction) =>
      watch.desk.endCalm(transaction, Date.now() + 601_000, 10),
    );
    expect((await watch.told(agent.vaultId)).at(-1)).toBe('vault.recovered');
  });
});

describe('our own failure', () => {
  it('does not count against agents: nobody is offline while their gateway was deaf', async () => {
    const fleet = await watch.fleet(3);
    const hours = 4;
    await watch.ageUnheard(hours * 3_600, ...fleet);
    await watch.client.query(
      'update monitoring.gateway set last_tick_at = last_tick_at - make_interval(hours => $1)',
      [hours],
    );
    await watch.sweep.run();
    for (const agent of fleet) expect(await watch.status(agent)).not.toBe('offline');
    // The gateway hears again: the spell is written down, and the agents have their allowance.
    await watch.ticks.settle();
    await new Promise((resolve) => setTimeout(resolve, 600));
    await watch.beatAgain();
    await watch.sweep.run();
    for (const agent of fleet) expect(await watch.status(agent)).not.toBe('offline');
    const [spell] = await watch.rows(
      'select * from monitoring.deafness order by ended_at desc limit 1',
    );
    expect(spell.ended_at - spell.started_at).toBeGreaterThan(hours * 3_600_000 - 5_000);
    const [owed] = await watch.rows(
      `select * from messaging.outbox where topic = 'installation.deaf' order by id desc limit 1`,
    );
    expect(owed.payload.gatewayId).toBe(watch.gatewayId);
    // And still: silence that goes on after that is told.
    await watch.client.query(
      `update monitoring.deafness set started_at = started_at - interval '400 s', ended_at = ended_at - interval '400 s'`,
    );
    await watch.ageUnheard(400, ...fleet);
    await watch.sweep.run();
    for (const agent of fleet) expect(await watch.status(agent)).toBe('offline');
  });
});

describe('the clock of the database', () => {
  it('steps forward: that looks like deafness, and nobody is called offline for it', async () => {
    const fleet = await watch.fleet(2);
    await watch.age(3_600, ...fleet);
    await watch.client.query(
      `update monitoring.gateway set last_tick_at = clock_timestamp() - interval '1 hour'`,
    );
    await watch.sweep.run();
    await watch.beat(...fleet);
    for (const agent of fleet) expect(await watch.status(agent)).toBe('online');
    for (const agent of fleet) expect(await watch.outages(agent)).toEqual([]);
  });

  it('steps back: what was seen goes back with it, and silence is not hidden for an hour', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(-3_600, agent);
    await watch.client.query(
      `update monitoring.gateway set last_tick_at = clock_timestamp() + interval '1 hour'`,
    );
    await new Promise((resolve) => setTimeout(resolve, limits.gatewayTickMs));
    await watch.beatAgain();
    const [row] = await watch.rows(
      `select extract(epoch from clock_timestamp() - last_seen_at)::float8 as seconds
       from monitoring.agent_liveness where agent_id = $1`,
      agent.agentId,
    );
    expect(row.seconds).toBeGreaterThanOrEqual(0);
    expect(row.seconds).toBeLessThan(60);
    await watch.age(271, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('offline');
  });
});

describe('thresholds', () => {
  it('follow vault, smallest tag, organization, installation, in this order', async () => {
    const organization = await watch.organization(100);
    const tagged = await watch.vault(organization, { tags: ['a', 'b'] });
    const own = await watch.vault(organization, { tags: ['a'], offlineAfterSeconds: 20 });
    const plain = await watch.vault(organization);
    for (const [tag, seconds] of [
      ['a', 50],
      ['b', 60],
    ]) {
      await watch.client.query(
        'insert into monitoring.threshold_rule (organization_id, id, tag, offline_after_seconds) values ($1, $2, $3, $4)',
        [organization, newUuid(), tag, seconds],
      );
    }
    const agents = await Promise.all(
      [tagged, own, plain].map((vault) => watch.agent(organization, vault)),
    );
    const elsewhere = await watch.organization();
    agents.push(await watch.agent(elsewhere, await watch.vault(elsewhere)));
    await watch.keeper.reconcile();
    const rows = await Promise.all(
      agents.map(
        async (agent) =>
          (
            await watch.rows(
              'select offline_after_ms, interval_ms from monitoring.agent_liveness where agent_id = $1',
              agent.agentId,
            )
          )[0],
      ),
    );
    expect(rows.map((row) => row.offline_after_ms)).toEqual([50_000, 20_000, 100_000, 270_000]);
    expect(rows.map((row) => row.interval_ms)).toEqual([5_555, 2_222, 11_111, 30_000]);
  });

  it('bite on a running agent without a restart, but not before it can know', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(25, agent);
    await watch.client.query('update registry.vault set offline_after_seconds = 15 where id = $1', [
      agent.vaultId,
    ]);
    await watch.keeper.reconcile(agent.organizationId);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('online');
    const answer = await watch.beat(agent);
    expect(answer.results[0]?.intervalMs).toBe(1_666);
    await watch.age(60, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('offline');
  });
});

describe('goodbye and revocation', () => {
  it('turns an agent stopped, quietly, and offline only after a day', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.signals.record({ goodbyes: [agent], supersessions: [] });
    expect(await watch.status(agent)).toBe('stopped');
    expect(await watch.told(agent.vaultId)).toEqual(['vault.stopped']);
    await watch.age(3_600, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('stopped');
    await watch.age(24 * 3_600, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('offline');
    expect((await watch.told(agent.vaultId)).at(-1)).toBe('vault.offline');
  });

  it('stays stopped while its vault is under maintenance', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.signals.record({ goodbyes: [agent], supersessions: [] });
    await watch.client.query(
      `update registry.vault set maintenance_until = now() + interval '2 hours' where id = $1`,
      [agent.vaultId],
    );
    await watch.age(25 * 3_600, agent);
    await watch.sweep.run();
    expect(await watch.status(agent)).toBe('stopped');
  });

  it('of a superseded process changes nothing', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    const old = agent.bootId;
    agent.bootId = newUuid();
    await watch.beat(agent);
    await watch.signals.record({ goodbyes: [{ ...agent, bootId: old }], supersessions: [] });
    expect(await watch.status(agent)).toBe('online');
  });

  it('of a certificate ends the outage without a recovery', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    await watch.age(271, agent);
    await watch.sweep.run();
    await watch.client.query('update registry.agent set revoked_at = now() where id = $1', [
      agent.agentId,
    ]);
    await watch.keeper.reconcile();
    expect(await watch.status(agent)).toBe('revoked');
    expect((await watch.outages(agent))[0].closed_by).toBe('revocation');
    expect(await watch.told(agent.vaultId)).toEqual(['vault.offline']);
    expect((await watch.alerts(agent.vaultId))[0].status).toBe('resolved');
    const answer = await watch.beat(agent);
    expect(answer.results[0]?.outcome).toBe('unknown');
  });
});

describe('a clone', () => {
  it('is told after it took the session back three times; a restart is not a clone', async () => {
    const [agent] = await watch.fleet(1);
    if (!agent) throw new Error('no agent');
    for (let restart = 0; restart < 6; restart += 1) {
      agent.bootId = newUuid();
      agent.sequence = 0;
      await watch.beat(agent);
    }
    expect(await watch.told(agent.vaultId)).toEqual([]);
    const twin = { ...agent, bootId: newUuid() };
    for (let swap = 0; swap < 4; swap += 1) {
      await watch.beat(twin);
      await watch.beat(agent);
    }
    expect(await watch.told(agent.vaultId)).toEqual(['agent.duplicated']);
  });
});

describe('the answer to a beat', () => {
  it('names the policy set assigned to the vault of that agent, at once', async () => {
    const [agent] = await watch.fleet(1);
    const [other] = await watch.fleet(1);
    if (!agent || !other) throw new Error('no agents');
    const before = await watch.beat(agent, other);
    expect(before.results.map((result) => result.assignedPolicySetVersion)).toEqual([null, null]);
    await watch.client.query(
      'insert into policy.policy_set_assignment (organization_id, vault_id, version) values ($1, $2, 7)',
      [agent.organizationId, agent.vaultId],
    );
    const after = await watch.beat(agent, other);
    expect(after.results.map((result) => result.assignedPolicySetVersion)).toEqual([7, null]);
  });
});

describe('counting', () => {
  it('of beats and minutes equals a recount', async () => {
    const fleet = await watch.fleet(2);
    for (let round = 0; round < 5; round += 1) await watch.beat(...fleet);
    const rows = await watch.rows(
      `select coalesce((select sum(beats) from monitoring.agent_hour h where h.agent_id = l.agent_id), 0)::int + l.hour_beats as beats
       from monitoring.agent_liveness l where agent_id = any($1)`,
      fleet.map((agent) => agent.agentId),
    );
    expect(rows.map((row) => row.beats)).toEqual([6, 6]);
    const [agent] = fleet;
    await watch.client.query(
      `update monitoring.agent_liveness set hour = hour - interval '1 hour' where agent_id = $1`,
      [agent?.agentId],
    );
    await watch.beat(...fleet);
    const [hour] = await watch.rows(
      'select * from monitoring.agent_hour where agent_id = $1',
      agent?.agentId,
    );
    expect(hour.beats).toBe(6);
    expect(BigInt(hour.minutes)).toBeGreaterThan(0n);
  });
});

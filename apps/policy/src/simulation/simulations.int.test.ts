import { explainPolicies, simulatePolicies } from '@keystead/contracts/policy';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { given, type Organization, PolicyWorld, permitAll } from '../policy.fixture.ts';

let world: PolicyWorld;
let organization: Organization;

beforeAll(async () => {
  world = await PolicyWorld.open();
  organization = await world.organization();
});
afterAll(() => world.close());

const request = (id: string, role: string, action = 'secret.read-value') => ({
  principal: { type: 'api_key', id, roles: [role] },
  action,
  resource: { namespace: 'payments', secret: 'db/password' },
});
const readers = 'permit(principal in Role::"reader", action, resource);';

test('a draft is laid over what is published, and what changes is counted and named', async () => {
  const { ctx } = organization;
  const policyId = await world.published(organization, permitAll);
  const { set } = await world.signedSet(organization, [policyId]);
  await world.policies.addVersion(
    ctx,
    given({
      params: { id: policyId },
      body: { source: { format: 'cedar', text: readers }, note: '' },
    }),
  );
  const answer = await world.simulations.simulate(
    ctx,
    given<typeof simulatePolicies>({
      body: simulatePolicies.body.parse({
        policySetId: set.id,
        drafts: [{ policyId, version: 2 }],
        requests: [request('a', 'reader'), request('b', 'writer'), request('c', 'writer')],
      }),
    }),
  );
  expect(answer).toMatchObject({
    requests: 3,
    allowed: 1,
    denied: 2,
    newlyAllowed: 0,
    newlyDenied: 2,
    differences: [
      { index: 1, before: 'allow', after: 'deny' },
      { index: 2, before: 'allow', after: 'deny' },
    ],
  });
});

test('one request is explained by the policies that decided, without a set too', async () => {
  const policyId = await world.published(organization, readers);
  const ask = (role: string, action?: string) =>
    world.simulations.explain(
      organization.ctx,
      given<typeof explainPolicies>({
        body: explainPolicies.body.parse({
          drafts: [{ policyId, version: 1 }],
          request: request('a', role, action),
        }),
      }),
    );
  expect(await ask('reader')).toMatchObject({
    decision: { decision: 'allow', decidedBy: [`${policyId}:v1`] },
    explanation: expect.arrayContaining([
      expect.objectContaining({ about: 'policy', id: `${policyId}:v1`, applies: true }),
    ]),
  });
  expect(await ask('writer')).toMatchObject({
    decision: { decision: 'deny', reason: 'not_permitted' },
  });
  await expect(ask('reader', 'secret.steal')).rejects.toMatchObject({ code: 'invalid_request' });
});

test('policies that contradict each other are reported, by their names', async () => {
  const one = await world.published(organization, permitAll, { name: 'Everybody' });
  const other = await world.published(
    organization,
    'forbid(principal, action == Action::"secret.read", resource);',
    { name: 'Nobody reads' },
  );
  const { set } = await world.signedSet(organization, [one, other]);
  const report = await world.simulations.conflicts(
    organization.ctx,
    given({ params: { id: set.id } }),
  );
  expect(report.conflicts).toContainEqual({
    kind: 'contradictory',
    policyIds: [`${one}:v1`, `${other}:v1`],
    policies: [
      { policyId: one, version: 1, name: 'Everybody' },
      { policyId: other, version: 1, name: 'Nobody reads' },
    ],
    what: `where both apply, "Nobody reads" (${other}:v1, vault) forbids what "Everybody" (${one}:v1, vault) permits`,
  });
});

import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import {
  applyPolicies,
  createPolicy,
  listPolicies,
  listPolicyComments,
  listPolicyVersions,
  type updatePolicy,
} from '@keystead/contracts/policy';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import {
  ctxOf,
  denyAll,
  given,
  type Organization,
  PolicyWorld,
  permitAll,
} from '../policy.fixture.ts';
import { checkSource, isValid } from './policy-check.ts';
import { policyTemplates } from './policy-templates.ts';

let world: PolicyWorld;
let organization: Organization;

beforeAll(async () => {
  world = await PolicyWorld.open();
  organization = await world.organization();
});
afterAll(() => world.close());

const cedar = (text: string) => ({ format: 'cedar' as const, text });
const create = (changes: Record<string, unknown> = {}, { ctx }: Organization = organization) =>
  world.policies.create(
    ctx,
    given<typeof createPolicy>({
      body: createPolicy.body.parse({ name: newUuid(), source: cedar(permitAll), ...changes }),
    }),
  );
const at = (id: string, version: number, body: Record<string, unknown> = {}) =>
  given<never>({ params: { id, version }, query: {}, body });

describe('a policy', () => {
  it('goes from draft to reviewed to published, and its versions never change', async () => {
    const { ctx } = organization;
    const { id } = await create();
    expect(await world.policies.getVersion(ctx, at(id, 1))).toMatchObject({
      state: 'draft',
      author: { name: 'Admin' },
      problems: [],
    });
    await world.policies.review(ctx, at(id, 1, { verdict: 'approve', comment: 'good' }));
    expect(await world.policies.publish(ctx, at(id, 1))).toMatchObject({ state: 'published' });
    await world.policies.addVersion(
      ctx,
      given({ params: { id }, body: { source: cedar(denyAll), note: 'stricter' } }),
    );
    await world.policies.publish(ctx, at(id, 2));
    expect(await world.policies.get(ctx, given({ params: { id } }))).toMatchObject({
      latestVersion: 2,
      publishedVersion: 2,
    });
    const { items } = await world.policies.listVersions(
      ctx,
      given({ params: { id }, query: listPolicyVersions.query.parse({}) }),
    );
    expect(items.map(({ version, state }) => [version, state])).toEqual([
      [2, 'published'],
      [1, 'superseded'],
    ]);
    await expect(
      world.database.withTenant(ctx, (transaction) =>
        transaction.policyVersion.updateMany({ data: { content: 'changed' } }),
      ),
    ).rejects.toThrow();
    await world.policies.comment(ctx, at(id, 1, { text: 'yes' }));
    const listed = async (query: object) =>
      world.policies.listComments(
        ctx,
        given({ params: { id, version: 1 }, query: listPolicyComments.query.parse(query) }),
      );
    const { items: first, nextAfter } = await listed({ limit: '1' });
    const { items: rest, nextAfter: end } = await listed({ after: nextAfter });
    expect([...first, ...rest].map(({ text }) => text)).toEqual(['good', 'yes']);
    expect([first.length, end]).toEqual([1, null]);
  });

  it('with four eyes is reviewed and published by somebody else than its author', async () => {
    const { ctx, organizationId } = organization;
    const other = ctxOf(organizationId, 'Other');
    const { id } = await create({ fourEyes: true });
    const approve = at(id, 1, { verdict: 'approve', comment: '' });
    await expect(world.policies.publish(other, at(id, 1))).rejects.toMatchObject({
      code: 'unprocessable',
    });
    await expect(world.policies.review(ctx, approve)).rejects.toMatchObject({
      code: 'unprocessable',
    });
    await world.policies.review(other, approve);
    await expect(world.policies.publish(ctx, at(id, 1))).rejects.toMatchObject({
      code: 'unprocessable',
    });
    expect(await world.policies.publish(other, at(id, 1))).toMatchObject({
      publisher: { name: 'Other' },
    });
  });

  it('with four eyes is not helped over them by API keys, nor by switching them off', async () => {
    const { ctx, organizationId } = organization;
    const key: TenantCtx = { ...ctx, actor: { kind: 'apiKey', id: 'key_1', name: 'CI' } };
    const owner: TenantCtx = { ...ctxOf(organizationId, 'Owner'), role: 'owner' };
    const approve = (id: string) => at(id, 1, { verdict: 'approve', comment: '' });
    const refused = { code: 'unprocessable', detail: expect.stringContaining('API key') };
    const own = await create({ fourEyes: true });
    await expect(world.policies.review(key, approve(own.id))).rejects.toMatchObject(refused);
    const byKey = await create({ fourEyes: true }, { ctx: key, organizationId });
    await world.policies.review(ctx, approve(byKey.id));
    await expect(world.policies.publish(ctx, at(byKey.id, 1))).rejects.toMatchObject(refused);
    await expect(world.policies.publish(key, at(byKey.id, 1))).rejects.toMatchObject(refused);
    await world.policies.publish(owner, at(byKey.id, 1));
    const off = given<typeof updatePolicy>({ params: { id: own.id }, body: { fourEyes: false } });
    const denied = { code: 'permission_denied' };
    await expect(world.policies.update(ctx, off)).rejects.toMatchObject(denied);
    const file = { name: own.name, source: cedar(permitAll) };
    const applied = world.files.apply(
      ctx,
      given<typeof applyPolicies>({
        body: applyPolicies.body.parse({ mode: 'apply', files: [file] }),
      }),
    );
    await expect(applied).rejects.toMatchObject(denied);
    expect(await world.policies.update(owner, off)).toMatchObject({ fourEyes: false });
  });

  it('that is not valid is kept as a draft with its problems, and not published', async () => {
    const { id } = await create({ source: cedar('permit(principle, action, resource);') });
    const shown = await world.policies.getVersion(organization.ctx, at(id, 1));
    expect(shown.problems[0]).toMatchObject({ severity: 'error', where: { line: 1 } });
    for (const act of [
      () => world.policies.publish(organization.ctx, at(id, 1)),
      () => world.policies.review(organization.ctx, at(id, 1, { verdict: 'approve', comment: '' })),
    ]) {
      await expect(act()).rejects.toMatchObject({ code: 'unprocessable' });
    }
  });

  it('is compared with what is published, line by line', async () => {
    const { ctx } = organization;
    const { id } = await create({ source: cedar(`// one\n${permitAll}\n// end`) });
    await world.policies.publish(ctx, at(id, 1));
    await world.policies.addVersion(
      ctx,
      given({ params: { id }, body: { source: cedar(`// one\n${denyAll}\n// end`), note: '' } }),
    );
    expect(await world.policies.diff(ctx, at(id, 2))).toEqual({
      from: 1,
      to: 2,
      lines: [
        { change: 'same', text: '// one' },
        { change: 'removed', text: permitAll },
        { change: 'added', text: denyAll },
        { change: 'same', text: '// end' },
      ],
      truncated: false,
    });
  });

  it('that has more lines than one answer carries is compared as far as it does, and says so', async () => {
    const { ctx } = organization;
    const { id } = await create({ source: cedar('a\n'.repeat(8_000)) });
    const source = cedar('\n'.repeat(16_000));
    await world.policies.addVersion(ctx, given({ params: { id }, body: { source, note: '' } }));
    const answer = await world.policies.diff(ctx, at(id, 2));
    expect(answer.truncated).toBe(true);
    expect(answer.lines.length).toBeGreaterThan(8_000);
    expect(Buffer.byteLength(JSON.stringify(answer))).toBeLessThan(limits.busPayloadMaxBytes);
  });

  it("of another organization is answered like one that is not there, and names are an organization's own", async () => {
    const foreign = await world.organization();
    const { id } = await create({ name: 'Same' });
    await create({ name: 'Same' }, foreign);
    await expect(create({ name: 'SAME' })).rejects.toMatchObject({ code: 'conflict' });
    for (const asked of [id, 'pol_01h455vb4pex5vsknk084sn02q']) {
      await expect(
        world.policies.get(foreign.ctx, given({ params: { id: asked } })),
      ).rejects.toMatchObject({ code: 'not_found' });
      await expect(world.policies.publish(foreign.ctx, at(asked, 1))).rejects.toMatchObject({
        code: 'not_found',
      });
    }
  });

  it('belongs to a namespace exactly at the level of namespaces, and to no set when it is deleted', async () => {
    await expect(create({ level: 'namespace' })).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(create({ namespace: 'payments' })).rejects.toMatchObject({
      code: 'invalid_request',
    });
    const id = await world.published(organization);
    await world.signedSet(organization, [id]);
    await expect(
      world.policies.remove(organization.ctx, given({ params: { id } })),
    ).rejects.toMatchObject({ code: 'conflict' });
  });
});

describe('policies as files', () => {
  it('are applied by name, the same files again change nothing, and a plan changes nothing at all', async () => {
    const { ctx } = await world.organization();
    const apply = (
      texts: Record<string, string>,
      mode: 'plan' | 'apply',
      prune = false,
      keep: string[] = [],
    ) =>
      world.files.apply(
        ctx,
        given<typeof applyPolicies>({
          body: applyPolicies.body.parse({
            files: Object.entries(texts).map(([name, text]) => ({ name, source: cedar(text) })),
            mode,
            prune,
            keep,
          }),
        }),
      );
    const actions = (answer: Awaited<ReturnType<typeof apply>>) =>
      answer.steps.map(({ action, name }) => `${action} ${name}`);
    const files = { one: permitAll, two: denyAll };
    expect(actions(await apply(files, 'plan'))).toEqual(['create one', 'create two']);
    const list = async () =>
      (await world.policies.list(ctx, given({ query: listPolicies.query.parse({}) }))).items;
    expect(await list()).toEqual([]);
    expect(await apply(files, 'apply')).toMatchObject({ applied: true });
    expect(actions(await apply(files, 'apply'))).toEqual(['unchanged one', 'unchanged two']);
    expect((await list()).map(({ latestVersion }) => latestVersion)).toEqual([1, 1]);
    expect(actions(await apply({ one: denyAll }, 'apply', true))).toEqual([
      'update one',
      'delete two',
    ]);
    expect((await list()).map(({ name, latestVersion }) => [name, latestVersion])).toEqual([
      ['one', 2],
    ]);
    const exported = await world.files.export(ctx, given({ query: { limit: 10 } }));
    expect(exported.files).toMatchObject([{ name: 'one', source: cedar(denyAll) }]);
    // Files of more than one call: the last one deletes what none of them brought.
    await apply({ two: denyAll, three: denyAll }, 'apply');
    expect(actions(await apply({ three: denyAll }, 'apply', true, ['ONE']))).toEqual([
      'unchanged three',
      'delete two',
    ]);
    expect(actions(await apply({}, 'apply', true, ['one']))).toEqual(['delete three']);
    for (const body of [{ prune: true }, { keep: ['one'] }, {}]) {
      expect(applyPolicies.body.safeParse({ files: [], ...body }).success).toBe(false);
    }
    await expect(apply({ one: 'permit(' }, 'apply')).rejects.toMatchObject({
      code: 'unprocessable',
    });
    // A draft that somebody has not finished stands in nobody's way as long as it stays as it is.
    await world.policies.create(
      ctx,
      given<typeof createPolicy>({
        body: createPolicy.body.parse({ name: 'unfinished', source: cedar('permit(') }),
      }),
    );
    const asItIs = { one: denyAll, unfinished: 'permit(' };
    expect(actions(await apply(asItIs, 'apply'))).toEqual([
      'unchanged one',
      'unchanged unfinished',
    ]);
  });
});

test('two who apply files at once do it one after the other, in whatever order the files are', async () => {
  const { ctx } = await world.organization();
  const apply = (names: readonly string[], text: string) =>
    world.files.apply(
      ctx,
      given<typeof applyPolicies>({
        body: applyPolicies.body.parse({
          files: names.map((name) => ({ name, source: cedar(text) })),
          mode: 'apply',
        }),
      }),
    );
  const names = ['one', 'two', 'three', 'four'];
  for (let round = 0; round < 3; round += 1) {
    const answers = await Promise.all([
      apply(names, `${permitAll} // ${round}`),
      apply([...names].reverse(), `${denyAll} // ${round}`),
    ]);
    expect(answers.every(({ applied }) => applied)).toBe(true);
  }
  const { files } = await world.files.export(ctx, given({ query: { limit: 10 } }));
  expect(new Set(files.map(({ source }) => source.text)).size).toBe(1);
});

test.each(policyTemplates)('the template $name is valid as it stands', async ({ source }) => {
  const problems = await checkSource(source);
  expect(problems).toEqual([]);
  expect(isValid(problems)).toBe(true);
});

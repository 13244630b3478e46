/** The policy service without its bus, over a real database and with certificates of a real authority. */
import { randomBytes, X509Certificate } from 'node:crypto';
import { Listing } from '@keystead/access/listing';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import {
  commandSignerUri,
  organizationSignerUri,
} from '@keystead/agent-protocol/policy-set-signature';
import {
  ExtendedKeyUsage,
  Pkcs10CertificateRequest,
  TestAuthority,
  testTrustDomain,
} from '@keystead/agent-protocol/test-authority.fixture';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Input, Operation } from '@keystead/contracts/operation';
import { permissionsOf } from '@keystead/contracts/permissions';
import { createPolicy, createPolicySet } from '@keystead/contracts/policy';
import { Database } from '@keystead/database/database';
import type { Bus } from '@keystead/messaging/bus';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import { ApprovalsEnd } from './approvals/approval-reports.ts';
import { Approvals } from './approvals/approvals.ts';
import { Assignments } from './assignments/assignments.ts';
import { AgentCommands } from './deliveries/agent-commands.ts';
import { AgentPolicies } from './deliveries/agent-policies.ts';
import { AgentReports } from './deliveries/agent-reports.ts';
import { Deliveries } from './deliveries/deliveries.ts';
import { Policies } from './policies/policies.ts';
import { PolicyFiles } from './policies/policy-files.ts';
import { PolicySets } from './policy-sets/policy-sets.ts';
import { ReplayRunner } from './replays/replay-runner.ts';
import { Replays } from './replays/replays.ts';
import { RolloutRunner } from './rollouts/rollout-runner.ts';
import { Rollouts } from './rollouts/rollouts.ts';
import { StandingRollouts } from './rollouts/standing-rollouts.ts';
import { CommandSigner } from './signing/command-signer.ts';
import { OrganizationSigners } from './signing/organization-signers.ts';
import { Simulations } from './simulation/simulations.ts';

export const permitAll = 'permit(principal, action, resource);';
export const denyAll = 'forbid(principal, action, resource);';

export interface Organization {
  ctx: TenantCtx;
  organizationId: string;
}

export interface TestVault extends Organization {
  vaultId: string;
  agents: string[];
}

export class PolicyWorld {
  readonly urls: TestDatabase;
  readonly database: Database;
  readonly authority: TestAuthority;
  readonly nudges: string[] = [];
  /** What the nudges are about. */
  readonly nudged: string[] = [];
  readonly policies: Policies;
  readonly files: PolicyFiles;
  readonly sets: PolicySets;
  readonly assignments: Assignments;
  readonly deliveries: Deliveries;
  readonly reports: AgentReports;
  readonly commands: AgentCommands;
  readonly approvals: Approvals;
  readonly approvalsEnd: ApprovalsEnd;
  readonly agentPolicies: AgentPolicies;
  readonly replays: Replays;
  readonly replayRunner: ReplayRunner;
  readonly rollouts: Rollouts;
  readonly runner: RolloutRunner;
  readonly standing: StandingRollouts;
  readonly simulations: Simulations;
  readonly signers: OrganizationSigners;
  readonly work: TenantWork;
  readonly listing: Listing;
  readonly bus: Bus;

  private constructor(urls: TestDatabase, authority: TestAuthority) {
    this.urls = urls;
    this.authority = authority;
    this.database = new Database({ serviceUrl: urls.serviceUrl, acrossUrl: urls.acrossUrl });
    const key = new InstallationKey(randomBytes(32));
    this.work = new TenantWork(this.database, key);
    this.listing = new Listing(key);
    this.bus = {
      nudge: (name: string, about = '') => {
        this.nudges.push(name);
        this.nudged.push(about);
      },
      call: (declared: { subject: string }, _ctx: unknown, input: never) =>
        this.#certify(declared.subject, input),
    } as unknown as Bus;
    this.signers = new OrganizationSigners(this.work, key, this.bus);
    this.policies = new Policies(this.work, this.listing);
    this.files = new PolicyFiles(this.work);
    this.sets = new PolicySets(this.work, this.listing, this.signers);
    this.assignments = new Assignments(this.work, this.bus);
    this.deliveries = new Deliveries(
      this.database,
      new CommandSigner(this.bus),
      this.signers,
      this.bus,
    );
    this.reports = new AgentReports(this.database, this.bus);
    this.commands = new AgentCommands(this.database, this.bus);
    this.approvals = new Approvals(this.work, this.listing, this.signers, this.commands);
    this.approvalsEnd = new ApprovalsEnd(this.database, this.bus);
    this.standing = new StandingRollouts(this.database, this.bus);
    this.simulations = new Simulations(this.work);
    this.agentPolicies = new AgentPolicies(this.work);
    this.replays = new Replays(this.work, this.listing, this.commands);
    this.replayRunner = new ReplayRunner(this.database);
    this.rollouts = new Rollouts(this.work, this.listing, this.signers, this.bus);
    this.runner = new RolloutRunner(this.database, this.bus);
  }

  static async open(): Promise<PolicyWorld> {
    return new PolicyWorld(await createTestDatabase(), await TestAuthority.create());
  }

  async close(): Promise<void> {
    await this.database.close();
    await this.urls.drop();
  }

  get root(): X509Certificate {
    return new X509Certificate(this.authority.root);
  }

  /** What the registry answers. */
  async #certify(subject: string, input: { organizationId: string; csr: string }) {
    const request = new Pkcs10CertificateRequest(Buffer.from(input.csr, 'base64'));
    const uri = subject.endsWith('policy-signer')
      ? organizationSignerUri(testTrustDomain, input.organizationId)
      : commandSignerUri(testTrustDomain);
    const leaf = await this.authority.certify(await request.publicKey.export(), {
      names: [{ type: 'url', value: uri }],
      usages: [ExtendedKeyUsage.codeSigning],
      notAfter: new Date(Date.now() + 365 * 86_400_000),
    });
    return {
      certificateChain: [leaf, this.authority.intermediate, this.authority.root],
      trustDomain: testTrustDomain,
    };
  }

  async organization(): Promise<Organization> {
    const organizationId = newUuid();
    await this.database.withTenant({ organizationId }, (transaction) =>
      transaction.organization.create({ data: { organizationId, name: 'Example' } }),
    );
    return { organizationId, ctx: ctxOf(organizationId) };
  }

  /** @param reported what each agent's heartbeat says that it holds */
  async vault(
    { organizationId, ctx }: Organization,
    reported: readonly (number | null)[] = [],
    tags: string[] = [],
  ): Promise<TestVault> {
    const vaultId = newUuid();
    const agents: string[] = [];
    await this.database.withTenant({ organizationId }, async (transaction) => {
      await transaction.vault.create({
        data: { organizationId, id: vaultId, name: `v-${vaultId.slice(-12)}`, tags },
      });
      for (const policySetVersion of reported) {
        const agentId = newUuid();
        agents.push(agentId);
        await transaction.agent.create({
          data: {
            organizationId,
            id: agentId,
            vaultId,
            name: 'a',
            serialNumber: agentId,
            notBefore: new Date(),
            expiresAt: new Date(Date.now() + 86_400_000),
          },
        });
        await transaction.agentLiveness.create({
          data: {
            organizationId,
            agentId,
            vaultId,
            policySetVersion,
            offlineAfterMs: 270_000,
            intervalMs: 30_000,
          },
        });
      }
    });
    return { organizationId, ctx, vaultId, agents };
  }

  /** A policy with its first version published. */
  async published(
    { ctx }: Organization,
    text = permitAll,
    changes: Record<string, unknown> = {},
  ): Promise<string> {
    const { id } = await this.policies.create(
      ctx,
      given<typeof createPolicy>({
        body: createPolicy.body.parse({
          name: `policy ${newUuid()}`,
          source: { format: 'cedar', text },
          ...changes,
        }),
      }),
    );
    await this.policies.publish(ctx, given({ params: { id, version: 1 } }));
    return id;
  }

  /** A set of these policies with its first signed version. */
  async signedSet(organization: Organization, policyIds?: string[]) {
    const { ctx } = organization;
    const set = await this.sets.create(
      ctx,
      given<typeof createPolicySet>({
        body: createPolicySet.body.parse({
          name: `set ${newUuid()}`,
          policyIds: policyIds ?? [await this.published(organization)],
        }),
      }),
    );
    return { set, signed: await this.sign(organization, set.id) };
  }

  sign({ ctx }: Organization, id: string) {
    return this.sets.addVersion(ctx, given({ params: { id }, body: { note: '' } }));
  }

  assign({ ctx, vaultId }: TestVault, version: number, ifMatch: string | null = null) {
    return this.assignments.assign(
      ctx,
      given({ params: { id: toId('vault', vaultId) }, body: { version }, ifMatch }),
    );
  }
}

export function ctxOf(organizationId: string, name = 'Admin'): TenantCtx {
  return {
    organizationId,
    actor: { kind: 'person', id: `usr-${name}`, name },
    role: 'admin',
    permissions: [...permissionsOf.admin],
    personId: newUuid(),
    credentialId: newUuid(),
    requestId: newUuid(),
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
}

export function given<O extends Operation>(input: {
  params?: Record<string, unknown>;
  query?: Record<string, unknown>;
  body?: Record<string, unknown>;
  ifMatch?: string | null;
}): Input<O> {
  return { params: {}, query: {}, body: {}, ifMatch: null, ...input } as unknown as Input<O>;
}

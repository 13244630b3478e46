-- Policies, the signed sets made of them, their rollouts, and how far each agent is.

-- CreateTable
CREATE TABLE "policy"."policy" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL DEFAULT '',
    "level" TEXT NOT NULL,
    "namespace" TEXT,
    "four_eyes" BOOLEAN NOT NULL DEFAULT false,
    "latest_version" INTEGER NOT NULL,
    "published_version" INTEGER,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deleted_at" TIMESTAMPTZ(3),
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "policy_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."policy_version" (
    "organization_id" UUID NOT NULL,
    "policy_id" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "state" TEXT NOT NULL DEFAULT 'draft',
    "format" TEXT NOT NULL,
    "content" TEXT NOT NULL,
    "digest" TEXT NOT NULL,
    "note" TEXT NOT NULL DEFAULT '',
    "author_id" TEXT NOT NULL,
    "author_name" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "reviewer_id" TEXT,
    "reviewer_name" TEXT,
    "reviewed_at" TIMESTAMPTZ(3),
    "publisher_id" TEXT,
    "publisher_name" TEXT,
    "published_at" TIMESTAMPTZ(3),

    CONSTRAINT "policy_version_pkey" PRIMARY KEY ("organization_id","policy_id","version")
);

-- CreateTable
CREATE TABLE "policy"."policy_comment" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "policy_id" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "author_id" TEXT NOT NULL,
    "author_name" TEXT NOT NULL,
    "text" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "policy_comment_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."policy_set" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL DEFAULT '',
    "policy_ids" UUID[],
    "settings" JSONB NOT NULL,
    "latest_number" INTEGER,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deleted_at" TIMESTAMPTZ(3),
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "policy_set_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."policy_set_version" (
    "organization_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "set_id" UUID NOT NULL,
    "digest" TEXT NOT NULL,
    "predecessor_digest" TEXT NOT NULL,
    "content" BYTEA NOT NULL,
    "signature" BYTEA NOT NULL,
    "signer_chain" BYTEA[],
    "note" TEXT NOT NULL DEFAULT '',
    "created_by" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "policy_set_version_pkey" PRIMARY KEY ("organization_id","number")
);

-- CreateTable
CREATE TABLE "policy"."organization_signer" (
    "organization_id" UUID NOT NULL,
    "generation" INTEGER NOT NULL,
    "sealed_key" BYTEA NOT NULL,
    "chain" BYTEA[],
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "organization_signer_pkey" PRIMARY KEY ("organization_id","generation")
);

-- CreateTable
CREATE TABLE "policy"."rollout" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "set_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "state" TEXT NOT NULL,
    "stage" INTEGER NOT NULL DEFAULT 0,
    "stages" JSONB NOT NULL,
    "halt" JSONB NOT NULL,
    "reason" TEXT,
    "vault_count" INTEGER NOT NULL,
    "created_by" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "stage_started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "finished_at" TIMESTAMPTZ(3),
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "rollout_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."rollout_vault" (
    "organization_id" UUID NOT NULL,
    "rollout_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "stage" INTEGER NOT NULL,
    "previous_number" INTEGER,

    CONSTRAINT "rollout_vault_pkey" PRIMARY KEY ("organization_id","rollout_id","vault_id")
);

-- CreateTable
CREATE TABLE "policy"."agent_policy" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "state" TEXT NOT NULL,
    "number" INTEGER,
    "held_number" INTEGER,
    "held_digest" TEXT,
    "reason" TEXT,
    "command_number" BIGINT NOT NULL DEFAULT 0,
    "delivered_at" TIMESTAMPTZ(3),
    "active_at" TIMESTAMPTZ(3),
    "stale_since" TIMESTAMPTZ(3),
    "allowed" BIGINT NOT NULL DEFAULT 0,
    "denied" BIGINT NOT NULL DEFAULT 0,
    "newly_denied" BIGINT NOT NULL DEFAULT 0,
    "errors" BIGINT NOT NULL DEFAULT 0,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "agent_policy_pkey" PRIMARY KEY ("organization_id","agent_id")
);

-- CreateIndex
CREATE INDEX "policy_organization_id_created_at_id_idx" ON "policy"."policy"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "policy_organization_id_updated_at_id_idx" ON "policy"."policy"("organization_id", "updated_at", "id");

-- CreateIndex
CREATE INDEX "policy_name_order" ON "policy"."policy"("organization_id", "name", "id");

-- CreateIndex
CREATE INDEX "policy_comment_organization_id_policy_id_version_id_idx" ON "policy"."policy_comment"("organization_id", "policy_id", "version", "id");

-- CreateIndex
CREATE INDEX "policy_set_organization_id_created_at_id_idx" ON "policy"."policy_set"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "policy_set_organization_id_updated_at_id_idx" ON "policy"."policy_set"("organization_id", "updated_at", "id");

-- CreateIndex
CREATE INDEX "policy_set_name_order" ON "policy"."policy_set"("organization_id", "name", "id");

-- CreateIndex
CREATE INDEX "policy_set_version_organization_id_set_id_number_idx" ON "policy"."policy_set_version"("organization_id", "set_id", "number");

-- CreateIndex
CREATE UNIQUE INDEX "policy_set_version_organization_id_digest_key" ON "policy"."policy_set_version"("organization_id", "digest");

-- CreateIndex
CREATE INDEX "rollout_organization_id_created_at_id_idx" ON "policy"."rollout"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "rollout_state_idx" ON "policy"."rollout"("state");

-- CreateIndex
CREATE INDEX "rollout_vault_organization_id_rollout_id_stage_idx" ON "policy"."rollout_vault"("organization_id", "rollout_id", "stage");

-- CreateIndex
CREATE INDEX "rollout_vault_organization_id_vault_id_idx" ON "policy"."rollout_vault"("organization_id", "vault_id");

-- CreateIndex
CREATE INDEX "agent_policy_organization_id_vault_id_idx" ON "policy"."agent_policy"("organization_id", "vault_id");

-- AddForeignKey
ALTER TABLE "policy"."policy_version" ADD CONSTRAINT "policy_version_organization_id_policy_id_fkey" FOREIGN KEY ("organization_id", "policy_id") REFERENCES "policy"."policy"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "policy"."policy_comment" ADD CONSTRAINT "policy_comment_organization_id_policy_id_version_fkey" FOREIGN KEY ("organization_id", "policy_id", "version") REFERENCES "policy"."policy_version"("organization_id", "policy_id", "version") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "policy"."policy_set_version" ADD CONSTRAINT "policy_set_version_organization_id_set_id_fkey" FOREIGN KEY ("organization_id", "set_id") REFERENCES "policy"."policy_set"("organization_id", "id") ON DELETE RESTRICT ON UPDATE CASCADE;

CALL tenancy.protect('policy.policy');
CALL tenancy.protect('policy.policy_version');
CALL tenancy.protect('policy.policy_comment');
CALL tenancy.protect('policy.policy_set');
CALL tenancy.protect('policy.policy_set_version');
CALL tenancy.protect('policy.organization_signer');
CALL tenancy.protect('policy.rollout');
CALL tenancy.protect('policy.rollout_vault');
CALL tenancy.protect('policy.agent_policy');

-- What was written, signed or published stays as it was: only the state of a version moves on.
REVOKE UPDATE ON policy.policy_version, policy.policy_set_version, policy.policy_comment
  FROM keystead_service, keystead_across;
GRANT UPDATE (state, reviewer_id, reviewer_name, reviewed_at, publisher_id, publisher_name, published_at)
  ON policy.policy_version TO keystead_service, keystead_across;
GRANT UPDATE (signature, signer_chain) ON policy.policy_set_version TO keystead_service, keystead_across;

-- A name belongs to one living policy and one living set of an organization.
CREATE UNIQUE INDEX policy_living_name ON policy.policy (organization_id, lower(name))
  WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX policy_set_living_name ON policy.policy_set (organization_id, lower(name))
  WHERE deleted_at IS NULL;
-- One rollout at a time moves a set.
CREATE UNIQUE INDEX rollout_under_way ON policy.rollout (organization_id, set_id)
  WHERE state IN ('running', 'paused', 'halted');

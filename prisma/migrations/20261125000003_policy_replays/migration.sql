-- Replays: what agents say that a draft would have decided otherwise.

-- AlterTable
ALTER TABLE "policy"."agent_command" ADD COLUMN "number" BIGINT;

-- CreateTable
CREATE TABLE "policy"."replay" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "set_id" UUID,
    "number" INTEGER,
    "policy_ids" UUID[],
    "policy_versions" INTEGER[],
    "target" JSONB NOT NULL,
    "days" INTEGER NOT NULL,
    "digest" TEXT NOT NULL,
    "says_digest" TEXT NOT NULL,
    "content" BYTEA,
    "total_bytes" INTEGER NOT NULL,
    "state" TEXT NOT NULL DEFAULT 'running',
    "matching" INTEGER NOT NULL,
    "created_by" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "finished_at" TIMESTAMPTZ(3),

    CONSTRAINT "replay_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."replay_agent" (
    "organization_id" UUID NOT NULL,
    "replay_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "state" TEXT NOT NULL DEFAULT 'pending',
    "from_at" TIMESTAMPTZ(3),
    "decisions" BIGINT NOT NULL DEFAULT 0,
    "newly_denied" BIGINT NOT NULL DEFAULT 0,
    "newly_allowed" BIGINT NOT NULL DEFAULT 0,
    "newly_needing_approval" BIGINT NOT NULL DEFAULT 0,
    "unchanged" BIGINT NOT NULL DEFAULT 0,
    "unevaluated" JSONB NOT NULL DEFAULT '[]',
    "differences" JSONB NOT NULL DEFAULT '[]',
    "duration_ms" INTEGER NOT NULL DEFAULT 0,
    "answered_at" TIMESTAMPTZ(3),

    CONSTRAINT "replay_agent_pkey" PRIMARY KEY ("organization_id","replay_id","agent_id")
);

-- CreateIndex
CREATE INDEX "replay_organization_id_created_at_id_idx" ON "policy"."replay"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "replay_organization_id_says_digest_created_at_idx" ON "policy"."replay"("organization_id", "says_digest", "created_at");

-- CreateIndex
CREATE INDEX "replay_organization_id_digest_idx" ON "policy"."replay"("organization_id", "digest");

-- AddForeignKey
ALTER TABLE "policy"."replay_agent" ADD CONSTRAINT "replay_agent_organization_id_replay_id_fkey" FOREIGN KEY ("organization_id", "replay_id") REFERENCES "policy"."replay"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

CREATE INDEX replay_running ON policy.replay (expires_at) WHERE state = 'running';

CALL tenancy.protect('policy.replay');
CALL tenancy.protect('policy.replay_agent');

-- Agents that are heard and do not answer: since when, and those that a rollout goes on without.

-- AlterTable
ALTER TABLE "policy"."agent_policy" ADD COLUMN "waiting_since" TIMESTAMPTZ(3);

-- CreateTable
CREATE TABLE "policy"."rollout_skipped_agent" (
    "organization_id" UUID NOT NULL,
    "rollout_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,

    CONSTRAINT "rollout_skipped_agent_pkey" PRIMARY KEY ("organization_id","rollout_id","agent_id")
);

CALL tenancy.protect('policy.rollout_skipped_agent');

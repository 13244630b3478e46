-- What agents are told to do besides holding a policy set: kept until they have done it, or it is too late.

-- CreateTable
CREATE TABLE "policy"."agent_command" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "subject_id" UUID NOT NULL,
    "action" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "sent_at" TIMESTAMPTZ(3),

    CONSTRAINT "agent_command_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateIndex
CREATE INDEX "agent_command_organization_id_agent_id_idx" ON "policy"."agent_command"("organization_id", "agent_id");

-- CreateIndex
CREATE INDEX "agent_command_organization_id_subject_id_idx" ON "policy"."agent_command"("organization_id", "subject_id");

-- CreateIndex
CREATE INDEX "agent_command_expires_at_idx" ON "policy"."agent_command"("expires_at");

CALL tenancy.protect('policy.agent_command');

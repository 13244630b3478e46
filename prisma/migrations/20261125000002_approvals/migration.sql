-- What waits in vaults for agreement, as agents report it, and what people decide about it here.

-- CreateTable
CREATE TABLE "policy"."approval" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "revision" INTEGER NOT NULL,
    "state" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "namespace_ref" TEXT,
    "secret_ref" TEXT,
    "other_ref" TEXT,
    "requester_ref" TEXT NOT NULL,
    "requirements" JSONB NOT NULL,
    "reported" JSONB NOT NULL,
    "requested_at" TIMESTAMPTZ(3) NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "told" BOOLEAN NOT NULL DEFAULT false,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "approval_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "policy"."approval_decision" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "approval_id" UUID NOT NULL,
    "verdict" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "person_id" UUID NOT NULL,
    "person_name" TEXT NOT NULL,
    "decided_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "state" TEXT NOT NULL DEFAULT 'sent',
    "refusal" TEXT,

    CONSTRAINT "approval_decision_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateIndex
CREATE INDEX "approval_organization_id_requested_at_id_idx" ON "policy"."approval"("organization_id", "requested_at", "id");

-- CreateIndex
CREATE INDEX "approval_organization_id_expires_at_id_idx" ON "policy"."approval"("organization_id", "expires_at", "id");

-- CreateIndex
CREATE INDEX "approval_organization_id_vault_id_idx" ON "policy"."approval"("organization_id", "vault_id");

-- CreateIndex
CREATE INDEX "approval_state_expires_at_idx" ON "policy"."approval"("state", "expires_at");

-- CreateIndex
CREATE INDEX "approval_decision_organization_id_approval_id_idx" ON "policy"."approval_decision"("organization_id", "approval_id");

-- AddForeignKey
ALTER TABLE "policy"."approval_decision" ADD CONSTRAINT "approval_decision_organization_id_approval_id_fkey" FOREIGN KEY ("organization_id", "approval_id") REFERENCES "policy"."approval"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

CALL tenancy.protect('policy.approval');
CALL tenancy.protect('policy.approval_decision');

-- Nobody counts twice. What the vault refused does not count at all.
CREATE UNIQUE INDEX approval_decision_of_person ON policy.approval_decision
  (organization_id, approval_id, person_id) WHERE state <> 'refused';

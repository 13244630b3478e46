-- What agents report beside their own life: how far their audit has come, and what they were used for.

-- CreateTable
CREATE TABLE "monitoring"."audit_head" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "chain_id" TEXT NOT NULL,
    "sequence" BIGINT NOT NULL,
    "hash" TEXT NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "received_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "entries_since_previous" BIGINT NOT NULL,
    "signature" TEXT NOT NULL,
    "signer_key_digest" TEXT,
    "boot_id" UUID NOT NULL,
    "event_sequence" BIGINT NOT NULL,
    "contradiction" TEXT,

    CONSTRAINT "audit_head_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "analytics"."operation_hour" (
    "organization_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "operation" TEXT NOT NULL,
    "outcome" TEXT NOT NULL,
    "count" BIGINT NOT NULL,
    "p50_us" BIGINT NOT NULL,
    "p95_us" BIGINT NOT NULL,
    "p99_us" BIGINT NOT NULL,

    CONSTRAINT "operation_hour_pkey" PRIMARY KEY ("organization_id","vault_id","agent_id","hour","operation","outcome")
);

-- CreateTable
CREATE TABLE "analytics"."secret_hour" (
    "organization_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "secret_ref" TEXT NOT NULL,
    "count" BIGINT NOT NULL,

    CONSTRAINT "secret_hour_pkey" PRIMARY KEY ("organization_id","vault_id","hour","secret_ref")
);

-- CreateTable
CREATE TABLE "analytics"."stock_hour" (
    "organization_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "period_end" TIMESTAMPTZ(3) NOT NULL,
    "namespaces" BIGINT NOT NULL,
    "secrets" BIGINT NOT NULL,
    "stored_bytes" BIGINT NOT NULL,

    CONSTRAINT "stock_hour_pkey" PRIMARY KEY ("organization_id","vault_id","agent_id","hour")
);

-- AlterTable
ALTER TABLE "monitoring"."alert" ADD COLUMN "reasons" TEXT[] DEFAULT ARRAY[]::TEXT[];

-- AlterTable
ALTER TABLE "monitoring"."alert_agent" ADD COLUMN "reasons" TEXT[] DEFAULT ARRAY[]::TEXT[];

-- CreateIndex
CREATE INDEX "audit_head_organization_id_agent_id_received_at_id_idx" ON "monitoring"."audit_head"("organization_id", "agent_id", "received_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "audit_head_organization_id_agent_id_chain_id_sequence_hash_key" ON "monitoring"."audit_head"("organization_id", "agent_id", "chain_id", "sequence", "hash");

-- CreateIndex
CREATE INDEX "audit_head_received_at_idx" ON "monitoring"."audit_head"("received_at");

-- CreateIndex
CREATE INDEX "operation_hour_hour_idx" ON "analytics"."operation_hour"("hour");

-- CreateIndex
CREATE INDEX "secret_hour_hour_idx" ON "analytics"."secret_hour"("hour");

-- CreateIndex
CREATE INDEX "stock_hour_hour_idx" ON "analytics"."stock_hour"("hour");

CALL tenancy.protect('monitoring.audit_head');
CALL tenancy.protect('analytics.operation_hour');
CALL tenancy.protect('analytics.secret_hour');
CALL tenancy.protect('analytics.stock_hour');

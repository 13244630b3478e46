-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "analytics";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "auth";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "messaging";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "monitoring";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "notification";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "policy";

-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "registry";

-- CreateTable
CREATE TABLE "analytics"."vault_hour" (
    "organization_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "heartbeats" INTEGER NOT NULL DEFAULT 0,
    "minutes" BIGINT NOT NULL DEFAULT 0,
    "outages" INTEGER NOT NULL DEFAULT 0,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "vault_hour_pkey" PRIMARY KEY ("organization_id","vault_id","hour")
);

-- CreateTable
CREATE TABLE "analytics"."rolled_up_hour" (
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "completed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "rolled_up_hour_pkey" PRIMARY KEY ("hour")
);

-- CreateTable
CREATE TABLE "auth"."organization" (
    "organization_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "offline_after_seconds" INTEGER,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "organization_pkey" PRIMARY KEY ("organization_id")
);

-- CreateTable
CREATE TABLE "auth"."person" (
    "id" UUID NOT NULL,
    "email" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "password_hash" TEXT,
    "verified_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "person_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "auth"."member" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "person_id" UUID,
    "email" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "invitation_hash" BYTEA,
    "invitation_expires_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "member_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "auth"."session" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "member_id" UUID NOT NULL,
    "person_id" UUID NOT NULL,
    "refresh_hash" BYTEA NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "revoked_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_refreshed_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "address" TEXT,
    "user_agent" TEXT,

    CONSTRAINT "session_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "auth"."api_key" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "prefix" TEXT NOT NULL,
    "hash" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3),
    "last_used_at" TIMESTAMPTZ(3),
    "revoked_at" TIMESTAMPTZ(3),

    CONSTRAINT "api_key_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "auth"."audit_event" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "actor_kind" TEXT NOT NULL,
    "actor_id" TEXT NOT NULL,
    "actor_name" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "target_kind" TEXT,
    "target_id" TEXT,
    "target_name" TEXT,
    "result" TEXT NOT NULL,
    "request_id" TEXT NOT NULL,
    "address" TEXT,
    "changes" JSONB,

    CONSTRAINT "audit_event_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "auth"."idempotency_record" (
    "organization_id" UUID NOT NULL,
    "actor_id" TEXT NOT NULL,
    "key_hash" BYTEA NOT NULL,
    "operation" TEXT NOT NULL,
    "request_hash" BYTEA NOT NULL,
    "answer" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "idempotency_record_pkey" PRIMARY KEY ("organization_id","actor_id","key_hash")
);

-- CreateTable
CREATE TABLE "messaging"."outbox" (
    "organization_id" UUID,
    "id" BIGSERIAL NOT NULL,
    "topic" TEXT NOT NULL,
    "payload" JSONB NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "available_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "failures" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "outbox_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_liveness" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "status" TEXT NOT NULL DEFAULT 'pending',
    "status_since" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_seen_at" TIMESTAMPTZ(3),
    "boot_id" UUID,
    "sequence" BIGINT NOT NULL DEFAULT 0,
    "gateway_id" UUID,
    "offline_after_ms" INTEGER NOT NULL,
    "interval_ms" INTEGER NOT NULL,
    "counts_from" TIMESTAMPTZ(3),
    "health" TEXT,
    "policy_set_version" INTEGER,
    "hour" TIMESTAMPTZ(0),
    "hour_beats" INTEGER NOT NULL DEFAULT 0,
    "hour_minutes" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "agent_liveness_pkey" PRIMARY KEY ("organization_id","agent_id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_due" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "due_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "agent_due_pkey" PRIMARY KEY ("organization_id","agent_id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_report" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "version" TEXT NOT NULL,
    "hostname" TEXT NOT NULL,
    "platform" TEXT NOT NULL,
    "architecture" TEXT NOT NULL,
    "runtime" TEXT NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "agent_report_pkey" PRIMARY KEY ("organization_id","agent_id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_boot" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "boot_id" UUID NOT NULL,
    "first_seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "returns" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "agent_boot_pkey" PRIMARY KEY ("organization_id","agent_id","boot_id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_hour" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "vault_id" UUID NOT NULL,
    "beats" INTEGER NOT NULL,
    "minutes" BIGINT NOT NULL,

    CONSTRAINT "agent_hour_pkey" PRIMARY KEY ("organization_id","agent_id","hour")
);

-- CreateTable
CREATE TABLE "monitoring"."outage" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "silent_since" TIMESTAMPTZ(3) NOT NULL,
    "opened_at" TIMESTAMPTZ(3) NOT NULL,
    "closed_at" TIMESTAMPTZ(3),
    "closed_by" TEXT,

    CONSTRAINT "outage_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."alert" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "kind" TEXT NOT NULL,
    "severity" TEXT NOT NULL,
    "severity_rank" INTEGER NOT NULL,
    "status" TEXT NOT NULL,
    "summary" TEXT NOT NULL,
    "flapping" BOOLEAN NOT NULL DEFAULT false,
    "calm_at" TIMESTAMPTZ(3),
    "opened_at" TIMESTAMPTZ(3) NOT NULL,
    "resolved_at" TIMESTAMPTZ(3),
    "acknowledged_at" TIMESTAMPTZ(3),
    "acknowledged_by" TEXT,
    "muted_until" TIMESTAMPTZ(3),
    "silent_since" TIMESTAMPTZ(3),
    "resolves_id" UUID,
    "outage_seconds" DOUBLE PRECISION,
    "agent_count" INTEGER NOT NULL DEFAULT 0,
    "superseded_by_id" UUID,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "alert_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."alert_agent" (
    "organization_id" UUID NOT NULL,
    "alert_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "agent_name" TEXT NOT NULL,

    CONSTRAINT "alert_agent_pkey" PRIMARY KEY ("organization_id","alert_id","agent_id")
);

-- CreateTable
CREATE TABLE "monitoring"."threshold_rule" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "tag" TEXT NOT NULL,
    "offline_after_seconds" INTEGER NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "threshold_rule_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."alert_rule" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "events" TEXT[],
    "vault_tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "action" TEXT NOT NULL,
    "severity" TEXT,
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "alert_rule_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."agent_event" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "boot_id" UUID NOT NULL,
    "sequence" BIGINT NOT NULL,
    "kind" TEXT NOT NULL,
    "occurred_at" TIMESTAMPTZ(3) NOT NULL,
    "received_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "details" JSONB NOT NULL,
    "signature" TEXT NOT NULL,

    CONSTRAINT "agent_event_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."live_event" (
    "organization_id" UUID NOT NULL,
    "id" BIGSERIAL NOT NULL,
    "transaction_id" BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    "type" TEXT NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "data" JSONB NOT NULL,

    CONSTRAINT "live_event_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "monitoring"."gateway" (
    "id" UUID NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_tick_at" TIMESTAMPTZ(3) NOT NULL,
    "drained_at" TIMESTAMPTZ(3),
    "gone_at" TIMESTAMPTZ(3),

    CONSTRAINT "gateway_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "monitoring"."deafness" (
    "id" UUID NOT NULL,
    "gateway_id" UUID NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL,
    "ended_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "deafness_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "notification"."channel" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "kind" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "sealed_config" BYTEA NOT NULL,
    "sealed_secret" BYTEA,
    "sealed_previous" BYTEA,
    "previous_valid_until" TIMESTAMPTZ(3),
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "disabled_reason" TEXT,
    "failing_since" TIMESTAMPTZ(3),
    "last_delivered_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "channel_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "notification"."recipient_confirmation" (
    "organization_id" UUID NOT NULL,
    "email" TEXT NOT NULL,
    "token_hash" BYTEA NOT NULL,
    "requested_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "confirmed_at" TIMESTAMPTZ(3),

    CONSTRAINT "recipient_confirmation_pkey" PRIMARY KEY ("organization_id","email")
);

-- CreateTable
CREATE TABLE "notification"."mail_hour" (
    "organization_id" UUID NOT NULL,
    "hour" TIMESTAMPTZ(0) NOT NULL,
    "mails" INTEGER NOT NULL DEFAULT 0,
    "confirmations" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "mail_hour_pkey" PRIMARY KEY ("organization_id","hour")
);

-- CreateTable
CREATE TABLE "notification"."subscription" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "events" TEXT[],
    "vault_tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "subscription_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "notification"."subscription_channel" (
    "organization_id" UUID NOT NULL,
    "subscription_id" UUID NOT NULL,
    "channel_id" UUID NOT NULL,

    CONSTRAINT "subscription_channel_pkey" PRIMARY KEY ("organization_id","subscription_id","channel_id")
);

-- CreateTable
CREATE TABLE "notification"."delivery" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "channel_id" UUID NOT NULL,
    "kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "attempt_count" INTEGER NOT NULL DEFAULT 0,
    "next_attempt_at" TIMESTAMPTZ(3),
    "lease_until" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "delivered_at" TIMESTAMPTZ(3),
    "content" JSONB,

    CONSTRAINT "delivery_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "notification"."delivery_alert" (
    "organization_id" UUID NOT NULL,
    "channel_id" UUID NOT NULL,
    "alert_id" UUID NOT NULL,
    "delivery_id" UUID NOT NULL,

    CONSTRAINT "delivery_alert_pkey" PRIMARY KEY ("organization_id","channel_id","alert_id")
);

-- CreateTable
CREATE TABLE "notification"."attempt" (
    "organization_id" UUID NOT NULL,
    "delivery_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "duration_ms" INTEGER,
    "outcome" TEXT,
    "status_code" INTEGER,
    "answer" TEXT,

    CONSTRAINT "attempt_pkey" PRIMARY KEY ("organization_id","delivery_id","number")
);

-- CreateTable
CREATE TABLE "policy"."policy_set_assignment" (
    "organization_id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "assigned_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "policy_set_assignment_pkey" PRIMARY KEY ("organization_id","vault_id")
);

-- CreateTable
CREATE TABLE "registry"."vault" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "offline_after_seconds" INTEGER,
    "maintenance_until" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deleted_at" TIMESTAMPTZ(3),
    "revision" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "vault_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "registry"."agent" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "vault_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "enrolled_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revoked_at" TIMESTAMPTZ(3),
    "revocation_reason" TEXT,
    "deleted_at" TIMESTAMPTZ(3),
    "serial_number" TEXT NOT NULL,
    "not_before" TIMESTAMPTZ(3) NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "agent_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "registry"."certificate" (
    "organization_id" UUID NOT NULL,
    "agent_id" UUID NOT NULL,
    "serial_number" TEXT NOT NULL,
    "not_before" TIMESTAMPTZ(3) NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "issued_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revoked_at" TIMESTAMPTZ(3),

    CONSTRAINT "certificate_pkey" PRIMARY KEY ("organization_id","serial_number")
);

-- CreateTable
CREATE TABLE "registry"."enrollment_token" (
    "organization_id" UUID NOT NULL,
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "prefix" TEXT NOT NULL,
    "hash" BYTEA NOT NULL,
    "vault_name" TEXT,
    "tags" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "max_uses" INTEGER NOT NULL,
    "uses" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "revoked_at" TIMESTAMPTZ(3),

    CONSTRAINT "enrollment_token_pkey" PRIMARY KEY ("organization_id","id")
);

-- CreateTable
CREATE TABLE "registry"."certificate_authority" (
    "generation" INTEGER NOT NULL,
    "certificate" TEXT NOT NULL,
    "sealed_key" BYTEA,
    "kind" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "certificate_authority_pkey" PRIMARY KEY ("generation")
);

-- CreateIndex
CREATE INDEX "vault_hour_hour_idx" ON "analytics"."vault_hour"("hour");

-- CreateIndex
CREATE UNIQUE INDEX "person_email_key" ON "auth"."person"("email");

-- CreateIndex
CREATE INDEX "member_person_id_idx" ON "auth"."member"("person_id");

-- CreateIndex
CREATE INDEX "member_invitation_hash_idx" ON "auth"."member"("invitation_hash");

-- CreateIndex
CREATE UNIQUE INDEX "member_organization_id_email_key" ON "auth"."member"("organization_id", "email");

-- CreateIndex
CREATE UNIQUE INDEX "member_organization_id_person_id_key" ON "auth"."member"("organization_id", "person_id");

-- CreateIndex
CREATE INDEX "session_organization_id_member_id_idx" ON "auth"."session"("organization_id", "member_id");

-- CreateIndex
CREATE INDEX "session_expires_at_idx" ON "auth"."session"("expires_at");

-- CreateIndex
CREATE INDEX "api_key_organization_id_created_at_id_idx" ON "auth"."api_key"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "api_key_hash_idx" ON "auth"."api_key"("hash");

-- CreateIndex
CREATE INDEX "audit_event_organization_id_at_id_idx" ON "auth"."audit_event"("organization_id", "at", "id");

-- CreateIndex
CREATE INDEX "idempotency_record_created_at_idx" ON "auth"."idempotency_record"("created_at");

-- CreateIndex
CREATE INDEX "outbox_topic_available_at_id_idx" ON "messaging"."outbox"("topic", "available_at", "id");

-- CreateIndex
CREATE INDEX "agent_liveness_organization_id_vault_id_idx" ON "monitoring"."agent_liveness"("organization_id", "vault_id");

-- CreateIndex
CREATE INDEX "agent_due_due_at_idx" ON "monitoring"."agent_due"("due_at");

-- CreateIndex
CREATE INDEX "agent_report_organization_id_version_agent_id_idx" ON "monitoring"."agent_report"("organization_id", "version", "agent_id");

-- CreateIndex
CREATE INDEX "agent_hour_organization_id_vault_id_hour_idx" ON "monitoring"."agent_hour"("organization_id", "vault_id", "hour");

-- CreateIndex
CREATE INDEX "agent_hour_hour_idx" ON "monitoring"."agent_hour"("hour");

-- CreateIndex
CREATE INDEX "outage_organization_id_opened_at_id_idx" ON "monitoring"."outage"("organization_id", "opened_at", "id");

-- CreateIndex
CREATE INDEX "outage_organization_id_vault_id_opened_at_idx" ON "monitoring"."outage"("organization_id", "vault_id", "opened_at");

-- CreateIndex
CREATE UNIQUE INDEX "outage_organization_id_agent_id_silent_since_key" ON "monitoring"."outage"("organization_id", "agent_id", "silent_since");

-- CreateIndex
CREATE INDEX "alert_organization_id_opened_at_id_idx" ON "monitoring"."alert"("organization_id", "opened_at", "id");

-- CreateIndex
CREATE INDEX "alert_organization_id_resolved_at_id_idx" ON "monitoring"."alert"("organization_id", "resolved_at", "id");

-- CreateIndex
CREATE INDEX "alert_organization_id_vault_id_opened_at_idx" ON "monitoring"."alert"("organization_id", "vault_id", "opened_at");

-- CreateIndex
CREATE UNIQUE INDEX "threshold_rule_organization_id_tag_key" ON "monitoring"."threshold_rule"("organization_id", "tag");

-- CreateIndex
CREATE INDEX "agent_event_organization_id_agent_id_received_at_id_idx" ON "monitoring"."agent_event"("organization_id", "agent_id", "received_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "agent_event_organization_id_agent_id_boot_id_sequence_key" ON "monitoring"."agent_event"("organization_id", "agent_id", "boot_id", "sequence");

-- CreateIndex
CREATE INDEX "live_event_organization_id_transaction_id_id_idx" ON "monitoring"."live_event"("organization_id", "transaction_id", "id");

-- CreateIndex
CREATE INDEX "live_event_at_idx" ON "monitoring"."live_event"("at");

-- CreateIndex
CREATE INDEX "deafness_ended_at_idx" ON "monitoring"."deafness"("ended_at");

-- CreateIndex
CREATE UNIQUE INDEX "deafness_gateway_id_started_at_key" ON "monitoring"."deafness"("gateway_id", "started_at");

-- CreateIndex
CREATE INDEX "channel_organization_id_created_at_id_idx" ON "notification"."channel"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "recipient_confirmation_token_hash_idx" ON "notification"."recipient_confirmation"("token_hash");

-- CreateIndex
CREATE INDEX "subscription_organization_id_created_at_id_idx" ON "notification"."subscription"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "subscription_channel_organization_id_channel_id_idx" ON "notification"."subscription_channel"("organization_id", "channel_id");

-- CreateIndex
CREATE INDEX "delivery_organization_id_created_at_id_idx" ON "notification"."delivery"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "delivery_organization_id_channel_id_status_idx" ON "notification"."delivery"("organization_id", "channel_id", "status");

-- CreateIndex
CREATE INDEX "delivery_alert_organization_id_delivery_id_idx" ON "notification"."delivery_alert"("organization_id", "delivery_id");

-- CreateIndex
CREATE INDEX "delivery_alert_organization_id_alert_id_idx" ON "notification"."delivery_alert"("organization_id", "alert_id");

-- CreateIndex
CREATE INDEX "vault_organization_id_created_at_id_idx" ON "registry"."vault"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "vault_name_order" ON "registry"."vault"("organization_id", "name", "id");

-- CreateIndex
CREATE INDEX "vault_organization_id_updated_at_id_idx" ON "registry"."vault"("organization_id", "updated_at", "id");

-- CreateIndex
CREATE INDEX "vault_tags_idx" ON "registry"."vault" USING GIN ("tags");

-- CreateIndex
CREATE INDEX "agent_organization_id_vault_id_id_idx" ON "registry"."agent"("organization_id", "vault_id", "id");

-- CreateIndex
CREATE INDEX "agent_organization_id_name_id_idx" ON "registry"."agent"("organization_id", "name", "id");

-- CreateIndex
CREATE INDEX "agent_organization_id_enrolled_at_id_idx" ON "registry"."agent"("organization_id", "enrolled_at", "id");

-- CreateIndex
CREATE INDEX "certificate_organization_id_agent_id_idx" ON "registry"."certificate"("organization_id", "agent_id");

-- CreateIndex
CREATE INDEX "certificate_expires_at_idx" ON "registry"."certificate"("expires_at");

-- CreateIndex
CREATE INDEX "enrollment_token_organization_id_created_at_id_idx" ON "registry"."enrollment_token"("organization_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "enrollment_token_hash_idx" ON "registry"."enrollment_token"("hash");

-- AddForeignKey
ALTER TABLE "auth"."member" ADD CONSTRAINT "member_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "auth"."organization"("organization_id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "auth"."member" ADD CONSTRAINT "member_person_id_fkey" FOREIGN KEY ("person_id") REFERENCES "auth"."person"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "auth"."session" ADD CONSTRAINT "session_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "auth"."organization"("organization_id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "auth"."session" ADD CONSTRAINT "session_organization_id_member_id_fkey" FOREIGN KEY ("organization_id", "member_id") REFERENCES "auth"."member"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "auth"."api_key" ADD CONSTRAINT "api_key_organization_id_fkey" FOREIGN KEY ("organization_id") REFERENCES "auth"."organization"("organization_id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."agent_liveness" ADD CONSTRAINT "agent_liveness_organization_id_agent_id_fkey" FOREIGN KEY ("organization_id", "agent_id") REFERENCES "registry"."agent"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."agent_report" ADD CONSTRAINT "agent_report_organization_id_agent_id_fkey" FOREIGN KEY ("organization_id", "agent_id") REFERENCES "registry"."agent"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."outage" ADD CONSTRAINT "outage_organization_id_agent_id_fkey" FOREIGN KEY ("organization_id", "agent_id") REFERENCES "registry"."agent"("organization_id", "id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."outage" ADD CONSTRAINT "outage_organization_id_vault_id_fkey" FOREIGN KEY ("organization_id", "vault_id") REFERENCES "registry"."vault"("organization_id", "id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."alert" ADD CONSTRAINT "alert_organization_id_vault_id_fkey" FOREIGN KEY ("organization_id", "vault_id") REFERENCES "registry"."vault"("organization_id", "id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "monitoring"."alert_agent" ADD CONSTRAINT "alert_agent_organization_id_alert_id_fkey" FOREIGN KEY ("organization_id", "alert_id") REFERENCES "monitoring"."alert"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "notification"."subscription_channel" ADD CONSTRAINT "subscription_channel_organization_id_subscription_id_fkey" FOREIGN KEY ("organization_id", "subscription_id") REFERENCES "notification"."subscription"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "notification"."subscription_channel" ADD CONSTRAINT "subscription_channel_organization_id_channel_id_fkey" FOREIGN KEY ("organization_id", "channel_id") REFERENCES "notification"."channel"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "notification"."delivery" ADD CONSTRAINT "delivery_organization_id_channel_id_fkey" FOREIGN KEY ("organization_id", "channel_id") REFERENCES "notification"."channel"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "notification"."delivery_alert" ADD CONSTRAINT "delivery_alert_organization_id_delivery_id_fkey" FOREIGN KEY ("organization_id", "delivery_id") REFERENCES "notification"."delivery"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "notification"."attempt" ADD CONSTRAINT "attempt_organization_id_delivery_id_fkey" FOREIGN KEY ("organization_id", "delivery_id") REFERENCES "notification"."delivery"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "registry"."agent" ADD CONSTRAINT "agent_organization_id_vault_id_fkey" FOREIGN KEY ("organization_id", "vault_id") REFERENCES "registry"."vault"("organization_id", "id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "registry"."certificate" ADD CONSTRAINT "certificate_organization_id_agent_id_fkey" FOREIGN KEY ("organization_id", "agent_id") REFERENCES "registry"."agent"("organization_id", "id") ON DELETE CASCADE ON UPDATE CASCADE;

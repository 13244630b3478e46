-- Whom a rollout aimed at: vaults that come later are among them.

-- AlterTable
ALTER TABLE "policy"."rollout" ADD COLUMN "target" JSONB;

CREATE INDEX rollout_standing ON policy.rollout (organization_id, finished_at)
  WHERE state = 'completed' AND target IS NOT NULL;

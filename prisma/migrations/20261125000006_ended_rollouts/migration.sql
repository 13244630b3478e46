-- How far the agents were when a rollout ended: nobody counts them again.

-- AlterTable
ALTER TABLE "policy"."rollout" ADD COLUMN "final_counts" JSONB;

ALTER TABLE policy.rollout ADD CONSTRAINT rollout_final_counts
  CHECK (final_counts IS NULL OR finished_at IS NOT NULL);

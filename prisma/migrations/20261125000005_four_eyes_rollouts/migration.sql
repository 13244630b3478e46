-- Where an organization asks for four eyes, a rollout waits for a second person.

-- AlterTable
ALTER TABLE "auth"."organization" ADD COLUMN "four_eyes" BOOLEAN NOT NULL DEFAULT false;

-- AlterTable
ALTER TABLE "auth"."api_key" ADD COLUMN "made_by_id" TEXT;

-- AlterTable
ALTER TABLE "policy"."rollout" ADD COLUMN "begun_by_id" TEXT,
ADD COLUMN "approved_by_id" TEXT,
ADD COLUMN "approved_by" TEXT,
ADD COLUMN "approved_at" TIMESTAMPTZ(3);

-- Nobody is their own second person, and what nobody has approved goes nowhere.
ALTER TABLE policy.rollout ADD CONSTRAINT rollout_second_person
  CHECK (approved_by_id IS NULL OR (begun_by_id IS NOT NULL AND approved_by_id <> begun_by_id));

DROP INDEX policy.rollout_under_way;
CREATE UNIQUE INDEX rollout_under_way ON policy.rollout (organization_id, set_id)
  WHERE state IN ('awaiting_approval', 'running', 'paused', 'halted');

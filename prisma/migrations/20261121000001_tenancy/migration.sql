-- Tenancy below the query. Services log in as members of keystead_service, which owns nothing and
-- cannot bypass row-level security. The few duties that must look across organizations log in as
-- members of keystead_across. Both are groups without a login, so that several installations can
-- live on one server with logins of their own.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'keystead_service') THEN
    CREATE ROLE keystead_service NOLOGIN NOINHERIT NOBYPASSRLS;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'keystead_across') THEN
    CREATE ROLE keystead_across NOLOGIN NOINHERIT NOBYPASSRLS;
  END IF;
EXCEPTION
  -- Two installations that migrate at once meet here, and one of them creates the role.
  WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT USAGE ON SCHEMA auth, registry, monitoring, policy, analytics, notification, messaging
  TO keystead_service, keystead_across;

CREATE SCHEMA tenancy;

-- Puts a table of tenants under the one rule. Every migration that adds a table calls it.
CREATE PROCEDURE tenancy.protect(target regclass) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
  EXECUTE format(
    'CREATE POLICY own_organization ON %s TO keystead_service
       USING (organization_id = nullif(current_setting(''app.organization_id'', true), '''')::uuid)
       WITH CHECK (organization_id = nullif(current_setting(''app.organization_id'', true), '''')::uuid)',
    target);
  EXECUTE format(
    'CREATE POLICY across_organizations ON %s TO keystead_across USING (true) WITH CHECK (true)',
    target);
  EXECUTE format(
    'GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO keystead_service, keystead_across', target);
END
$$;

CALL tenancy.protect('auth.organization');
CALL tenancy.protect('auth.member');
CALL tenancy.protect('auth.session');
CALL tenancy.protect('auth.api_key');
CALL tenancy.protect('auth.audit_event');
CALL tenancy.protect('auth.idempotency_record');
CALL tenancy.protect('registry.vault');
CALL tenancy.protect('registry.agent');
CALL tenancy.protect('registry.certificate');
CALL tenancy.protect('registry.enrollment_token');
CALL tenancy.protect('monitoring.agent_liveness');
CALL tenancy.protect('monitoring.agent_due');
CALL tenancy.protect('monitoring.agent_report');
CALL tenancy.protect('monitoring.agent_boot');
CALL tenancy.protect('monitoring.agent_hour');
CALL tenancy.protect('monitoring.outage');
CALL tenancy.protect('monitoring.alert');
CALL tenancy.protect('monitoring.alert_agent');
CALL tenancy.protect('monitoring.threshold_rule');
CALL tenancy.protect('monitoring.alert_rule');
CALL tenancy.protect('monitoring.agent_event');
CALL tenancy.protect('monitoring.live_event');
CALL tenancy.protect('policy.policy_set_assignment');
CALL tenancy.protect('analytics.vault_hour');
CALL tenancy.protect('notification.channel');
CALL tenancy.protect('notification.recipient_confirmation');
CALL tenancy.protect('notification.mail_hour');
CALL tenancy.protect('notification.subscription');
CALL tenancy.protect('notification.subscription_channel');
CALL tenancy.protect('notification.delivery');
CALL tenancy.protect('notification.delivery_alert');
CALL tenancy.protect('notification.attempt');
CALL tenancy.protect('messaging.outbox');

-- What was done stays written: nobody but the owner changes or removes an audit row.
REVOKE UPDATE, DELETE ON auth.audit_event FROM keystead_service, keystead_across;

-- Tables without row-level security. A test lists them, and the list may only shrink.
GRANT SELECT, INSERT, UPDATE ON auth.person TO keystead_service, keystead_across;
GRANT SELECT, INSERT, UPDATE ON registry.certificate_authority TO keystead_across;
GRANT SELECT, INSERT, UPDATE, DELETE ON monitoring.gateway, monitoring.deafness TO keystead_across;
GRANT SELECT, INSERT, DELETE ON analytics.rolled_up_hour TO keystead_across;

GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA monitoring, messaging
  TO keystead_service, keystead_across;

-- A name belongs to one living vault of an organization, whatever its capitals.
CREATE UNIQUE INDEX vault_living_name ON registry.vault (organization_id, lower(name))
  WHERE deleted_at IS NULL;

-- One outage for one silence, and one open alert about the state of a vault, however many sweep.
CREATE UNIQUE INDEX outage_open ON monitoring.outage (organization_id, agent_id)
  WHERE closed_at IS NULL;
CREATE UNIQUE INDEX alert_open_state ON monitoring.alert (organization_id, vault_id)
  WHERE status <> 'resolved' AND kind IN ('vault.offline', 'vault.degraded');
CREATE UNIQUE INDEX alert_open_other ON monitoring.alert (organization_id, vault_id, kind)
  WHERE status <> 'resolved' AND kind NOT IN ('vault.offline', 'vault.degraded');
CREATE INDEX alert_muted ON monitoring.alert (organization_id, vault_id, muted_until)
  WHERE muted_until IS NOT NULL;
CREATE INDEX alert_calm ON monitoring.alert (calm_at) WHERE calm_at IS NOT NULL;

CREATE INDEX delivery_due ON notification.delivery (next_attempt_at)
  WHERE status IN ('collecting', 'pending', 'retrying');
CREATE UNIQUE INDEX delivery_collecting ON notification.delivery (organization_id, channel_id, kind)
  WHERE status = 'collecting';

CREATE INDEX certificate_revoked ON registry.certificate (revoked_at)
  WHERE revoked_at IS NOT NULL;

-- Room on every page for the next version of its rows, so that beats never touch an index.
ALTER TABLE monitoring.agent_liveness SET (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE monitoring.agent_due SET (fillfactor = 80, autovacuum_vacuum_cost_delay = 0);

import type { ServiceName } from '../infrastructure/infrastructure.ts';
import type { DatabaseUrls } from './database-urls.ts';
import type { InstallationKeys } from './installation-keys.ts';

export interface InstallationSettings {
  readonly databases: DatabaseUrls;
  readonly redisUrl: string;
  readonly natsUrl: (service: string) => string;
  readonly keys: InstallationKeys;
  readonly healthPorts: Readonly<Record<ServiceName, number>>;
  readonly httpHost: string;
  readonly httpPort: number;
  readonly agentPort: number;
  /** HOST:PORT that agents dial. */
  readonly agentEndpoint: string;
  readonly publicUrl: string;
  readonly smtpUrl: string;
  readonly mailFrom: string;
  readonly webhookAllow: string;
  readonly operatorEmails: string;
  readonly signUp: 'open' | 'closed';
  readonly offlineAfterSeconds: number;
  readonly logLevel: string;
  readonly trustDomain: string;
}

/**
 * What each service reads from its environment, and nothing that another one needs: no service holds
 * the owner's login, another's signing key, or, but for the registry, the key of the authority's keys.
 */
export function serviceEnvironment(
  service: ServiceName,
  settings: InstallationSettings,
): Record<string, string> {
  const { databases, keys } = settings;
  const everyone = {
    KEYSTEAD_SERVICE_DATABASE_URL: databases.serviceUrl,
    KEYSTEAD_ACROSS_DATABASE_URL: databases.acrossUrl,
    KEYSTEAD_REDIS_URL: settings.redisUrl,
    KEYSTEAD_NATS_URL: settings.natsUrl(service),
    KEYSTEAD_SIGNING_KEY_FILE: keys.signingKeyFile(service),
    KEYSTEAD_PUBLIC_KEYS_DIR: keys.publicKeysFolder,
    KEYSTEAD_INSTALLATION_KEY_FILE: keys.installationKeyFile,
    KEYSTEAD_HEALTH_PORT: String(settings.healthPorts[service]),
    KEYSTEAD_LOG_LEVEL: settings.logLevel,
    KEYSTEAD_TRUST_DOMAIN: settings.trustDomain,
    KEYSTEAD_OFFLINE_AFTER_SECONDS: String(settings.offlineAfterSeconds),
  };
  const own: Partial<Record<ServiceName, Record<string, string>>> = {
    gateway: {
      KEYSTEAD_HTTP_PORT: String(settings.httpPort),
      KEYSTEAD_HTTP_HOST: settings.httpHost,
      KEYSTEAD_AGENT_PORT: String(settings.agentPort),
      KEYSTEAD_AGENT_ENDPOINT: settings.agentEndpoint,
      KEYSTEAD_PUBLIC_URL: settings.publicUrl,
    },
    auth: { KEYSTEAD_SIGN_UP: settings.signUp },
    'vault-registry': {
      KEYSTEAD_CA_KEY_FILE: keys.certificateAuthorityKeyFile,
      KEYSTEAD_AGENT_ENDPOINT: settings.agentEndpoint,
    },
    notification: {
      KEYSTEAD_SMTP_URL: settings.smtpUrl,
      KEYSTEAD_MAIL_FROM: settings.mailFrom,
      KEYSTEAD_WEBHOOK_ALLOW: settings.webhookAllow,
      KEYSTEAD_PUBLIC_URL: settings.publicUrl,
      KEYSTEAD_OPERATOR_EMAILS: settings.operatorEmails,
    },
  };
  return { ...everyone, ...own[service] };
}

/** The agent's HTTP put together: from its configuration and its vault to a server that listens. */
import { createSecretKey } from 'node:crypto';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import { type Logger, pino } from 'pino';
import type { Registry } from 'prom-client';
import { accessLimits } from './access/access-limits.ts';
import { Allowance } from './access/allowance.ts';
import { type AuthenticationMethods, Authenticator } from './access/authenticator.ts';
import { CertificateRules } from './access/client-certificate.ts';
import { GuessGuard } from './access/guess-guard.ts';
import { readKeySet, TokenIssuer } from './access/token-issuer.ts';
import { destinationsOf } from './audit/forwarding/named-destinations.ts';
import {
  type Configuration,
  ConfigurationError,
  durationMs,
  type LoadedConfiguration,
} from './configuration.ts';
import type { GuardedVault } from './guarded-vault.ts';
import { CursorSeal } from './http/cursor-seal.ts';
import { serveDocs } from './http/docs.http.ts';
import { type HealthSource, serveHealth } from './http/health.http.ts';
import { httpLimits } from './http/http-limits.ts';
import { HttpServer, type TlsFiles } from './http/http-server.ts';
import { serveOperations } from './http/operations.http.ts';
import { RequestMetrics } from './http/request-metrics.ts';
import { readRevocationLists } from './http/revocation-lists.ts';
import { type ReadVariable, sqlOptionsOf } from './key-management.ts';
import { readNamedFile } from './named-file.ts';

export interface AgentHttpOptions {
  loaded: LoadedConfiguration;
  guarded: GuardedVault;
  source: HealthSource;
  registry: Registry;
  log: Logger;
  /** Of each lock against guessing. */
  onLock: (kind: 'address' | 'key', guesses: number, keyPrefix: string | undefined) => void;
}

export class AgentHttp {
  readonly #server: HttpServer;
  readonly #authenticator: Authenticator;
  readonly #allowance: Allowance;
  readonly #attempts: Allowance;
  readonly #crowd: Allowance;
  readonly #log: Logger;

  /** @throws ConfigurationError where a file that is named cannot be read */
  constructor(options: AgentHttpOptions) {
    const { loaded, guarded, registry, log } = options;
    const { monitoring, server } = loaded.configuration;
    this.#log = log;
    this.#server = new HttpServer({
      tls: tlsFilesOf(loaded),
      bodyMaxBytes: apiLimits.bodyMaxBytes,
      log,
    });
    const { app } = this.#server;
    const limits = {
      burstSeconds: httpLimits.burstSeconds,
      namesMax: httpLimits.identitiesCounted,
    };
    this.#allowance = new Allowance({
      perSecond: server.rate_limit.requests_per_second,
      ...limits,
    });
    this.#attempts = new Allowance({ perSecond: server.rate_limit.attempts_per_second, ...limits });
    this.#crowd = new Allowance({
      perSecond: crowdOf(server.rate_limit.attempts_per_second),
      ...limits,
      namesMax: accessLimits.networksCountedMax,
    });
    this.#authenticator = new Authenticator({
      book: guarded.book,
      guard: new GuessGuard(),
      methods: methodsOf(loaded, log),
      record: (fact) => guarded.trail.record(fact),
      attempts: this.#attempts,
      crowd: this.#crowd,
      now: Date.now,
      onLock: options.onLock,
    });
    const metrics = new RequestMetrics(
      registry,
      () =>
        new Promise<number>((resolve) =>
          app.server.getConnections((error, count) => resolve(error ? 0 : count)),
        ),
    );
    guarded.door.onSettled(metrics.settled);
    serveHealth(this.#server, {
      source: options.source,
      registry,
      metricsPath: monitoring.metrics_enabled ? monitoring.prometheus_endpoint : undefined,
    });
    serveDocs(this.#server);
    serveOperations(guarded.handlers(), {
      server: this.#server,
      authenticator: this.#authenticator,
      door: guarded.door,
      allowance: this.#allowance,
      cursors: new CursorSeal(createSecretKey(guarded.vault.keys.derive('cursor').bytes)),
      idempotency: guarded.idempotency,
      metrics,
    });
  }

  /** Answers the port in use. @throws PortTaken */
  listen(host: string, port: number): Promise<number> {
    return this.#server.listen(host, port);
  }

  /** What can be changed while requests are answered. @throws ConfigurationError */
  reload(loaded: LoadedConfiguration): void {
    const tls = tlsFilesOf(loaded);
    const methods = methodsOf(loaded, this.#log);
    if (tls !== undefined) this.#server.renewTls(tls);
    this.#authenticator.methods = methods;
    const { rate_limit: rates } = loaded.configuration.server;
    this.#allowance.perSecond = rates.requests_per_second;
    this.#attempts.perSecond = rates.attempts_per_second;
    this.#crowd.perSecond = crowdOf(rates.attempts_per_second);
  }

  /** Of each identity. */
  set requestsPerSecond(perSecond: number) {
    this.#allowance.perSecond = perSecond;
  }

  close(withinMs?: number): Promise<void> {
    return this.#server.close(withinMs);
  }
}

const crowdOf = (attemptsPerSecond: number) => httpLimits.crowd * attemptsPerSecond;

/** Also what the file alone does not tell: that what it names is there and readable. @throws ConfigurationError */
export function checkConfiguration(loaded: LoadedConfiguration, readVariable: ReadVariable): void {
  const { storage } = loaded.configuration;
  tlsFilesOf(loaded);
  methodsOf(loaded, pino({ level: 'silent' }));
  sqlOptionsOf(storage, loaded.locate, readVariable);
  destinationsOf(loaded, readVariable);
}

function tlsFilesOf({ configuration, locate }: LoadedConfiguration): TlsFiles | undefined {
  const { tls } = configuration.server;
  if (!tls.enabled) return undefined;
  const read = (file: string) => readNamed('server.tls', locate(file));
  return {
    certificate: read(tls.cert_file ?? ''),
    key: read(tls.key_file ?? ''),
    clientCa:
      tls.ca_file !== undefined && configuration.authentication.methods.includes('certificate')
        ? read(tls.ca_file)
        : undefined,
    clientCrl: tls.crl_file === undefined ? undefined : readLists(locate(tls.crl_file)),
    minVersion: tls.min_version === '1.3' ? 'TLSv1.3' : 'TLSv1.2',
  };
}

function readLists(file: string): string[] {
  try {
    return readRevocationLists(readNamed('server.tls', file));
  } catch (error) {
    if (error instanceof ConfigurationError) throw error;
    throw new ConfigurationError([`server.tls: ${file} ${(error as Error).message}`]);
  }
}

function readNamed(section: string, file: string): Buffer {
  try {
    return readNamedFile(file);
  } catch (error) {
    throw new ConfigurationError([`${section}: ${(error as Error).message}`]);
  }
}

function methodsOf(loaded: LoadedConfiguration, log: Logger): AuthenticationMethods {
  const { authentication, server } = loaded.configuration;
  const { methods, jwt, certificate } = authentication;
  if (methods.includes('jwt') && jwt === undefined) {
    log.warn('tokens are a way in, but authentication.jwt names no issuer: none is accepted');
  }
  const byCertificate = methods.includes('certificate');
  if (byCertificate && (!server.tls.enabled || server.tls.ca_file === undefined)) {
    log.warn('certificates are a way in, but need server.tls with a ca_file: none is accepted');
  }
  return {
    apiKeys: methods.includes('api_key'),
    issuers: methods.includes('jwt')
      ? (jwt?.issuers ?? []).map((issuer) => issuerOf(issuer, loaded))
      : [],
    certificates: byCertificate ? new CertificateRules(certificate?.identities ?? []) : undefined,
  };
}

type Issuer = NonNullable<Configuration['authentication']['jwt']>['issuers'][number];

function issuerOf(issuer: Issuer, { configuration, locate }: LoadedConfiguration): TokenIssuer {
  const { authentication } = configuration;
  return new TokenIssuer({
    issuer: issuer.issuer,
    audience: typeof issuer.audience === 'string' ? [issuer.audience] : issuer.audience,
    keys:
      issuer.jwks_url === undefined
        ? { set: readKeys(locate(issuer.jwks_file ?? '')) }
        : { url: issuer.jwks_url },
    algorithms: issuer.algorithms,
    clockSkewSeconds: durationMs(issuer.clock_skew) / 1_000,
    maxAgeSeconds: durationMs(authentication.session_timeout) / 1_000,
    tokensPerSubjectMax: authentication.max_sessions_per_user,
    subjectClaim: issuer.subject_claim,
    rolesClaim: issuer.roles_claim,
    roles: issuer.roles,
    defaultRoles: issuer.default_roles,
    namespacesClaim: issuer.namespaces_claim,
    now: Date.now,
  });
}

function readKeys(file: string) {
  try {
    return readKeySet(readNamed('authentication.jwt', file));
  } catch (error) {
    if (error instanceof ConfigurationError) throw error;
    throw new ConfigurationError([`authentication.jwt: ${file} ${(error as Error).message}`]);
  }
}

/** Enrolment: from a one-time token to an identity on disk and a complete vault.yaml beside it. */
import { accessSync, constants, existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import {
  certificateFingerprint,
  enroll,
  parseEndpoint,
  parseFingerprint,
  ServerNotTrusted,
} from '@keystead/agent-protocol/link-client';
import { protocolVersion } from '@keystead/agent-protocol/services';
import { freshConfiguration } from './configuration.ts';
import { makePrivateFolder, writeDurably } from './durable-file.ts';
import { hostFacts } from './host.ts';
import { type IdentityDescription, IdentityStore } from './identity-store.ts';
import { agentVersion } from './version.ts';

export interface EnrollOptions {
  endpoint: string;
  token: string;
  caFingerprint: string;
  name?: string | undefined;
  agentName?: string | undefined;
  data: string;
  port: number;
  force: boolean;
}

/** Why there is no identity, in one line. */
export class EnrollmentRefused extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message.replaceAll(/\s+/g, ' ').slice(0, 500), options);
    this.name = 'EnrollmentRefused';
  }
}

export interface Enrolled extends IdentityDescription {
  configurationFile: string;
}

/** @throws EnrollmentRefused */
export async function enrollAgent(options: EnrollOptions): Promise<Enrolled> {
  const folder = resolve(options.data);
  const identities = new IdentityStore({
    certificate: join(folder, 'identity/agent.crt'),
    privateKey: join(folder, 'identity/agent.key'),
    root: join(folder, 'identity/root.crt'),
  });
  if (identities.exists && !options.force) {
    throw new EnrollmentRefused(
      `${folder} already holds an identity: use another folder, or --force to replace it`,
    );
  }
  // Whatever can fail here fails before the token is used.
  const { endpoint, fingerprint } = readTarget(options);
  prepareFolder(folder);
  const privateKey = await generateAgentKey();
  const response = await ask(options, endpoint, fingerprint, createCertificateRequest(privateKey));
  const described = {
    organizationId: response.organizationId,
    vaultId: response.vaultId,
    agentId: response.agentId,
    vaultName: response.vaultName,
    agentName: response.agentName,
  };
  identities.create(privateKey, response.certificateChain, response.rootCertificate, described);
  identities.load();
  const configurationFile = join(folder, 'vault.yaml');
  if (!existsSync(configurationFile) || options.force) {
    writeDurably(
      configurationFile,
      freshConfiguration({
        port: options.port,
        controlPlane: {
          endpoint: options.endpoint,
          caFingerprint: certificateFingerprint(response.rootCertificate),
          vaultName: response.vaultName,
        },
      }),
      0o600,
    );
  }
  return { ...described, configurationFile };
}

function readTarget(options: EnrollOptions) {
  try {
    return {
      endpoint: parseEndpoint(options.endpoint),
      fingerprint: parseFingerprint(options.caFingerprint),
    };
  } catch (error) {
    throw new EnrollmentRefused((error as Error).message);
  }
}

function prepareFolder(folder: string): void {
  try {
    makePrivateFolder(folder);
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw new EnrollmentRefused(`${folder} cannot be written: ${(error as Error).message}`);
  }
}

async function ask(
  options: EnrollOptions,
  endpoint: ReturnType<typeof parseEndpoint>,
  fingerprint: string,
  certificateRequest: Buffer,
) {
  try {
    return await enroll(endpoint, fingerprint, {
      version: protocolVersion,
      token: options.token.trim(),
      certificateRequest,
      vaultName: options.name ?? '',
      agentName: options.agentName ?? hostname(),
      agentVersion,
      host: hostFacts(),
    });
  } catch (error) {
    if (error instanceof ServerNotTrusted) throw new EnrollmentRefused(error.message);
    const { code, details } = error as { code?: number; details?: string };
    throw new EnrollmentRefused(
      `${meaning[code ?? -1] ?? 'the enrolment failed'}: ${details ?? String(error)}`,
    );
  }
}

/** By gRPC status. */
const meaning: Record<number, string> = {
  3: 'the control plane does not accept the request',
  4: 'the control plane did not answer in time',
  8: 'a limit is reached',
  14: 'the control plane is not available',
  16: 'the token was refused',
};

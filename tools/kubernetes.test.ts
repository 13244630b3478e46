/** The manifests as text: no cluster runs here, so everything that can be known without one is. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { type ServiceName, services } from '@keystead/contracts/operation';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { readAs, readConfigOf, variablesOf } from './configuration.ts';
import { prepareInstallation } from './prepare-installation.ts';

const root = join(import.meta.dirname, '..');
const base = join(root, 'k8s', 'base');
const overlay = join(root, 'k8s', 'overlays', 'example');

// biome-ignore lint/suspicious/noExplicitAny: manifests have a hundred shapes, and the schemas check them
type Manifest = Record<string, any>;

const documents = (file: string): Manifest[] =>
  parseAllDocuments(readFileSync(file, 'utf8'), { version: '1.1' }).map((document) => {
    expect(document.errors, file).toEqual([]);
    return document.toJSON();
  });

const yamlFiles = (folder: string) =>
  readdirSync(folder).filter((file) => file.endsWith('.yaml') && file !== 'kustomization.yaml');

const manifests = [base, overlay].flatMap((folder) =>
  yamlFiles(folder).flatMap((file) =>
    documents(join(folder, file)).map((manifest) => ({ file, folder, manifest })),
  ),
);
const inBase = manifests.filter(({ folder }) => folder === base).map(({ manifest }) => manifest);
const ofKind = (kind: string) => inBase.filter((manifest) => manifest.kind === kind);
const named = (kind: string, name: string): Manifest => {
  const found = ofKind(kind).filter(({ metadata }) => metadata.name === name);
  expect(found, `${kind} ${name}`).toHaveLength(1);
  return found[0] as Manifest;
};
const podOf = (manifest: Manifest): Manifest => manifest.spec.template;
const containerOf = (manifest: Manifest): Manifest => podOf(manifest).spec.containers[0];
const isPatch = (file: string) => file === 'more-gateways.yaml';

const settingsIn = (folder: string) =>
  Object.fromEntries(
    readFileSync(join(folder, 'settings.env'), 'utf8')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line): [string, string] => {
        const at = line.indexOf('=');
        return [line.slice(0, at), line.slice(at + 1)];
      }),
  );

describe('the schemas of Kubernetes', () => {
  test.each(
    manifests
      .filter(({ file }) => !isPatch(file))
      .map(({ file, manifest }) => [
        `${file}: ${manifest.kind} ${manifest.metadata.name}`,
        manifest,
      ]),
  )('accept %s', async (_, manifest) => {
    const { apiVersion, kind } = manifest as Manifest;
    const models = await import(/* @vite-ignore */ `kubernetes-models/${apiVersion}`);
    new models[kind](manifest).validate();
  });

  test('know every field: a misspelt one would be passed over in silence', () => {
    const whole = manifests.map(({ file, manifest }) =>
      isPatch(file) ? merge(named(manifest.kind, manifest.metadata.name), manifest) : manifest,
    );
    expect(unknownFields(whole)).toEqual([]);
  }, 60_000);

  test('would find a misspelt field', () => {
    const manifest = structuredClone(named('Deployment', 'policy'));
    containerOf(manifest).readynessProbe = {};
    expect(unknownFields([manifest])).toEqual([expect.stringContaining('readynessProbe')]);
  }, 60_000);
});

/** As a patch is laid over what it changes; lists are replaced. */
function merge(under: Manifest, over: Manifest): Manifest {
  const result = { ...under };
  for (const [name, value] of Object.entries(over)) {
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    result[name] = isObject ? merge(under[name] ?? {}, value) : value;
  }
  return result;
}

/** Checks manifests against the types, which, unlike the schemas, refuse what they do not know. */
function unknownFields(list: Manifest[]): string[] {
  const file = join(root, 'tools', 'manifests.virtual.ts');
  const source = list
    .map(
      (manifest, index) =>
        `import type { I${manifest.kind} as K${index} } from 'kubernetes-models/${manifest.apiVersion}';\n` +
        `export const m${index}: K${index} = ${JSON.stringify(manifest)};\n`,
    )
    .join('');
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    noEmit: true,
    skipLibCheck: true,
    strict: true,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.getSourceFile = (name, ...rest) =>
    name === file
      ? ts.createSourceFile(name, source, ts.ScriptTarget.ES2022)
      : getSourceFile.call(host, name, ...rest);
  host.fileExists = (name) => name === file || fileExists.call(host, name);
  host.readFile = (name) => (name === file ? source : readFile.call(host, name));
  const program = ts.createProgram([file], options, host);
  return ts
    .getPreEmitDiagnostics(program)
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}

describe('the kustomizations', () => {
  test.each([base, overlay])(
    'name every file beside them, and only what is there: %s',
    (folder) => {
      const [kustomization = {}] = documents(join(folder, 'kustomization.yaml'));
      const patches = (kustomization.patches ?? []).map(({ path }: Manifest) => path);
      const listed = [...kustomization.resources, ...patches];
      for (const path of listed) expect(existsSync(resolve(folder, path)), path).toBe(true);
      expect(listed.filter((path) => path.endsWith('.yaml')).sort()).toEqual(yamlFiles(folder));
      for (const { envs } of kustomization.configMapGenerator) {
        for (const path of envs) expect(existsSync(join(folder, path)), path).toBe(true);
      }
    },
  );

  test('run the version of package.json', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    for (const folder of [base, overlay]) {
      const [kustomization = {}] = documents(join(folder, 'kustomization.yaml'));
      expect(kustomization.images).toEqual([expect.objectContaining({ newTag: version })]);
    }
  });

  test('an overlay changes settings that the base has', () => {
    const known = Object.keys(settingsIn(base));
    for (const name of Object.keys(settingsIn(overlay))) expect(known).toContain(name);
    for (const { file, folder, manifest } of manifests) {
      if (folder === overlay && isPatch(file)) named(manifest.kind, manifest.metadata.name);
    }
  });
});

describe.each(services)('%s', (service) => {
  const deployment = named('Deployment', service);
  const pod = podOf(deployment);
  const container = containerOf(deployment);

  test('runs as nobody, on a file system it cannot change, with no rights to gain', () => {
    expect(pod.spec.securityContext).toMatchObject({
      runAsNonRoot: true,
      seccompProfile: { type: 'RuntimeDefault' },
    });
    expect(pod.spec.automountServiceAccountToken).toBe(false);
    expect(pod.spec.serviceAccountName).toBe(named('ServiceAccount', service).metadata.name);
    expect(container.securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
  });

  test('is asked for its health where it answers', () => {
    const ports = container.ports.map(({ name }: Manifest) => name);
    for (const [probe, path] of [
      ['startupProbe', '/healthz'],
      ['livenessProbe', '/healthz'],
      ['readinessProbe', '/readyz'],
    ] as const) {
      expect(container[probe].httpGet).toEqual({ path, port: 'health' });
    }
    expect(ports).toContain('health');
    expect(imageSetting('KEYSTEAD_HEALTH_PORT')).toBe(
      String(container.ports.find(({ name }: Manifest) => name === 'health').containerPort),
    );
  });

  test('has bounds, and room for its heap within them', () => {
    const { requests, limits } = container.resources;
    for (const side of [requests, limits])
      expect(Object.keys(side).sort()).toEqual(['cpu', 'memory']);
    const heap = Number(/--max-old-space-size=(\d+)/.exec(container.args.join(' '))?.[1]);
    expect(heap).toBeLessThanOrEqual(megabytes(limits.memory) * 0.8);
  });

  test('is selected by what stands for it', () => {
    const labels = pod.metadata.labels;
    expect(deployment.spec.selector.matchLabels).toEqual(labels);
    expect(named('PodDisruptionBudget', service).spec.selector.matchLabels).toEqual(labels);
    expect(named('HorizontalPodAutoscaler', service).spec.scaleTargetRef).toEqual({
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      name: service,
    });
    expect(named('HorizontalPodAutoscaler', service).spec.minReplicas).toBeGreaterThanOrEqual(2);
  });

  test('starts the program that is built', () => {
    const program = container.args.at(-1);
    expect(program).toBe(`apps/${service}/dist/main.js`);
    expect(existsSync(join(root, `apps/${service}/src/main.ts`))).toBe(true);
  });

  test('mounts its own secrets and nobody else’s', () => {
    const secrets = pod.spec.volumes.flatMap(({ secret }: Manifest) => secret?.secretName ?? []);
    expect(secrets).toEqual([
      `keystead-${service}`,
      ...(service === 'notification' ? ['keystead-mail'] : []),
    ]);
    const mounts = container.volumeMounts.map(({ name }: Manifest) => name).sort();
    expect(mounts).toEqual(pod.spec.volumes.map(({ name }: Manifest) => name).sort());
    for (const { value } of container.env) {
      expect(value ?? '/').toMatch(/^\//);
    }
  });

  test('reads every variable that it is given', () => {
    const known = variablesOf(service);
    for (const { name } of container.env) expect([...known]).toContain(readAs(name, known));
  });

  test.each([
    ['the base', settingsIn(base)],
    ['the example', { ...settingsIn(base), ...settingsIn(overlay) }],
  ])('is configured completely by %s', async (_, settings) => {
    await readConfigOf(service, environmentOf(service, container, settings));
  });
});

let secretsFolder: string;
beforeAll(() => {
  secretsFolder = mkdtempSync(join(tmpdir(), 'keystead-k8s-'));
  prepareInstallation(secretsFolder);
});
afterAll(() => rmSync(secretsFolder, { recursive: true, force: true }));

/** What the container would see, with the mounted folders where the secrets were made. */
function environmentOf(
  service: ServiceName,
  container: Manifest,
  settings: Record<string, string>,
): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const { name, value, valueFrom } of container.env) {
    if (valueFrom === undefined) {
      environment[name] = value
        .replace('/run/keystead/own', join(secretsFolder, service))
        .replace('/run/keystead/public', join(secretsFolder, 'public'));
    } else {
      const { name: map, key } = valueFrom.configMapKeyRef;
      expect(map).toBe('keystead-settings');
      expect(settings, `settings.env lacks ${key}`).toHaveProperty(key);
      environment[name] = settings[key] ?? '';
    }
  }
  if (service === 'notification') {
    delete environment.KEYSTEAD_SMTP_URL_FILE;
    environment.KEYSTEAD_SMTP_URL = 'smtp://mail.example.com';
  }
  for (const [name, value] of Object.entries(environment)) {
    if (name.endsWith('_FILE')) expect(existsSync(value), `${name}: ${value}`).toBe(true);
  }
  return environment;
}

function imageSetting(name: string): string | undefined {
  const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8');
  return new RegExp(`\\b${name}=(\\S+)`).exec(dockerfile)?.[1];
}

const megabytes = (text: string) => Number.parseInt(text, 10) * (text.endsWith('Gi') ? 1_024 : 1);

test('a Service leads to a port that its pods have', () => {
  for (const service of ofKind('Service')) {
    const target = ofKind('Deployment').filter((deployment) =>
      Object.entries(service.spec.selector).every(
        ([name, value]) => podOf(deployment).metadata.labels[name] === value,
      ),
    );
    expect(target.map(({ metadata }) => metadata.name)).toEqual(['gateway']);
    const ports = containerOf(target[0] as Manifest).ports;
    for (const { targetPort } of service.spec.ports) {
      expect(ports.map(({ name }: Manifest) => name)).toContain(targetPort);
    }
  }
});

test('no traffic is allowed but what is named, and every named pod exists', () => {
  expect(named('NetworkPolicy', 'default-deny').spec).toEqual({
    podSelector: {},
    policyTypes: ['Ingress', 'Egress'],
  });
  const pods = [...ofKind('Deployment'), ...ofKind('Job')].map((one) => podOf(one).metadata.labels);
  for (const policy of ofKind('NetworkPolicy')) {
    const { matchLabels = {}, matchExpressions = [] } = policy.spec.podSelector;
    for (const [name, value] of Object.entries(matchLabels)) {
      expect(pods.map((labels) => labels[name])).toContain(value);
    }
    for (const { key, values } of matchExpressions) {
      for (const value of values) expect(pods.map((labels) => labels[key])).toContain(value);
    }
  }
});

test('only notification goes out, and never inside', () => {
  const outside = ofKind('NetworkPolicy').filter(({ spec }) =>
    (spec.egress ?? []).some(({ to = [] }: Manifest) =>
      to.some(({ ipBlock }: Manifest) => ipBlock),
    ),
  );
  expect(outside.map(({ spec }) => spec.podSelector.matchLabels)).toEqual([
    { 'app.kubernetes.io/name': 'notification' },
  ]);
  const { except } = outside[0]?.spec.egress[0].to[0].ipBlock ?? {};
  expect(except).toEqual(
    expect.arrayContaining(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16']),
  );
});

test('the owner’s login is for the migration alone', () => {
  const users = [...ofKind('Deployment'), ...ofKind('Job')].filter((one) =>
    JSON.stringify(one).includes('keystead-migration'),
  );
  expect(users.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual(['Job migration']);
});

test('no manifest holds a secret', () => {
  expect(ofKind('Secret')).toEqual([]);
  for (const folder of [base, overlay]) {
    for (const file of readdirSync(folder)) {
      const text = readFileSync(join(folder, file), 'utf8');
      expect(text, file).not.toMatch(/BEGIN [A-Z ]*PRIVATE KEY|\w+:\/\/[^/\s]*:[^/\s]*@/);
    }
  }
});

# syntax=docker/dockerfile:1

# One image holds the seven services, the migration job and the program that makes the secrets; the
# agent has a smaller one of its own. Nothing in either is compiled for a processor but Node itself,
# so the stages that work run on the builder's own platform and only the last is per platform:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --target services -t keystead .
#   docker buildx build --platform linux/amd64,linux/arm64 --target agent -t keystead-agent .

ARG NODE_IMAGE=node:24.21.0-bookworm-slim

FROM --platform=$BUILDPLATFORM ${NODE_IMAGE} AS workspace
WORKDIR /keystead
COPY . .

# Everything, to generate and compile.
FROM workspace AS build
RUN --mount=type=cache,target=/packages npm ci --cache /packages --no-audit --no-fund
RUN npm run build

# What runs. Optional packages are accelerators for one platform, and a Node the image has already.
FROM workspace AS service-packages
RUN --mount=type=cache,target=/packages npm ci --cache /packages --no-audit --no-fund --omit=dev --omit=optional \
    -w apps/gateway -w apps/auth -w apps/vault-registry -w apps/monitoring \
    -w apps/policy -w apps/analytics -w apps/notification \
  && find . -type f -not -path '*/node_modules/*' -delete && find . -type d -empty -delete

FROM workspace AS agent-packages
RUN --mount=type=cache,target=/packages npm ci --cache /packages --no-audit --no-fund --omit=dev --omit=optional \
    -w apps/vault-agent \
  && find . -type f -not -path '*/node_modules/*' -delete && find . -type d -empty -delete

# What was compiled, and nothing else, where it stood in the workspace.
FROM build AS compiled
RUN mkdir /compiled \
  && find libs apps -path '*/node_modules' -prune -o -type f \
    \( -name package.json -o -path '*/bin/*' -o -path '*/dist/*.js' -o -path '*/dist/*.js.map' \) \
    -print0 | xargs -0 cp --parents -t /compiled \
  && cp --parents -r package.json prisma/migrations prisma/schema \
    tools/prepare-installation.ts /compiled

FROM ${NODE_IMAGE} AS runtime
ENV NODE_ENV=production
# The package manager has no business in a running container.
RUN rm -rf /usr/local/lib/node_modules /opt/yarn* /usr/local/bin/npm /usr/local/bin/npx \
    /usr/local/bin/yarn /usr/local/bin/yarnpkg /usr/local/bin/corepack
WORKDIR /keystead

FROM runtime AS agent
COPY --from=agent-packages /keystead ./
COPY --from=compiled /compiled/package.json ./
COPY --from=compiled /compiled/libs/contracts ./libs/contracts
COPY --from=compiled /compiled/libs/agent-protocol ./libs/agent-protocol
COPY --from=compiled /compiled/apps/vault-agent ./apps/vault-agent
RUN mkdir /data && chown node:node /data
VOLUME /data
USER 1000:1000
EXPOSE 8200
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8200/healthz').then((a) => process.exit(a.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "--enable-source-maps", "--disable-warning=ExperimentalWarning", "apps/vault-agent/dist/main.js"]
CMD ["run", "--config", "/data/vault.yaml"]

FROM runtime AS services
COPY --from=service-packages /keystead ./
COPY --from=compiled /compiled ./
ENV KEYSTEAD_HTTP_HOST=0.0.0.0 \
    KEYSTEAD_HTTP_PORT=8080 \
    KEYSTEAD_AGENT_LISTEN_HOST=0.0.0.0 \
    KEYSTEAD_AGENT_PORT=8443 \
    KEYSTEAD_HEALTH_HOST=0.0.0.0 \
    KEYSTEAD_HEALTH_PORT=9090
USER 1000:1000
# The API and the agent link of the gateway; the health of every service.
EXPOSE 8080 8443 9090
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=6 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.KEYSTEAD_HEALTH_PORT + '/readyz').then((a) => process.exit(a.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "--enable-source-maps"]
CMD ["apps/gateway/dist/main.js"]

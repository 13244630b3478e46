/** The line to paste on the machine of the vault. Without a vault named by the token, the host names it. */
export function enrollCommand(enrolment: {
  endpoint: string;
  token: string;
  caFingerprint: string;
  vaultName: string | null;
}): string {
  return [
    'keystead-agent enroll',
    `--endpoint ${enrolment.endpoint}`,
    `--token ${enrolment.token}`,
    `--ca-fingerprint ${enrolment.caFingerprint}`,
    ...(enrolment.vaultName === null ? ['--name "$(hostname)"'] : []),
    '--data ./vault',
  ].join(' ');
}

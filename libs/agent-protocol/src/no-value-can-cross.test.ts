import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

/**
 * Every field of the agent link that is text or bytes, with what bounds it. A value of a secret could
 * only travel in one of these, so a new one is added here by somebody who thought about it.
 */
const textFields: Record<string, string> = {
  'PolicySet.digest': 'SHA-256, hexadecimal',
  'EnrollRequest.version': 'the one protocol version',
  'EnrollRequest.token': 'the enrolment token, for the control plane itself',
  'EnrollRequest.certificate_request': 'PKCS #10; only its public key is read',
  'EnrollRequest.vault_name': 'a name that people read',
  'EnrollRequest.agent_name': 'a name that people read',
  'EnrollRequest.agent_version': 'a version',
  'EnrollResponse.organization_id': 'an id',
  'EnrollResponse.vault_id': 'an id',
  'EnrollResponse.agent_id': 'an id',
  'EnrollResponse.vault_name': 'a name that people read',
  'EnrollResponse.agent_name': 'a name that people read',
  'EnrollResponse.trust_domain': 'a DNS name',
  'EnrollResponse.certificate_chain': 'certificates',
  'EnrollResponse.root_certificate': 'a certificate',
  'AgentMessage.version': 'the one protocol version',
  'AgentMessage.vault_id': "compared with the certificate's vault",
  'AgentMessage.boot_id': 'a UUID',
  'AgentMessage.signature': 'verified; at most 384 bytes',
  'HostFacts.hostname': 'letters, digits and . _ -',
  'HostFacts.platform': '64 plain characters',
  'HostFacts.release': '64 plain characters',
  'HostFacts.architecture': '64 plain characters',
  'HostFacts.runtime': '64 plain characters',
  'Hello.agent_version': 'a version',
  'Hello.configuration_digest': 'SHA-256, hexadecimal',
  'Booted.agent_version': 'a version',
  'Booted.previous_boot_id': 'a UUID',
  'Booted.configuration_digest': 'SHA-256, hexadecimal',
  'ConfigurationChanged.previous_digest': 'SHA-256, hexadecimal',
  'ConfigurationChanged.digest': 'SHA-256, hexadecimal',
  'CertificateRenewed.previous_serial': 'hexadecimal',
  'CertificateRenewed.serial': 'hexadecimal',
  'AuditHead.chain_id': '16 random bytes',
  'AuditHead.hash': 'SHA-256',
  'AuditHead.signature': 'verified; at most 128 bytes',
  'AuditHead.signer_key': 'a public key; at most 160 bytes',
  'SecretCount.secret_ref': 'a keyed hash of 32 bytes',
  'RotationReported.namespace_ref': 'a keyed hash of 32 bytes',
  'RotationReported.secret_ref': 'a keyed hash of 32 bytes',
  'SecurityNotice.identity_ref': 'a keyed hash of 32 bytes',
  'PolicySetReported.configuration_digest': 'SHA-256, hexadecimal',
  'ReplayReported.replay_id': '16 bytes that the control plane chose',
  'ReplayDifference.decision_ref': 'a keyed hash of 32 bytes',
  'ApprovalReported.approval_id': 'a UUID of 16 bytes',
  'ApprovalReported.action': 'an action of the API: letters, - and one dot',
  'ApprovalReported.namespace_ref': 'a keyed hash of 32 bytes',
  'ApprovalReported.secret_ref': 'a keyed hash of 32 bytes',
  'ApprovalReported.other_ref': 'a keyed hash of 32 bytes',
  'ApprovalReported.requester_ref': 'a keyed hash of 32 bytes',
  'ApprovalRequirement.policy': 'an id in the set that the control plane signed',
  'ApprovalRequirement.approvers': 'names of roles in the set that the control plane signed',
  'ApprovalDecided.approver_ref': 'a keyed hash of 32 bytes',
  'ApprovalDecided.decision_id': 'a UUID of 16 bytes',
  'ApprovalAnswered.approval_id': 'a UUID of 16 bytes',
  'ApprovalAnswered.decision_id': 'a UUID of 16 bytes',
  'RenewalRequest.certificate_request': 'PKCS #10; only its public key is read',
  'ControlMessage.version': 'the one protocol version',
  'ControlMessage.vault_id': 'an id',
  'ControlMessage.signature': 'verified',
  'Receipt.boot_id': 'a UUID',
  'CertificateIssued.certificate_chain': 'certificates',
  'CertificateIssued.root_certificate': 'a certificate',
  'Command.signer_certificate': 'a certificate',
  'Command.signer_issuer': 'a certificate',
  'AssignPolicySet.signature': 'verified',
  'AssignPolicySet.signer_chain': 'certificates',
  'ReplayDecisions.replay_id': '16 bytes that the control plane chose',
  'DecideApproval.approval_id': 'a UUID of 16 bytes',
  'DecideApproval.decision_id': 'a UUID of 16 bytes',
  'DecideApproval.decision': 'what somebody decided, on its way to the agent',
  'DecideApproval.signature': 'verified',
  'DecideApproval.signer_chain': 'certificates',
  'PolicySetChunk.content': 'policies, on their way to the agent',
};

const files = ['envelope', 'enrollment', 'session'].map((name) =>
  readFileSync(
    new URL(`../../../proto/keystead/agent/v1/${name}.proto`, import.meta.url),
    'utf8',
  ).replaceAll(/\/\/.*$/gm, ''),
);

test('every text and byte field of the agent link is listed with its bound', () => {
  const found = files.flatMap((file) => {
    let message = '';
    return file.split('\n').flatMap((line) => {
      message = /^message (\w+)/.exec(line)?.[1] ?? message;
      const field = /^\s+(?:repeated )?(?:string|bytes) (\w+) = \d+/.exec(line)?.[1];
      return field === undefined ? [] : [`${message}.${field}`];
    });
  });
  expect(found.sort()).toEqual(Object.keys(textFields).sort());
});

test('there are no maps, no wrapped messages of any type, and no imports but our own', () => {
  for (const file of files) {
    expect(file).not.toMatch(/\bmap\s*</);
    expect(file).not.toMatch(/google\.protobuf/);
    for (const [, path] of file.matchAll(/^import "([^"]+)"/gm)) {
      expect(path).toMatch(/^keystead\/agent\/v1\//);
    }
  }
});

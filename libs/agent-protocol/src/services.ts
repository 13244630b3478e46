/** The two services of the agent link, as grpc-js wants them. */
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import { EnrollRequest, EnrollResponse } from './generated/keystead/agent/v1/enrollment.ts';
import { AgentMessage, ControlMessage } from './generated/keystead/agent/v1/session.ts';

/** The version of the protocol, in every envelope. */
export const protocolVersion = '1.0';

/**
 * A message of an agent together with the bytes it came in, which its signature covers.
 * `message` is undefined where the bytes are no AgentMessage: the session ends with a status of
 * its own choice instead of an internal error.
 */
export interface ReceivedAgentMessage {
  message: AgentMessage | undefined;
  bytes: Buffer;
}

/** The server's side of `SessionService.Session`: answers are written as encoded bytes. */
const sessionServerMethod = {
  path: '/keystead.agent.v1.SessionService/Session',
  requestStream: true,
  responseStream: true,
  requestSerialize: (bytes: Buffer) => bytes,
  requestDeserialize: (bytes: Buffer) => ({ message: decodeAgentMessage(bytes), bytes }),
  responseSerialize: (bytes: Buffer) => bytes,
  responseDeserialize: (bytes: Buffer) => bytes,
} as const;

export const sessionServerService = {
  session: sessionServerMethod,
} as unknown as ServiceDefinition;

/** The client's side: requests are written as encoded bytes, because some of them are signed. */
export const sessionClientMethod = {
  path: sessionServerMethod.path,
  requestStream: true,
  responseStream: true,
  requestSerialize: (bytes: Buffer) => bytes,
  requestDeserialize: (bytes: Buffer) => bytes,
  responseSerialize: (bytes: Buffer) => bytes,
  responseDeserialize: (bytes: Buffer): ReceivedControlMessage => ({
    message: ControlMessage.decode(bytes),
    bytes,
  }),
} as const;

export interface ReceivedControlMessage {
  message: ControlMessage;
  bytes: Buffer;
}

export const enrollMethod: MethodDefinition<EnrollRequest, EnrollResponse> = {
  path: '/keystead.agent.v1.EnrollmentService/Enroll',
  requestStream: false,
  responseStream: false,
  requestSerialize: (request) => asBuffer(EnrollRequest.encode(request).finish()),
  requestDeserialize: (bytes) => EnrollRequest.decode(bytes),
  responseSerialize: (response) => asBuffer(EnrollResponse.encode(response).finish()),
  responseDeserialize: (bytes) => EnrollResponse.decode(bytes),
};

/** The server's side of `EnrollmentService.Enroll`; undefined where the bytes are no request. */
export const enrollmentServerService = {
  enroll: {
    ...enrollMethod,
    requestDeserialize: (bytes: Buffer): EnrollRequest | undefined => {
      try {
        return EnrollRequest.decode(bytes);
      } catch {
        return undefined;
      }
    },
  },
} as unknown as ServiceDefinition;

function decodeAgentMessage(bytes: Buffer): AgentMessage | undefined {
  try {
    return AgentMessage.decode(bytes);
  } catch {
    return undefined;
  }
}

export function encodeAgentMessage(message: AgentMessage): Buffer {
  return asBuffer(AgentMessage.encode(message).finish());
}

export function encodeControlMessage(message: ControlMessage): Buffer {
  return asBuffer(ControlMessage.encode(message).finish());
}

/** The same memory as a Buffer: grpc-js copies it into its frame by `copy`. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

"""What the interceptor sees of a peer with a certificate, over real mutual TLS."""

import datetime
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.api.task.v1 import task_service_pb2_grpc as services
from edgenode.link.wire.channels import ChannelSettings, bind, create_server, open_channel
from edgenode.link.wire.interceptors import Peer, ServiceInterceptor

URI = "spiffe://test.example/edge/north"


class Authority:
    """Issues certificates for one test."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        self.certificate = self._sign(self.key, self.name, [], ca=True)

    def _sign(
        self, key: ec.EllipticCurvePrivateKey, name: x509.Name, alternatives: list[x509.GeneralName], *, ca: bool
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(minutes=10))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not ca)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, *alternatives: x509.GeneralName) -> tuple[bytes, bytes]:
        """(private key, certificate), PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return text, self._sign(key, x509.Name([]), list(alternatives), ca=False)


@pytest.mark.parametrize("known", [True, False])
async def test_a_peer_is_who_its_certificate_says(known: bool) -> None:
    authority = Authority()
    seen: list[Peer] = []

    class Note:
        def authorise(self, peer: Peer, method: str) -> None:
            seen.append(peer)

    class Servicer(services.TaskServiceServicer):
        async def GetTask(self, request: Any, context: Any) -> pb.GetTaskResponse:
            return pb.GetTaskResponse()

    server = create_server(ServiceInterceptor(Note()))
    services.add_TaskServiceServicer_to_server(Servicer(), server)
    identity = authority.issue(x509.DNSName("hub.test"))
    port = bind(
        server,
        "127.0.0.1:0",
        grpc.ssl_server_credentials([identity], authority.certificate, require_client_auth=True),
    )
    await server.start()
    issuer = authority if known else Authority()
    key, certificate = issuer.issue(x509.UniformResourceIdentifier(URI))
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, certificate)
    settings = ChannelSettings(server_name="hub.test")
    try:
        async with open_channel(f"127.0.0.1:{port}", credentials, settings=settings) as channel:
            call = services.TaskServiceStub(channel).GetTask(pb.GetTaskRequest(), timeout=10)
            if known:
                await call
                assert seen[0].uris == (URI,)
                assert seen[0].certificate == certificate
                assert seen[0].address.startswith("ipv4:127.0.0.1:")
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert seen == []
    finally:
        await server.stop(0)

"""`alexnet-deploy serve`."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.options import BackendOption, DeviceOption, MaxPixelsOption, ThreadsOption, read_token
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import check_exists

BundlesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[[NAME[:VERSION]=]BUNDLE]...",
        help="Bundles to serve. Default: the latest one, under its own name.",
        show_default=False,
    ),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")]
MaxDelayOption = Annotated[
    float, typer.Option(min=0, help="Longest time in milliseconds that a request waits, to run with others.")
]
QueueOption = Annotated[
    int, typer.Option(min=1, help="Most images that wait or run at a time; more are answered with 429.")
]
MaxImagesOption = Annotated[int, typer.Option(min=1, help="Most images of one request.")]
MaxBytesOption = Annotated[int, typer.Option(min=1, help="Most bytes of the body of a request.")]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Longest time in seconds to read or answer a request.")]
TokenOption = Annotated[
    Path | None,
    typer.Option(help="File with a bearer token; requests without it are answered with 401, except health checks."),
]
CertificateOption = Annotated[Path | None, typer.Option(help="TLS: file of the certificate, PEM.")]
KeyOption = Annotated[Path | None, typer.Option(help="TLS: file of its private key, PEM.")]


def serve(
    bundles: BundlesArgument = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_delay: MaxDelayOption = 2.0,
    queue: QueueOption = 512,
    max_images: MaxImagesOption = 64,
    max_bytes: MaxBytesOption = 64 << 20,
    max_pixels: MaxPixelsOption = None,
    timeout: TimeoutOption = 30.0,
    token_file: TokenOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Serve bundles over HTTP, by the Open Inference Protocol v2; ready after their proof."""
    from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
    from alexnet_deploy.core.names import latest_bundle
    from alexnet_deploy.serve.run import serve as run
    from alexnet_deploy.serve.settings import ServerLimits, ServerRequest, places_of

    for file in (token_file, tls_certificate, tls_key):
        if file is not None:
            check_exists(file, "file")
    if tls_key is not None and tls_certificate is None:
        raise UsageError("--tls-key needs --tls-certificate")
    run(
        ServerRequest(
            models=places_of(bundles or [str(latest_bundle())]),
            backend=backend,
            device=device,
            threads=threads,
            host=host,
            port=port,
            limits=ServerLimits(
                body_bytes=max_bytes,
                images=max_images,
                queued_images=queue,
                timeout_s=timeout,
                max_delay_s=max_delay / 1e3,
                decode=DEFAULT_LIMITS if max_pixels is None else DecodeLimits(max_pixels=max_pixels),
            ),
            token=None if token_file is None else read_token(token_file),
            certificate=tls_certificate,
            key=tls_key,
        )
    )

"""The server of `alexnet-deploy serve`: the Open Inference Protocol v2 over HTTP, ready only after its proof."""

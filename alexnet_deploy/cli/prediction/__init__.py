"""`alexnet-deploy predict`: what is asked for, and who does it: this process, or workers of a cluster."""

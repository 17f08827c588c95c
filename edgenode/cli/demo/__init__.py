"""`edgenode demo`: a hub, two edges and real agents on this machine; a link that is cut, a node that is killed."""

from edgenode.cli.demo.command import demo

__all__ = ["demo"]

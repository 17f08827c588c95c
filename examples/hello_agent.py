"""An agent in ten lines. Start a node (`edgenode run --state DIR`), then this with EDGENODE_STATE=DIR, then ask it:

edgenode call greet '{"name": "Ada"}' --state DIR
"""

from edgenode.sdk import Agent

agent = Agent("hello", description="Greets people")


@agent.skill(timeout=5, idempotent=True)
async def greet(name: str, greeting: str = "Hello") -> str:
    """Greets somebody by name."""
    return f"{greeting}, {name}!"


if __name__ == "__main__":
    agent.serve()

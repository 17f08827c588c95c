"""The only place where the domain meets gRPC and generated code: mapping, statuses, channels, and both ends of the link.

values    seconds and problems <-> their messages          status        errors <-> google.rpc.Status
tasks     TaskSpec, checked                                interceptors  who may call, and errors as statuses
agents    registrations and agents, checked                channels      channels, servers, addresses, health
lanes     heads, cursors, segments                         frames        link frames
driver    the gRPC driver of one link session              dialing, accepting   the two ends of a link
listening TCP listeners of loopback, and relays
"""

"""Timing rules: first calls, forward, backward, one token, memory; beside the least a device allows and beside a peer.

shapes (what is run) -> ours, peers (arguments and calls) -> gate (is it right at all?) -> timing (seconds) -> floor (the
least of them) -> report (rows as data, as a table, as a picture); `bench` walks that.
"""

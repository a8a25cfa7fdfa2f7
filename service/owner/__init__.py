"""One process that has the bundles, and a GPU if there is one, for all workers: they read HTTP, it runs the networks.

    worker ─┐                                   wire.py     messages over a socket, a write for each turn of the loop
    worker ─┼── Unix socket ── owner            message.py  what they say, and errors and texts as they can be sent
    worker ─┘   remote.py      serve.py         start.py    who starts the owner, and how a worker meets it

A worker encodes inputs, answers and speaks HTTP as ever; in place of the schedulers of its lanes are Remotes, which
hand tickets over. So the batches of the owner are made of what all workers have received.
"""

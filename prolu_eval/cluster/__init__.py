"""Workers on other machines: how they are found, lost and given work, and how files reach them.

What a worker computes is a *service* (:class:`prolu_eval.cluster.pool.Service`), which other parts
of the package have. :mod:`prolu_eval.cluster.on_ray` brings services to the nodes of a Ray cluster.
"""

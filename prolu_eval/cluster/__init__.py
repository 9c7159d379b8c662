"""Workers on other machines: finding and losing them, giving them work, and sending them files.

A worker runs a *service* (:class:`prolu_eval.cluster.pool.Service`), which other packages define.
:mod:`prolu_eval.cluster.on_ray` runs services on the nodes of a Ray cluster.
"""

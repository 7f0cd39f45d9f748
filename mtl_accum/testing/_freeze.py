"""Last import of a fork server: what the others have made is left out of every garbage collection.

A collection in a forked process would visit all of it, and so copy the memory that the processes share.
"""

import gc

gc.collect()
gc.freeze()

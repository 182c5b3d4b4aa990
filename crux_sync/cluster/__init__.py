"""Past one machine: gateways share identifies, sessions and shards over Redis; events go to streams, and to workers."""

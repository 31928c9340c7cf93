"""Acts on the host, as root: safe opens, the spool, namespaces, processes, the ledger, the journal, sync."""

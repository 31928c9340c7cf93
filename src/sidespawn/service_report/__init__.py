"""Reports on services for the verbs: side containers, use of limits, figures, journal records, and problems."""

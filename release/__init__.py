"""What makes packages and releases of a checkout: source, wheel, Debian's package, rpms, checksums, SBOM and tag."""

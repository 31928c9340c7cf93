"""Makes packages and releases from a checkout: source, wheel, Debian's package, rpms, checksums, SBOM and tag."""
